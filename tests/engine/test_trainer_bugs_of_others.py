"""What other trainers get wrong with averages, checkpoints and resuming, and ppema does not.

Each test names the peer and its bug; averaging/test_bugs_of_others.py has the table of all.
"""

from __future__ import annotations

import paddle
import pytest
from paddle.vision.models import LeNet
from test_resume import saving_trainer
from test_trainer import Poison
from trainers import bits, make_reader, make_trainer

from ppema import ExponentialMovingAverage, PowerFunctionEMA, StochasticWeightAverage
from ppema.checkpoint import BEST, FINAL
from ppema.engine import hooks
from ppema.engine.evaluate import RAW, choose, evaluate
from ppema.engine.run_state import MODEL_FILE, average_file, restore
from ppema.metrics import Evaluation


def stop_after(trainer, num_epochs):
    """Train the first epochs of a longer run."""
    whole, trainer.num_epochs = trainer.num_epochs, num_epochs
    trainer.train()
    trainer.num_epochs = whole


def test_every_file_of_every_checkpoint_gives_the_figures_said_of_it(tmp_path):
    # PaddleClas: .pdparams is the average though raw won, best_model's is raw though it lost.
    trainer, store = saving_trainer(tmp_path, snapshot_iter=0, num_epochs=3)
    trainer.train()
    for checkpoint in (store.linked(BEST), store.linked(FINAL)):
        found = {}
        for name in (RAW, *trainer.averages):
            model = make_trainer(make_reader()).model
            file = MODEL_FILE if name == RAW else average_file(name)
            model.set_state_dict(checkpoint.read(file))
            found[name] = evaluate(model, trainer.loss_fn, make_reader(20))
        manifest = checkpoint.manifest
        assert {name: e.as_dict() for name, e in found.items()} == manifest["metrics"]
        assert manifest["winner"] == choose(found, "best")
    assert bits(store.linked(FINAL).read(MODEL_FILE)) == bits(trainer.model.state_dict())


def test_a_worse_epoch_after_a_resume_does_not_become_the_best(tmp_path, monkeypatch):
    # PaddleClas: the best metric starts at 0 again. PaddleDetection, PaddleSeg, PaddleX likewise.
    figures = iter([Evaluation(0.9, 0.95, 0.1, 0.0), Evaluation(0.5, 0.6, 1.0, 0.0)])
    monkeypatch.setattr(hooks, "evaluate_all", lambda *_: {"ema": next(figures)})
    trainer, store = saving_trainer(tmp_path, snapshot_iter=0)
    stop_after(trainer, 1)
    resumed, store = saving_trainer(tmp_path, snapshot_iter=0)
    restore(resumed, store.newest())
    resumed.train()
    assert resumed.step == 10
    assert resumed.hooks[0].best["top1"] == 0.9
    assert store.linked(BEST).step == 5


AVERAGES = {
    "debiased": lambda model: ExponentialMovingAverage(model, 0.9998, False, debias=True),
    "debiased at every third": lambda model: ExponentialMovingAverage(
        model, 0.9, debias=True, update_every=3
    ),
    "power function": PowerFunctionEMA,
    "late swa": lambda model: StochasticWeightAverage(model, start=8),
}


def with_averages(folder):
    trainer, store = saving_trainer(folder, snapshot_iter=0)
    trainer.averages = {name: make(trainer.model) for name, make in AVERAGES.items()}
    return trainer, store


def test_averages_of_every_kind_go_on_from_a_checkpoint_bit_for_bit(tmp_path):
    # PaddleDetection: debiased weights are loaded as if they were not, and debiased again.
    # FastVideo: an average that starts later is lost when resumed.
    straight, _ = with_averages(tmp_path / "straight")
    straight.train()
    first, _ = with_averages(tmp_path / "resumed")
    stop_after(first, 1)
    resumed, store = with_averages(tmp_path / "resumed")
    restore(resumed, store.newest())
    for name, average in resumed.averages.items():
        saved = bits(first.averages[name].averaged_state_dict())
        assert bits(average.averaged_state_dict()) == saved
    resumed.train()
    for name, average in resumed.averages.items():
        expected = bits(straight.averages[name].averaged_state_dict())
        assert bits(average.averaged_state_dict()) == expected


