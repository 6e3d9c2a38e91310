"""Resuming: from any step the run ends with the very bits of the uninterrupted one."""

from __future__ import annotations

import logging

import paddle
import pytest
from paddle.vision.models import LeNet
from trainers import DropoutNet, all_bits, bits, make_reader, make_trainer

from ppema import ExponentialMovingAverage
from ppema.checkpoint import BEST, FINAL, CheckpointStore
from ppema.data import ArrayReader
from ppema.engine import hooks
from ppema.engine.hooks import CheckpointHook, EvaluateHook
from ppema.engine.record import Recorder, read_records
from ppema.engine.resume import changed_parts, find_start, is_finished, prepare_folder
from ppema.engine.rng import rng_from_json, rng_to_json
from ppema.engine.run_state import restore
from ppema.engine.snapshots import SnapshotHook
from ppema.engine.trainer import Hook
from ppema.errors import CheckpointError, ConfigError, NonFiniteError
from ppema.metrics import Evaluation
from ppema.optim import OPTIMIZERS, spare_from_decay
from ppema.schedules import SCHEDULERS

pytestmark = pytest.mark.reliability


class Stop(Hook):
    """End the run after a step, as a crash would."""

    def __init__(self, step):
        self.step = step

    def after_step(self, trainer):
        if trainer.step == self.step:
            raise KeyboardInterrupt


def saving_trainer(folder, stop=None, num_epochs=2, snapshot_iter=1, keep=99, **options):
    """Return a trainer that evaluates and saves, and its store."""
    store = CheckpointStore(folder, keep)
    recorder = Recorder(folder, None)
    folder.mkdir(parents=True, exist_ok=True)
    evaluate = EvaluateHook(make_reader(20), recorder, "best")
    snapshots = SnapshotHook(folder / "snapshots", None)
    save = CheckpointHook(store, 1, snapshot_iter, {}, evaluate, snapshots)
    hooks = [evaluate, snapshots, save] + ([Stop(stop)] if stop else [])
    return make_trainer(make_reader(), hooks, num_epochs=num_epochs, **options), store


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    trainer, _ = saving_trainer(tmp_path_factory.mktemp("straight"))
    trainer.train()
    return all_bits(trainer), trainer.hooks[0].best


@pytest.mark.parametrize("step", range(1, 10))
def test_a_run_stopped_at_any_step_ends_with_the_same_bits(tmp_path, uninterrupted, step):
    trainer, store = saving_trainer(tmp_path, stop=step)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    paddle.nn.Linear(2, 2)  # another process would have made other layers first
    resumed, _ = saving_trainer(tmp_path)
    paddle.seed(1234)
    restore(resumed, store.newest())
    assert resumed.step == step
    resumed.train()
    assert (all_bits(resumed), resumed.hooks[0].best) == uninterrupted


def test_a_run_that_switches_goes_on_as_if_not_stopped_between_epochs(tmp_path):
    straight, _ = saving_trainer(tmp_path / "straight", switch="ema")
    straight.train()
    for step in (4, 5, 6):
        folder = tmp_path / str(step)
        trainer, store = saving_trainer(folder, stop=step, switch="ema")
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        resumed, _ = saving_trainer(folder, switch="ema")
        restore(resumed, store.newest())
        resumed.train()
        assert all_bits(resumed) == all_bits(straight)


SCHEDULES = {
    "CyclicSWALR": {"max_lr": 0.02, "min_lr": 0.001, "start": 2, "cycle": 3},
    "SWALR": {"swa_lr": 0.001, "start": 2, "anneal": 4},
    "CosineAnnealingDecay": {"T_max": 7},
    "CosineAnnealingWarmRestarts": {"T_0": 4},
    "ExponentialDecay": {"gamma": 0.9},
    "InverseTimeDecay": {"gamma": 0.1},
    "LinearLR": {"total_steps": 8},
    "LinearWarmup": {"warmup_steps": 4, "start_lr": 0.0, "end_lr": 0.01},
    "MultiStepDecay": {"milestones": [2, 6]},
    "NaturalExpDecay": {"gamma": 0.1},
    "PolynomialDecay": {"decay_steps": 8},
    "StepDecay": {"step_size": 3},
    "CyclicLR": {"max_learning_rate": 0.02, "step_size_up": 2, "step_size_down": 5},
    "NoamDecay": {"d_model": 16, "warmup_steps": 4},
    "OneCycleLR": {"total_steps": 10, "phase_pct": 0.4},
    "PiecewiseDecay": {"boundaries": [2, 5], "values": [0.01, 0.005, 0.001]},
    # Looks after steps 2, 4, …: the run stops between two of them.
    "ReduceOnPlateau": {"every": 2, "patience": 0, "threshold": 0.5},
}


