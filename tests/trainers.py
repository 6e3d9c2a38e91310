"""A small data set and trainers on it, built anew for each part of a run."""

from __future__ import annotations

import numpy as np
import paddle

from ppema import ExponentialMovingAverage, LatestWeightAverage, StochasticWeightAverage
from ppema.data.dataset import ArrayDataset
from ppema.data.reader import ArrayReader
from ppema.engine.trainer import Trainer


class DropoutNet(paddle.nn.Layer):
    """A network whose forward draws random numbers and moves BN statistics."""

    def __init__(self):
        super().__init__()
        self.body = paddle.nn.Sequential(
            paddle.nn.Flatten(),
            paddle.nn.Linear(784, 16),
            paddle.nn.BatchNorm1D(16),
            paddle.nn.ReLU(),
            paddle.nn.Dropout(0.3),
            paddle.nn.Linear(16, 10),
        )

    def forward(self, image):
        return self.body(image)


def make_reader(num_samples=40, batch_size=8, shuffle=True, **place):
    random = np.random.RandomState(0)
    labels = np.arange(num_samples, dtype="int64") % 10
    images = random.randint(0, 255, [num_samples, 1, 28, 28]).astype("uint8")
    dataset = ArrayDataset(
        images=images,
        labels=labels,
        class_names=tuple("0123456789"),
        mean=127.5,
        std=127.5,
        source="made by the test",
        kind="mnist",
        digest="0" * 64,
    )
    return ArrayReader(dataset, batch_size, shuffle, drop_last=False, seed=3, **place)


def make_trainer(reader, hooks=(), num_epochs=2, network=DropoutNet, with_schedule=True, **options):
    paddle.seed(5)
    model = network()
    rate = 0.01
    scheduler = paddle.optimizer.lr.StepDecay(rate, 3) if with_schedule else None
    optimizer = paddle.optimizer.Adam(scheduler or rate, parameters=model.parameters())
    averages = {
        "ema": ExponentialMovingAverage(model, 0.9),
        "wide": ExponentialMovingAverage(model, 0.99, shadow_dtype="float64", update_every=2),
        "recomputed": ExponentialMovingAverage(model, 0.8, buffers="recompute"),
        "latest": LatestWeightAverage(model, k=2, every=3),
        "swa": StochasticWeightAverage(model, start=3, every=2),
    }
    return Trainer(
        model,
        paddle.nn.CrossEntropyLoss(),
        optimizer,
        reader,
        averages,
        hooks,
        num_epochs=num_epochs,
        lr_scheduler=scheduler,
        **{"recompute_batches": 2, **options},
    )


def bits(state):
    return {name: tensor.numpy().tobytes() for name, tensor in state.items()}


def all_bits(trainer):
    """Return every bit that a run ends with: weights and averages."""
    averages = {name: bits(a.state_dict()["shadow"]) for name, a in trainer.averages.items()}
    return {"raw": bits(trainer.model.state_dict()), **averages}
