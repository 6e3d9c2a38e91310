"""A small catalog of classes, and a good config over it, for the config tests."""

from __future__ import annotations

from typing import List, Literal, Optional, Sequence

from ppema.config import Choices


class Base:
    pass


class Average(Base):
    def __init__(
        self,
        model,
        decay: Optional[float] = None,
        update_every: int = 1,
        buffers: Literal["average", "copy"] = "average",
        exclude: Sequence[str] = (),
    ):
        pass


class Rounding:
    def __init__(self, model, bits: int = 8, seed: int = 0):
        pass


class Digits:
    def __init__(self, mode: Literal["train", "test"], dataset_dir: Optional[str] = None):
        pass


class MNIST(Digits):
    pass


def opaque(learning_rate, beta1=0.9, nesterov=False, steps: List[NotThere] = []):  # noqa: B006, F821
    pass


def anything(**arguments):
    pass


CATALOG = {
    "TrainDataset": Choices({"Digits": Digits, "MNIST": MNIST}),
    "EvalDataset": Choices({"Digits": Digits, "MNIST": MNIST}),
    "TrainReader.transforms": Choices({"Flip": opaque}, is_open=True),
    "EvalReader.transforms": Choices({"Flip": opaque}, is_open=True),
    "Model": Choices({"LeNet": anything, "Other": anything}, is_open=True),
    "Loss": Choices({"CrossEntropyLoss": anything}, is_open=True),
    "Optimizer": Choices(
        {"Adam": opaque, "SGD": opaque}, given=frozenset({"learning_rate"}), is_open=True
    ),
    "LearningRate.schedulers": Choices({"StepDecay": anything}, is_open=True),
    "Averages": Choices({"Average": Average}, given=frozenset({"model"}), base=Base),
    "Rounding": Choices({"Rounding": Rounding}, given=frozenset({"model", "seed"})),
}

GOOD = """\
epoch: 5
TrainDataset: {name: Digits, mode: train}
EvalDataset: {name: Digits, mode: test}
TrainReader: {batch_size: 64}
EvalReader: {batch_size: 250}
Model: {name: LeNet, num_classes: 10}
Loss: {name: CrossEntropyLoss}
LearningRate: {base_lr: 0.001, schedulers: []}
Optimizer:
  name: Adam
  beta1: 0.9
Averages:
  ema: {name: Average, decay: 0.999}
"""