def test_the_schedule_counts_updates_not_steps_of_the_learning_rate(tmp_path):
    # PaddleDetection: the average's step is set to the learning rate's last_epoch on resume.
    reader = make_reader()
    Poison(reader, steps={2, 3})
    trainer, store = saving_trainer(tmp_path, network=LeNet, non_finite="skip", snapshot_iter=0)
    trainer.reader = reader
    stop_after(trainer, 1)
    assert (trainer.lr_scheduler.last_epoch, trainer.averages["ema"].num_updates) == (5, 3)
    resumed, _ = saving_trainer(tmp_path, network=LeNet, non_finite="skip")
    restore(resumed, store.newest())
    assert (resumed.lr_scheduler.last_epoch, resumed.averages["ema"].num_updates) == (5, 3)
    assert resumed.averages["ema"].update() == min(0.9, 4 / 13)


def test_before_its_start_an_average_is_evaluated_and_saved_as_the_weights_of_now(tmp_path):
    # Lightning: until the start, validation and checkpoint have the copy of the construction.
    trainer, store = saving_trainer(tmp_path, snapshot_iter=0, num_epochs=1)
    trainer.averages = {"late": StochasticWeightAverage(trainer.model, start=100)}
    trainer.train()
    checkpoint = store.newest()
    assert checkpoint.manifest["metrics"]["late"] == checkpoint.manifest["metrics"]["raw"]
    assert bits(checkpoint.read("late.pdparams")) == bits(checkpoint.read(MODEL_FILE))


@pytest.mark.parametrize("snapshot_iter", [0, 1])
def test_evaluating_and_saving_change_nothing_of_a_run(tmp_path, snapshot_iter):
    # Keras SwapEMAWeights: after predict() the average stays in the model. QANet: after a save.
    plain = make_trainer(make_reader())
    plain.train()
    watched, _ = saving_trainer(tmp_path, snapshot_iter=snapshot_iter)
    watched.train()
    assert bits(watched.model.state_dict()) == bits(plain.model.state_dict())
    for name in ("ema", "wide", "latest", "swa"):
        shadow = watched.averages[name].state_dict()["shadow"]
        assert bits(shadow) == bits(plain.averages[name].state_dict()["shadow"])


def test_an_average_is_stepped_once_for_all_batches_of_a_step():
    # mmengine EMAHook, Keras: an update after each micro-step, also where no weight moved.
    trainer = make_trainer(make_reader(), network=LeNet, accumulate_steps=5, with_schedule=False)
    by_hand = ExponentialMovingAverage(trainer.model, 0.9)
    real_step = trainer.optimizer.step

    def step():
        real_step()
        by_hand.update()

    trainer.optimizer.step = step
    trainer.train()
    assert trainer.averages["ema"].num_updates == by_hand.num_updates == 2
    found = trainer.averages["ema"].averaged_state_dict()
    assert bits(found) == bits(by_hand.averaged_state_dict())


def test_weights_of_an_average_load_in_another_process_whatever_was_built_before(tmp_path):
    # Paddle: automatic names (linear_4.w_0) shift, and weights of the wrong layer may be loaded.
    trainer, store = saving_trainer(tmp_path, snapshot_iter=0, num_epochs=1)
    trainer.train()
    paddle.nn.Linear(3, 3)
    other, _ = saving_trainer(tmp_path)
    restore(other, store.newest())
    for name, average in trainer.averages.items():
        assert list(store.newest().read(average_file(name))) == list(trainer.model.state_dict())
        expected = bits(average.averaged_state_dict())
        assert bits(other.averages[name].averaged_state_dict()) == expected
