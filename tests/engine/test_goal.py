"""A run that ends with the first epoch whose training images were answered well enough."""

from __future__ import annotations

import paddle
import pytest
from paddle.vision.models import LeNet
from trainers import make_reader

from ppema.engine.goal import AccuracyGoal
from ppema.engine.trainer import Hook, Trainer


class Watch(Hook):
    """Note what a hook after the goal sees of the end, after each step."""

    def __init__(self):
        self.seen = []

    def after_step(self, trainer):
        self.seen.append((trainer.epoch, trainer.is_run_end, trainer.steps_left))


@pytest.fixture
def standing(monkeypatch):
    """Return a function that trains at a rate of 0: each epoch finds the same weights."""
    paddle.seed(5)
    model, reader = LeNet(), make_reader()

    def train(goal, **options):
        watch = Watch()
        optimizer = paddle.optimizer.SGD(0.0, parameters=model.parameters())
        hooks, loss_fn = [goal, watch], paddle.nn.CrossEntropyLoss()
        trainer = Trainer(model, loss_fn, optimizer, reader, {}, hooks, num_epochs=3, **options)
        trainer.train()
        return trainer, watch.seen

    images = paddle.to_tensor(
        next(iter(make_reader(batch_size=40, shuffle=False).batches(1))).image
    )
    labels = paddle.arange(40) % 10
    train.accuracy = float((model(images).argmax(axis=1) == labels).astype("float64").mean())
    assert 0 < train.accuracy < 1
    return train


@pytest.mark.parametrize("accumulate_steps", [1, 2])
def test_an_accuracy_that_is_reached_ends_the_run_with_its_epoch(standing, accumulate_steps):
    trainer, seen = standing(AccuracyGoal(standing.accuracy), accumulate_steps=accumulate_steps)
    steps = 5 if accumulate_steps == 1 else 3
    assert trainer.step == steps
    # Until the end of the epoch, nothing is known of it.
    assert seen[0] == (1, False, 3 * steps - 1)
    assert seen[-1] == (1, True, 0)


def test_one_image_more_is_too_much_to_ask(standing, caplog):
    caplog.set_level("INFO", logger="ppema")
    trainer, seen = standing(AccuracyGoal(standing.accuracy + 1 / 40))
    assert trainer.step == 15
    assert [is_end for *_, is_end, _ in seen] == [False] * 14 + [True]
    share, goal = f"{100 * standing.accuracy:.2f} %", f"{100 * standing.accuracy + 2.5:g} %"
    assert [record.message for record in caplog.records] == [
        f"epoch 1: training accuracy {share}: the run goes on until {goal}",
        f"epoch 2: training accuracy {share}: the run goes on until {goal}",
        f"epoch 3: training accuracy {share}: {goal} was not reached in 3 epochs, and there are "
        "no more",
    ]


def test_counts_of_an_epoch_that_begins_anew_are_forgotten(standing):
    goal = AccuracyGoal(0.9)
    goal.set_state_dict({"epoch": 1, "num_images": 1000, "num_correct": 1000})
    trainer, _ = standing(goal)
    assert trainer.step == 15
    assert goal.state_dict() == {
        "epoch": 3,
        "num_images": 40,
        "num_correct": round(40 * standing.accuracy),
    }
