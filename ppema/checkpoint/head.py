"""Start from the weights of another run, whose classes were others."""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence

from ..errors import NonFiniteError
from .strict import load_strictly, not_weights, require_finite


def load_but_head(
    model: Any, state: Mapping[str, Any], source: str, num_classes: Optional[int]
) -> list[str]:
    """Copy `state` into the model, but for layers that differ in the number of classes only.

    Such a layer keeps its weights. It is one whose tensors of other shapes differ in one axis
    alone, by one and the same size, which in the model is `num_classes`; where that is not known
    the last layer of the model may be one. All else must fit, or the model is untouched.

    Returns:
        What was kept, each with its shapes: `fc.weight [512,4] (file [512,1000])`.

    Raises:
        CheckpointError: missing, unexpected, wrong-shape or wrong-dtype tensors, all named.
        NonFiniteError: a tensor of `state` holds NaN or Inf.
    """
    own = model.state_dict()
    if not_weights(state):
        # Says what it is instead.
        load_strictly(model, state, source)
    try:
        require_finite(state, "start from it")
    except NonFiniteError as error:
        raise NonFiniteError(f"{source}: {error}") from None
    kept: list[str] = []
    for layer, names in _layers_that_differ(own, state).items():
        sizes = {_one_difference(own[name].shape, state[name].shape) for name in names}
        (pair,) = sizes if len(sizes) == 1 else (None,)
        may_differ = layer == _last_layer(model) if num_classes is None else True
        if pair is not None and may_differ and num_classes in (None, pair[0]):
            kept += names
    load_strictly(model, {**state, **{name: own[name] for name in kept}}, source)
    return [f"{name} {_shape(own[name])} (file {_shape(state[name])})" for name in kept]


def _layers_that_differ(
    own: Mapping[str, Any], state: Mapping[str, Any]
) -> Mapping[str, Sequence[str]]:
    """Return the names of tensors with other shapes, by the layer that they are of."""
    layers: dict[str, list[str]] = {}
    for name in own:
        if name in state and list(own[name].shape) != list(state[name].shape):
            layers.setdefault(name.rpartition(".")[0], []).append(name)
    return layers


def _one_difference(wanted: Sequence[int], found: Sequence[int]) -> Optional[tuple[int, int]]:
    """Return the sizes of the only axis in which two shapes differ."""
    if len(wanted) != len(found):
        return None
    pairs = [(ours, theirs) for ours, theirs in zip(wanted, found) if ours != theirs]
    return pairs[0] if len(pairs) == 1 else None


def _last_layer(model: Any) -> str:
    names: list[str] = [name for name, _ in model.named_parameters()]
    return names[-1].rpartition(".")[0]


def _shape(tensor: Any) -> str:
    return f"[{','.join(str(size) for size in tensor.shape)}]"