def resumed_at_step_3_equals_uninterrupted(folder, change):
    def make(name, stop=None):
        trainer, store = saving_trainer(folder / name, stop=stop, network=LeNet)
        change(trainer)
        return trainer, store

    straight, _ = make("straight")
    straight.train()
    broken, store = make("broken", stop=3)
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    resumed, _ = make("broken")
    restore(resumed, store.newest())
    resumed.train()
    return all_bits(resumed) == all_bits(straight)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_schedule_goes_on_where_it_was(tmp_path, name):
    def change(trainer):
        trainer.lr_scheduler = SCHEDULERS[name](learning_rate=0.01, **SCHEDULES[name])
        trainer.optimizer.set_lr_scheduler(trainer.lr_scheduler)

    assert resumed_at_step_3_equals_uninterrupted(tmp_path, change)


def test_a_schedule_takes_a_changed_rate_from_the_config(tmp_path):
    trainer, store = saving_trainer(tmp_path, stop=4, network=LeNet)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    resumed, _ = saving_trainer(tmp_path, network=LeNet)
    resumed.lr_scheduler.base_lr = 0.5
    restore(resumed, store.newest())
    resumed.lr_scheduler.step()
    assert resumed.lr_scheduler.last_epoch == 5
    assert resumed.optimizer.get_lr() == pytest.approx(0.05)  # StepDecay by 0.1 every 3 steps


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_on_where_it_was(tmp_path, name):
    def change(trainer):
        arguments = {"parameters": trainer.model.parameters(), "learning_rate": 0.01}
        arguments["grad_clip"] = paddle.nn.ClipGradByGlobalNorm(1.0)
        if name == "ASGD":
            arguments["batch_num"] = 2
        if name != "Rprop":
            arguments["lamb_weight_decay" if name == "Lamb" else "weight_decay"] = 0.1
            arguments.update(
                spare_from_decay(OPTIMIZERS[name], arguments, trainer.model, ["*.bias"])
            )
        trainer.lr_scheduler = None
        trainer.optimizer = OPTIMIZERS[name](**arguments)

    assert resumed_at_step_3_equals_uninterrupted(tmp_path, change)


class TwoAlike(paddle.nn.Layer):
    """Layers of one shape, which only their names tell apart."""

    ORDER = ("first", "second")

    def __init__(self):
        super().__init__()
        for name in self.ORDER:
            setattr(self, name, paddle.nn.Linear(16, 16))
        self.narrow, self.head = paddle.nn.Linear(784, 16), paddle.nn.Linear(16, 10)

    def forward(self, image):
        x = paddle.tanh(self.first(self.narrow(image.flatten(1))))
        return self.head(paddle.tanh(self.second(x)))


class TwoAlikeTheOtherWay(TwoAlike):
    ORDER = ("second", "first")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_layers_built_in_another_order_go_on_with_the_same_bits(tmp_path, name):
    """Paddle's own names of an optimizer's state would fit, and be those of the other layer."""

    def make(folder, network, stop=None):
        trainer, store = saving_trainer(folder, stop=stop, network=network)
        trainer.lr_scheduler = None
        options = {"batch_num": 2} if name == "ASGD" else {}
        trainer.optimizer = OPTIMIZERS[name](0.01, parameters=trainer.model.parameters(), **options)
        return trainer, store

    straight, _ = make(tmp_path / "straight", TwoAlike)
    straight.train()
    broken, store = make(tmp_path / "broken", TwoAlike, stop=3)
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    resumed, _ = make(tmp_path / "broken", TwoAlikeTheOtherWay)
    restore(resumed, store.newest())
    resumed.train()
    found, wanted = all_bits(resumed), all_bits(straight)
    assert {part: dict(sorted(found[part].items())) for part in found} == {
        part: dict(sorted(wanted[part].items())) for part in wanted
    }


