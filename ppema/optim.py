"""Optimizers, learning-rate schedules and losses that a config may name: Paddle's own classes."""

from __future__ import annotations

from typing import Any, Callable, Optional

import paddle

# LBFGS needs a closure that evaluates the loss again, which the loop does not have.
_UNSUITED = ("LBFGS",)


def _subclasses(module: Any, base: type) -> dict[str, Callable[..., Any]]:
    return {
        name: member
        for name, member in vars(module).items()
        if isinstance(member, type) and issubclass(member, base) and member is not base
        and name not in _UNSUITED
    }


OPTIMIZERS = _subclasses(paddle.optimizer, paddle.optimizer.Optimizer)
SCHEDULERS = _subclasses(paddle.optimizer.lr, paddle.optimizer.lr.LRScheduler)
LOSSES: dict[str, Callable[..., Any]] = {"CrossEntropyLoss": paddle.nn.CrossEntropyLoss}


def make_scheduler(
    base_lr: float, scheduler: Optional[Callable[..., Any]], arguments: dict[str, Any]
) -> Any:
    """Return the schedule over `base_lr`, stepped once per optimizer step; None for a constant."""
    return None if scheduler is None else scheduler(learning_rate=base_lr, **arguments)
