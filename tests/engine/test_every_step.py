"""A run stopped after any step goes on as if it had not been: everything it holds is compared."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter

import numpy as np
import paddle
import pytest
from torture_record import pending, recorded
from trainers import bits, make_reader

from ppema import (
    ExponentialMovingAverage,
    LatestWeightAverage,
    LossGate,
    PowerFunctionEMA,
    StochasticWeightAverage,
)
from ppema.averaging import schedule_state
from ppema.checkpoint import BEST, FINAL, CheckpointStore, structured_optimizer_state
from ppema.data import LoaderReader
from ppema.data.samples import UserSamples
from ppema.engine.hooks import CheckpointHook, EvaluateHook, LogHook
from ppema.engine.record import METRICS, Recorder, read_records
from ppema.engine.resume import find_start, is_finished, is_open, prepare_folder
from ppema.engine.rng import rng_to_json, seed_everything
from ppema.engine.run_state import STALE, restore
from ppema.engine.snapshots import SNAPSHOTS, SnapshotHook
from ppema.engine.stop import StopHook
from ppema.engine.trainer import Hook, Trainer
from ppema.errors import StoppedError
from ppema.stop_signals import StopSignals

pytestmark = pytest.mark.reliability

# Of two images each; two make a step, and the last step of an epoch has three images.
NUM_IMAGES, NUM_EPOCHS, STEPS_PER_EPOCH = 99, 4, 25
SHORT_IMAGES, SHORT_EPOCHS = 23, 2  # of 6 steps each


class Images(paddle.io.Dataset):
    """Images that draw from every generator that Paddle's transforms draw from."""

    class_names = tuple("0123456789")

    def __init__(self, count):
        super().__init__()
        self.count, self.stuck = count, ()

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.stuck:
            # Long enough for the trainer to have nothing to do but wait.
            time.sleep(0.3)
            os.kill(os.getppid(), signal.SIGTERM)
            time.sleep(600)
        image = np.random.RandomState(index).randint(0, 256, (1, 28, 28)).astype("uint8")
        draws = (random.random(), np.random.rand(), paddle.rand([1]).item())
        image[0, 0, :3] = [255 * draw for draw in draws]
        return image, index % 10


class Network(paddle.nn.Layer):
    """BatchNorm, dropout by Paddle's generator, and noise by NumPy's and Python's.

    SIGTERM comes in the forward pass `signal_at`: what it is for, and its number among those.
    """

    signal_at = None

    def __init__(self):
        super().__init__()
        self.first = paddle.nn.Linear(784, 12)
        self.bn = paddle.nn.BatchNorm1D(12)
        self.dropout = paddle.nn.Dropout(0.3)
        self.head = paddle.nn.Linear(12, 10)
        self.passes = Counter()

    def forward(self, image):
        is_step = self.training and paddle.is_grad_enabled()
        what = "step" if is_step else "recompute" if self.training else "evaluate"
        self.passes[what] += 1
        if self.signal_at == (what, self.passes[what]):
            signal.raise_signal(signal.SIGTERM)
        x = paddle.nn.functional.relu(self.bn(self.first(image.flatten(1))))
        if self.training:
            x = x * (1 + 0.01 * np.random.rand()) + 0.01 * random.random()
        return self.head(self.dropout(x))


class SignalAfter(Hook):
    """Let SIGTERM come in a step."""

    def __init__(self, step):
        self.step = step

    def after_step(self, trainer):
        if trainer.step == self.step:
            signal.raise_signal(signal.SIGTERM)


class StuckAfter(Hook):
    """Let no sample come after a step, from workers that are started later."""

    def __init__(self, step):
        self.step = step

    def after_step(self, trainer):
        if trainer.step == self.step:
            trainer.reader.dataset.samples.stuck = range(trainer.reader.dataset.samples.count)