@pytest.mark.parametrize("name", ["Momentum", "SGD", "RMSProp"])
def test_the_state_of_another_optimizer_is_refused(tmp_path, name):
    trainer, store = saving_trainer(tmp_path, num_epochs=1)
    trainer.train()
    other, _ = saving_trainer(tmp_path)
    other.optimizer = OPTIMIZERS[name](0.01, parameters=other.model.parameters())
    with pytest.raises(CheckpointError, match=r"optimizer\.pdopt: .* fit; .*moment1"):
        restore(other, store.newest())


def test_steps_left_out_in_a_row_are_counted_across_a_stop(tmp_path):
    def poisoned(stop=None):
        trainer, store = saving_trainer(
            tmp_path, stop=stop, network=LeNet, non_finite="skip", max_skips=2
        )
        batches = trainer.reader.batches

        def bad(epoch, start=0):
            for batch in batches(epoch, start):
                batch.image[:] = float("nan")
                yield batch

        trainer.reader.batches = bad
        return trainer, store

    broken, store = poisoned(stop=2)
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    resumed, _ = poisoned()
    restore(resumed, store.newest())
    with pytest.raises(NonFiniteError, match=r"step 3: .* 3 steps in a row"):
        resumed.train()


def test_an_epoch_that_ended_has_ended_with_any_batch_size(tmp_path):
    trainer, store = saving_trainer(tmp_path, num_epochs=1, snapshot_iter=0)
    trainer.reader = ArrayReader(trainer.reader.dataset, 12, False, drop_last=True, seed=3)
    trainer.train()
    assert (trainer.step, store.newest().manifest["samples"]) == (3, 36)
    resumed, _ = saving_trainer(tmp_path, num_epochs=2)
    resumed.reader = ArrayReader(resumed.reader.dataset, 4, False, drop_last=True, seed=3)
    restore(resumed, store.newest())
    assert (resumed.epoch, resumed.samples, resumed.steps_left) == (2, 0, 10)
    resumed.train()
    assert resumed.step == 13


@pytest.mark.parametrize("key", ["step", "epoch", "samples", "skips_in_a_row"])
@pytest.mark.parametrize("value", [-1, 1.5, "1", None])
def test_a_place_that_no_run_can_have_is_refused(tmp_path, key, value):
    trainer, store = saving_trainer(tmp_path, num_epochs=1)
    trainer.train()
    state = store.newest().read("state.pdstates")
    state["progress"][key] = value
    checkpoint = store.newest()
    checkpoint.read = lambda name, read=checkpoint.read: (
        state if name == "state.pdstates" else read(name)
    )
    resumed, _ = saving_trainer(tmp_path)
    with pytest.raises(CheckpointError, match=rf"does not fit \(ValueError: {key} must be a whole"):
        restore(resumed, checkpoint)


def test_non_finite_weights_are_not_saved(tmp_path):
    trainer, store = saving_trainer(tmp_path)
    trainer.model.body[2]._mean[0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"body\.2\._mean holds NaN; refusing to save"):
        trainer.hooks[2].save(trainer)
    assert store.steps() == []


def test_random_numbers_that_paddle_takes_but_does_not_give_back_are_refused(monkeypatch):
    text = rng_to_json()
    monkeypatch.setattr(paddle, "set_rng_state", lambda generators: None)
    paddle.rand([1])
    with pytest.raises(CheckpointError, match="random number generators cannot be restored"):
        rng_from_json(text)


def test_the_earlier_of_two_equal_evaluations_stays_the_best(tmp_path, monkeypatch):
    same = {"raw": Evaluation(0.5, 0.6, 1.0, 0.1), "ema": Evaluation(0.5, 0.6, 1.0, 0.1)}
    monkeypatch.setattr(hooks, "evaluate_all", lambda *_: same)
    trainer, store = saving_trainer(tmp_path, snapshot_iter=0)
    trainer.train()
    assert trainer.hooks[0].best["step"] == store.linked(BEST).step == 5
    assert trainer.hooks[0].best["average"] == "raw"


def test_snapshot_epoch_says_how_often_an_epoch_is_saved(tmp_path):
    trainer, store = saving_trainer(tmp_path, snapshot_iter=0, num_epochs=5)
    trainer.hooks[0]._is_enabled = False
    trainer.hooks[2]._snapshot_epoch = 2
    trainer.train()
    assert store.steps() == [25, 20, 10]


