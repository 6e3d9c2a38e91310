"""Optimizers, learning-rate schedules and losses that a config may name: Paddle's own classes."""

from __future__ import annotations

from typing import Any, Callable

import paddle

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
SCHEDULERS: Classes = {
    name: getattr(paddle.optimizer.lr, name)
    for name in (
        *("CosineAnnealingDecay", "CosineAnnealingWarmRestarts", "ExponentialDecay"),
        *("InverseTimeDecay", "LinearLR", "LinearWarmup", "MultiStepDecay", "NaturalExpDecay"),
        *("PolynomialDecay", "StepDecay"),
    )
}

LOSSES: Classes = {"CrossEntropyLoss": paddle.nn.CrossEntropyLoss}