def make_averages(model):
    ema = ExponentialMovingAverage
    return {
        "ema": ema(model, 0.99, schedule="threshold"),
        "power_warmup": ema(model, 0.99, schedule="power", start=4),
        "wide": ema(model, 0.9, shadow_dtype="float64", update_every=3, debias=True),
        "recomputed": ema(model, 0.8, buffers="recompute"),
        "swa": StochasticWeightAverage(model, start=5, every=2),
        "latest": LatestWeightAverage(model, k=3, every=4),
        "power": PowerFunctionEMA(model, sigma_rel=0.1, update_every=2),
    }


def make_run(folder, images, epochs, num_workers, stop=None, is_evaluated=True, snapshot_epoch=1):
    """Return the trainer of a run in `folder`, its store, and what listens to signals.

    `stop`: after a step, or in a forward pass, see `Network`.
    """
    seed_everything(5)
    model = Network()
    model.signal_at = stop
    schedule = paddle.optimizer.lr.LinearWarmup(
        paddle.optimizer.lr.CosineAnnealingDecay(0.02, 30), 7, 0.001, 0.02
    )
    dataset = UserSamples(Images(images)).load(None)
    store, signals = CheckpointStore(folder, keep=2), StopSignals()
    recorder = Recorder(folder, None)
    evaluate = EvaluateHook(make_reader(20), recorder, "best", "", is_evaluated, eval_iter=13)
    snapshots = SnapshotHook(folder / SNAPSHOTS, 5)
    save = CheckpointHook(store, snapshot_epoch, 0, {}, evaluate, snapshots)
    log = LogHook(recorder, 4, None)
    trainer = Trainer(
        model,
        paddle.nn.CrossEntropyLoss(),
        paddle.optimizer.AdamW(schedule, parameters=model.parameters(), weight_decay=0.01),
        LoaderReader(dataset, 2, shuffle=True, drop_last=False, seed=3, num_workers=num_workers),
        make_averages(model),
        [log, evaluate, snapshots, save, SignalAfter(stop), StopHook(signals, save)],
        num_epochs=epochs,
        lr_scheduler=schedule,
        accumulate_steps=2,
        recompute_batches=2,
        gate=LossGate(max_loss_ratio=1.05),
    )
    return trainer, store, signals


def live(folder, images, epochs, num_workers, stop=None, is_evaluated=True, stuck=()):
    """Go on in the folder as `-r auto` does, until a stop or to the end; return the trainer."""
    folder.mkdir(exist_ok=True)
    # As in a process of its own; what else was built before is the matter of test_resume.py.
    with paddle.utils.unique_name.guard():
        trainer, store, signals = make_run(folder, images, epochs, num_workers, stop, is_evaluated)
    trainer.reader.dataset.samples.stuck = stuck
    start = find_start(store, "auto", False)
    if start is not None:
        assert not is_finished(start, epochs)
        seed_everything(99)  # what a process of its own has drawn is not what this one had
        restore(trainer, start)
    prepare_folder(store, start, is_done=False)
    if stop is None and not stuck:
        with signals:
            trainer.train()
    else:
        with signals, pytest.raises(StoppedError) as stopped:
            trainer.train()
        assert f"stopped by SIGTERM after step {trainer.step}, which is saved" in str(stopped.value)
        assert store.newest().step == trainer.step
    return trainer


def plain(value):
    """Return a state with the bits of its tensors in their place."""
    if paddle.is_tensor(value):
        return value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def records_of(folder):
    return [{**record, "ips": None} for record in read_records(folder / METRICS)]


def everything(trainer, folder):
    """Return all that a run holds, in memory and in its record."""
    evaluate, snapshots = trainer.hooks[1:3]
    store = CheckpointStore(folder, keep=2)
    final, best = store.linked(FINAL), store.linked(BEST)
    return {
        "weights": bits(trainer.model.state_dict()),
        "optimizer": bits(structured_optimizer_state(trainer.optimizer, trainer.model)),
        "schedule": schedule_state(trainer.lr_scheduler),
        **{name: plain(average.state_dict()) for name, average in trainer.averages.items()},
        "gate": trainer.gate.state_dict(),
        "generators": rng_to_json(),
        "place": (trainer.step, trainer.epoch, trainer.samples, trainer.step_in_epoch),
        "best": evaluate.best,
        "snapshots": snapshots.facts(),
        "records": records_of(folder),
        "final": {key: final.manifest[key] for key in ("step", "best", "metrics", "winner")},
        "links": (final.step, best.step if best else None),
    }


