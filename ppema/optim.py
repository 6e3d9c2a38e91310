"""Optimizers, learning-rate schedules and losses that a config may name."""

from __future__ import annotations

import inspect
from typing import Any, Callable

import paddle

from .averaging import SWALR, CyclicSWALR

Classes = dict[str, Callable[..., Any]]

# All but LBFGS, which needs a closure that evaluates the loss again.
OPTIMIZERS: Classes = {
    name: getattr(paddle.optimizer, name)
    for name in (
        *("Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "Lamb", "Momentum"),
        *("NAdam", "RAdam", "RMSProp", "Rprop", "SGD"),
    )
}

# Those that change one base rate with the number of steps, and ask for nothing else.
_PADDLE_SCHEDULERS: Classes = {
    name: getattr(paddle.optimizer.lr, name)
    for name in (
        *("CosineAnnealingDecay", "CosineAnnealingWarmRestarts", "ExponentialDecay"),
        *("InverseTimeDecay", "LinearLR", "LinearWarmup", "MultiStepDecay", "NaturalExpDecay"),
        *("PolynomialDecay", "StepDecay"),
    )
}
SCHEDULERS: Classes = {**_PADDLE_SCHEDULERS, "CyclicSWALR": CyclicSWALR, "SWALR": SWALR}

LOSSES: Classes = {"CrossEntropyLoss": paddle.nn.CrossEntropyLoss}


def takes_schedule(cls: Callable[..., Any]) -> bool:
    """Return whether a schedule takes another one as its `learning_rate`, by its annotation."""
    parameter = inspect.signature(cls).parameters.get("learning_rate")
    # As text, since Python 3.9 cannot evaluate the `float | LRScheduler` of Paddle's LinearWarmup.
    return parameter is not None and "LRScheduler" in str(parameter.annotation)