def test_a_float32_shadow_stands_once_in_a_checkpoint_and_a_float64_one_in_the_state(tmp_path):
    trainer, store = saving_trainer(tmp_path)
    trainer.train()
    state = store.newest().read("state.pdstates")
    assert state["averages"]["ema"]["shadow"] == {}
    wide = state["averages"]["wide"]["shadow"]
    assert set(wide) == set(trainer.averages["wide"].state_dict()["shadow"])
    assert {tensor.dtype for tensor in wide.values()} == {paddle.float64}


def test_a_new_average_starts_now_and_a_removed_one_is_dropped_with_a_line(tmp_path, caplog):
    trainer, store = saving_trainer(tmp_path, num_epochs=1)
    trainer.train()
    resumed, _ = saving_trainer(tmp_path)
    del resumed.averages["wide"]
    resumed.averages["late"] = ExponentialMovingAverage(resumed.model, 0.5)
    with caplog.at_level(logging.INFO, "ppema"):
        restore(resumed, store.newest())
    assert "average wide is not in the config any more; it is dropped" in caplog.text
    assert "average late is new; it starts from the weights of this checkpoint" in caplog.text
    late = resumed.averages["late"]
    assert late.num_updates == 0
    weight = resumed.model.state_dict()["body.1.weight"].numpy()
    assert (late.averaged_state_dict()["body.1.weight"].numpy() == weight).all()


def test_another_model_is_refused_untouched(tmp_path):
    trainer, store = saving_trainer(tmp_path, num_epochs=1)
    trainer.train()
    other, _ = saving_trainer(tmp_path, network=LeNet)
    before = all_bits(other)
    with pytest.raises(CheckpointError, match=r"model\.pdparams: 0 of 10 fit"):
        restore(other, store.newest())
    assert all_bits(other) == before


def test_the_manifest_tells_step_metrics_winner_and_best(tmp_path):
    trainer, store = saving_trainer(tmp_path)
    trainer.train()
    final, best = store.linked(FINAL), store.linked(BEST)
    assert final.step == trainer.step == 10
    assert best.step == best.manifest["best"]["step"]
    assert best.manifest["winner"] == best.manifest["best"]["average"]
    assert set(final.manifest["metrics"]) == {"raw", "ema", "wide", "recomputed", "latest", "swa"}
    roles = {name: facts["role"] for name, facts in final.manifest["files"].items()}
    assert roles == {
        "model.pdparams": "raw",
        "ema.pdparams": "average",
        "wide.pdparams": "average",
        "recomputed.pdparams": "average",
        "latest.pdparams": "average",
        "swa.pdparams": "average",
        "optimizer.pdopt": "optimizer",
        "state.pdstates": "state",
    }
    records = [r for r in read_records(tmp_path / "metrics.jsonl") if r["split"] == "eval"]
    won = max(records, key=lambda r: (r["top1"], -r["loss"], -r["step"]))
    assert (won["step"], won["average"]) == (best.step, best.manifest["winner"])


def test_only_the_newest_and_the_linked_checkpoints_stay(tmp_path):
    trainer, store = saving_trainer(tmp_path, keep=2)
    trainer.train()
    best = store.linked(BEST).step
    assert store.steps() == sorted({10, 9, best}, reverse=True)


def finished_run(folder):
    trainer, store = saving_trainer(folder, snapshot_iter=0)
    trainer.train()
    return store


def test_where_a_run_starts_depends_on_what_the_folder_holds(tmp_path):
    nothing = CheckpointStore(tmp_path / "new", 3)
    assert find_start(nothing, None, False) is None
    assert find_start(nothing, "auto", False) is None
    store = finished_run(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"holds a checkpoint \(step 10\); continue it"):
        find_start(store, None, False)
    assert find_start(store, None, True) is None
    assert find_start(store, "auto", False).step == 10
    assert find_start(store, str(store.path(10)), False).step == 10
    with pytest.raises(ConfigError, match=r"holds newer checkpoints \(step 10\)"):
        find_start(store, str(store.path(5)), False)
    assert find_start(store, str(store.path(5)), True).step == 5
    assert find_start(nothing, str(store.folder), False).step == 10
    assert find_start(store, str(store.folder), False).step == 10
    with pytest.raises(CheckpointError, match="no such run folder or checkpoint"):
        find_start(nothing, str(tmp_path / "typo"), False)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        find_start(nothing, str(tmp_path), False)
    with pytest.raises(CheckpointError, match="is a file"):
        find_start(nothing, str(store.path(5) / "model.pdparams"), False)


