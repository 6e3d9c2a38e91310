"""Optimizers, gradient clips, weight decays and losses that a config may name."""

from __future__ import annotations

import fnmatch
import inspect
from typing import Any, Callable, Collection, Mapping, Sequence

import paddle

from .averaging import ArgumentError

Classes = Mapping[str, Callable[..., Any]]

NO_WEIGHT_DECAY = "no_weight_decay"
# How an optimizer asks which weights to spare: for the names of those that decay, or for the
# tensors that do not.
_DECAYED_BY_NAME = "apply_decay_param_fun"
_SPARED_BY_TENSOR = "exclude_from_weight_decay_fn"
# Filled in by what spares weights from decay.
GIVEN_TO_OPTIMIZERS = frozenset(
    {"learning_rate", "parameters", _DECAYED_BY_NAME, _SPARED_BY_TENSOR}
)

OPTIMIZER_HINTS = {
    "LBFGS": "evaluates the loss several times for one step, which the training loop does not; "
    "for a model and data this small, call it in a loop of your own",
    "Optimizer": "is the base of all others; name one of them, such as Adam",
    "clip_grad_by_norm": "is written as a section here: "
    "grad_clip: {name: ClipGradByGlobalNorm, clip_norm: 1.0}",
    "clip_grad_by_value": "is written as a section here: "
    "grad_clip: {name: ClipGradByValue, max: 1.0}",
    "regularizer": "is one key here: weight_decay: 0.0005, or weight_decay: {name: L1Decay, "
    "coeff: 0.0005}",
    "type": "is name here: Optimizer: {name: Momentum, momentum: 0.9}",
}
LOSS_HINTS = {
    "NLLLoss": "takes log-probabilities, and a model gives logits: name CrossEntropyLoss",
}

GRAD_CLIPS: Classes = {
    name: getattr(paddle.nn, name)
    for name in ("ClipGradByGlobalNorm", "ClipGradByNorm", "ClipGradByValue")
}
WEIGHT_DECAYS: Classes = {
    name: getattr(paddle.regularizer, name) for name in ("L1Decay", "L2Decay")
}

# Of those in paddle.nn, the ones that take logits [N, K] and labels [N].
LOSSES: Classes = {
    name: getattr(paddle.nn, name) for name in ("CrossEntropyLoss", "MultiMarginLoss")
}


def _discover() -> dict[str, Callable[..., Any]]:
    found = {name: getattr(paddle.optimizer, name) for name in paddle.optimizer.__all__}
    base = paddle.optimizer.Optimizer
    return {
        name: cls
        for name, cls in found.items()
        if isinstance(cls, type) and issubclass(cls, base) and name not in OPTIMIZER_HINTS
    }


OPTIMIZERS: Classes = _discover()


def spare_from_decay(
    cls: Callable[..., Any], arguments: Mapping[str, Any], model: Any, patterns: Sequence[str]
) -> dict[str, Any]:
    """Return further arguments for an optimizer, by which some weights do not decay.

    Where the class cannot be told, the weights themselves are given a decay of 0, which goes
    before the optimizer's.

    Args:
        cls: the optimizer.
        arguments: what it is made with.
        model: a paddle.nn.Layer.
        patterns: shell patterns of structured names, such as `*.bias`.

    Raises:
        ArgumentError: a pattern matches no weight, or nothing decays.
    """
    spared = _matching(model, patterns)
    known = inspect.signature(cls).parameters
    if _DECAYED_BY_NAME in known:
        names = {parameter.name for parameter in spared}
        return {_DECAYED_BY_NAME: lambda name: name not in names}
    if _SPARED_BY_TENSOR in known:
        names = {parameter.name for parameter in spared}
        return {_SPARED_BY_TENSOR: lambda parameter: parameter.name in names}
    if not arguments.get("weight_decay"):
        takes_one = "weight_decay" in known
        reason = "there is no weight_decay" if takes_one else "it takes no weight_decay"
        raise ArgumentError(NO_WEIGHT_DECAY, f"left out, since {reason}", list(patterns))
    for parameter in spared:
        parameter.regularizer = paddle.regularizer.L2Decay(0.0)
    return {}


def require_positive_clip(clip: Any) -> None:
    """Raise ArgumentError where a gradient clip would stop, or turn round, all steps."""
    for argument in ("clip_norm", "max"):
        value = getattr(clip, argument, None)
        if value is not None and not value > 0.0:
            raise ArgumentError(argument, "a number above 0", value)


def require_mean(loss_fn: Any) -> None:
    """Raise ArgumentError where a loss is no mean over images, as all figures are."""
    reduction = getattr(loss_fn, "reduction", "mean")
    if reduction != "mean":
        raise ArgumentError("reduction", "mean: all figures are means over images", reduction)


def _matching(model: Any, patterns: Sequence[str]) -> Collection[Any]:
    """Return the parameters whose structured name, any where it is tied, fits a pattern."""
    tensors: list[tuple[str, Any]] = [
        (f"{prefix}.{name}" if prefix else name, tensor)
        for prefix, layer in model.named_sublayers(include_self=True)
        for name, tensor in layer._parameters.items()
        if tensor is not None and not tensor.stop_gradient
    ]
    found: dict[int, Any] = {}
    for pattern in patterns:
        fitting = {id(p): p for name, p in tensors if fnmatch.fnmatchcase(name, pattern)}
        if not fitting:
            shown = ", ".join(name for name, _ in tensors[:3])
            raise ArgumentError(
                NO_WEIGHT_DECAY, f"patterns that match a weight's name (such as {shown})", pattern
            )
        found.update(fitting)
    return list(found.values())