def require_equal(found, wanted):
    assert list(found) == list(wanted)
    different = [part for part in wanted if found[part] != wanted[part]]
    assert different == []


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Return a function from images and epochs to what the uninterrupted run holds at its end."""
    done = {}

    def of(images, epochs, is_evaluated=True):
        key = images, epochs, is_evaluated
        if key not in done:
            folder = tmp_path_factory.mktemp("straight")
            trainer = live(folder, images, epochs, num_workers=0, is_evaluated=is_evaluated)
            done[key] = everything(trainer, folder)
        return done[key]

    return of


# Of 12: the first, around the end of the epoch, in and beside log intervals, the last but one.
@pytest.mark.parametrize(("step", "num_workers"), [(1, 0), (5, 2), (6, 0), (7, 2), (11, 0)])
def test_a_run_stopped_after_a_step_holds_what_the_uninterrupted_one_does(
    tmp_path, straight, step, num_workers
):
    of = SHORT_IMAGES, SHORT_EPOCHS, num_workers
    assert live(tmp_path, *of, stop=step).step == step
    trainer = live(tmp_path, *of)
    assert trainer.step == 12
    assert trainer.gate.num_left_out > 0
    require_equal(everything(trainer, tmp_path), straight(SHORT_IMAGES, SHORT_EPOCHS))


def test_the_number_of_workers_may_change_at_each_stop(tmp_path, straight):
    for num_workers, stop in ((0, 2), (2, 5), (0, 6), (1, 9), (2, None)):
        trainer = live(tmp_path, SHORT_IMAGES, SHORT_EPOCHS, num_workers, stop)
    require_equal(everything(trainer, tmp_path), straight(SHORT_IMAGES, SHORT_EPOCHS))


# Each of the eight sets of weights takes three batches, and statistics are computed on two.
RAW_WEIGHTS, AN_AVERAGE, STATISTICS, LAST_STEP = 2, 5, 1, 24


@pytest.mark.parametrize(
    ("stops", "steps"),
    [
        ([("evaluate", RAW_WEIGHTS)], [6]),
        ([("evaluate", AN_AVERAGE)], [6]),
        ([("recompute", STATISTICS)], [6]),
        ([("evaluate", LAST_STEP + AN_AVERAGE)], [12]),
        ([("recompute", 2 + STATISTICS), ("evaluate", RAW_WEIGHTS), ("evaluate", 8)], [12, 12, 12]),
        ([("evaluate", RAW_WEIGHTS), 6, ("evaluate", AN_AVERAGE)], [6, 6, 12]),
    ],
    ids=["raw", "average", "statistics", "last step", "again and again", "at every turn"],
)
def test_an_evaluation_that_a_signal_breaks_off_is_done_anew(tmp_path, straight, stops, steps):
    of = SHORT_IMAGES, SHORT_EPOCHS, 0
    for stop, step in zip(stops, steps):
        stopped = live(tmp_path, *of, stop=stop)
        assert stopped.step == step
        checkpoint = CheckpointStore(tmp_path, keep=2).newest()
        assert is_open(checkpoint) == stopped.is_open == (stop != 6)
        if stopped.is_open:
            assert checkpoint.manifest["metrics"] == {}
            assert step not in {r["step"] for r in records_of(tmp_path) if r["split"] == "eval"}
    trainer = live(tmp_path, *of)
    require_equal(everything(trainer, tmp_path), straight(SHORT_IMAGES, SHORT_EPOCHS))


def test_a_crash_once_it_is_done_leaves_no_figure_twice(tmp_path, straight, monkeypatch):
    of = SHORT_IMAGES, SHORT_EPOCHS, 0
    live(tmp_path, *of, stop=("evaluate", RAW_WEIGHTS))

    def crash(*_):
        raise RuntimeError("before the save")

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointHook, "after_step", crash)
        with pytest.raises(RuntimeError, match="before the save"):
            live(tmp_path, *of)
    trainer = live(tmp_path, *of)
    require_equal(everything(trainer, tmp_path), straight(SHORT_IMAGES, SHORT_EPOCHS))


def test_the_last_step_just_ends_the_run(tmp_path, straight):
    of = SHORT_IMAGES, SHORT_EPOCHS
    trainer, _, signals = make_run(tmp_path, *of, num_workers=0, stop=12)
    with signals:
        trainer.train()
    assert signals.received == signal.SIGTERM
    assert everything(trainer, tmp_path)["records"] == straight(*of)["records"]


@pytest.mark.parametrize("stop", [("recompute", 1), ("recompute", 3)], ids=["epoch", "last step"])
def test_statistics_that_a_signal_breaks_off_before_a_save_are_computed_anew(
    tmp_path, straight, stop
):
    of = SHORT_IMAGES, SHORT_EPOCHS
    stopped = live(tmp_path, *of, 0, stop, is_evaluated=False)
    checkpoint = CheckpointStore(tmp_path, keep=2).newest()
    assert checkpoint.manifest["files"]["recomputed.pdparams"]["role"] == STALE
    assert stopped.averages["recomputed"].is_stale
    trainer = live(tmp_path, *of, 0, is_evaluated=False)
    require_equal(everything(trainer, tmp_path), straight(*of, is_evaluated=False))


def test_a_wait_for_a_sample_that_never_comes_is_left(tmp_path, straight):
    of = SHORT_IMAGES, SHORT_EPOCHS
    assert live(tmp_path, *of, num_workers=1, stop=("step", 1)).step == 1
    assert live(tmp_path, *of, num_workers=2, stuck=[7]).step < 6
    trainer = live(tmp_path, *of, num_workers=2)
    require_equal(everything(trainer, tmp_path), straight(*of))


@pytest.mark.parametrize("snapshot_epoch", [1, 2])
def test_a_wait_for_the_first_sample_of_an_epoch_is_left(tmp_path, straight, snapshot_epoch):
    of, without = (SHORT_IMAGES, SHORT_EPOCHS), {"is_evaluated": False}
    with paddle.utils.unique_name.guard():
        made = make_run(tmp_path, *of, 1, snapshot_epoch=snapshot_epoch, **without)
    trainer, store, signals = made
    trainer.hooks.append(StuckAfter(6))
    with signals, pytest.raises(StoppedError, match="stopped by SIGTERM after step 6, which is"):
        trainer.train()
    # Where the end of the epoch was not saved, the start of the next one is.
    assert store.newest().manifest["epoch"] == snapshot_epoch
    trainer = live(tmp_path, *of, num_workers=0, **without)
    require_equal(everything(trainer, tmp_path), straight(*of, **without))


def test_before_the_first_step_there_is_nothing_to_save(tmp_path):
    trainer, store, signals = make_run(tmp_path, SHORT_IMAGES, SHORT_EPOCHS, num_workers=1)
    trainer.reader.dataset.samples.stuck = [trainer.reader._order(1)[0]]
    with signals, pytest.raises(StoppedError, match=r"^stopped by SIGTERM before the first step$"):
        trainer.train()
    assert store.steps() == []


@pytest.mark.torture
@pytest.mark.parametrize(
    ("num_workers", "step"),
    [(workers, step) for workers in (0, 2) for step in range(1, NUM_EPOCHS * STEPS_PER_EPOCH)],
)
def test_every_step(tmp_path, straight, num_workers, step):
    for case in pending("every step", [f"{num_workers} workers, step {step}"]):
        with recorded("every step", case) as figures:
            of = NUM_IMAGES, NUM_EPOCHS, num_workers
            assert live(tmp_path, *of, stop=step).step == step
            trainer = live(tmp_path, *of)
            assert trainer.step == NUM_EPOCHS * STEPS_PER_EPOCH
            require_equal(everything(trainer, tmp_path), straight(NUM_IMAGES, NUM_EPOCHS))
            figures["stops"] = 1