def test_a_longer_run_is_not_finished(tmp_path):
    checkpoint = finished_run(tmp_path).newest()
    assert is_finished(checkpoint, 1)
    assert is_finished(checkpoint, 2)
    assert not is_finished(checkpoint, 3)


def test_links_that_a_crash_left_wrong_are_put_back(tmp_path):
    store = finished_run(tmp_path)
    best = store.newest().manifest["best"]["step"]
    store.link(BEST, 10 if best == 5 else 5)
    (tmp_path / FINAL).unlink()
    prepare_folder(store, store.newest(), is_done=True)
    assert store.linked(BEST).step == best
    assert store.linked(FINAL).step == 10


def test_starting_anew_drops_the_old_run_only_once_the_new_one_is_saved(tmp_path):
    finished_run(tmp_path)
    trainer, store = saving_trainer(tmp_path, snapshot_iter=3, num_epochs=1)
    prepare_folder(store, None, is_done=False)
    assert not (tmp_path / "metrics.jsonl").exists()
    assert store.steps() == [10, 5]
    trainer.train()
    assert store.steps() == [5, 3]
    assert store.linked(BEST).step == store.linked(FINAL).step == 5
    assert store.newest().manifest["is_run_end"]


def test_a_longer_run_has_no_final_model_until_it_ends(tmp_path):
    store = finished_run(tmp_path)
    prepare_folder(store, store.newest(), is_done=False)
    assert store.linked(FINAL) is None
    assert store.linked(BEST) is not None


def test_a_part_without_evaluation_does_not_forget_the_best(tmp_path):
    first, store = saving_trainer(tmp_path, num_epochs=1)
    first.train()
    best = store.newest().manifest["best"]
    blind, store = saving_trainer(tmp_path, num_epochs=2)
    blind.hooks[0]._is_enabled = False
    restore(blind, store.newest())
    blind.train()
    assert store.newest().manifest["best"] == best
    assert store.linked(BEST).step == best["step"] == 5


def test_the_best_of_another_folder_is_not_the_best_here(tmp_path):
    first, store = saving_trainer(tmp_path / "a", num_epochs=1)
    first.train()
    second, _ = saving_trainer(tmp_path / "b")
    restore(second, store.newest(), is_own=False)
    assert second.step == 5
    assert second.hooks[0].best == {}


def test_another_class_is_named():
    saved = {"model": "LeNet", "optimizer": "AdamW", "schedule": ""}
    assert changed_parts(saved, dict(saved), ()) == set()
    with pytest.raises(CheckpointError, match="was made with AdamW, the config says Momentum; "):
        changed_parts(saved, {**saved, "optimizer": "Momentum"}, ("model", "schedule"))
    with pytest.raises(CheckpointError, match="made with no schedule, the config says StepDecay"):
        changed_parts(saved, {**saved, "schedule": "StepDecay"}, ())
    other = {**saved, "model": "MyNet", "schedule": "StepDecay"}
    assert changed_parts(saved, other, ("model", "schedule")) == {"model", "schedule"}


class CountingNet(DropoutNet):
    """A network that counts its own forward passes, in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", paddle.zeros([], "int64"))

    def forward(self, image):
        if self.training:
            self.steps += 1
        return super().forward(image)


def test_how_often_a_run_is_saved_does_not_change_its_weights(tmp_path):
    ends = []
    for snapshot_iter in (0, 1):
        trainer, _ = saving_trainer(
            tmp_path / str(snapshot_iter), snapshot_iter=snapshot_iter, network=CountingNet
        )
        trainer.train()
        ends.append(all_bits(trainer))
    assert ends[0] == ends[1]
    assert int(trainer.model.steps) == 10


def test_a_checkpoint_is_refused_while_an_average_is_applied(tmp_path):
    trainer, store = saving_trainer(tmp_path, num_epochs=1, snapshot_iter=0)
    trainer.train()
    raw = bits(trainer.model.state_dict())
    trainer.step = 99
    applied = trainer.averages["ema"].average_parameters()
    with applied, pytest.raises(RuntimeError, match="needs the raw weights"):
        trainer.hooks[2].save(trainer)
    assert bits(store.newest().read("model.pdparams")) == raw
