"""Load weights into a model only where every one of them fits, and say what does not."""

from __future__ import annotations

from typing import Any, Mapping

import numpy as np
import paddle

from ..averaging.finite import is_finite
from ..averaging.fit import describe_misfit
from ..errors import CheckpointError, NonFiniteError


def load_strictly(model: Any, state: Mapping[str, Any], source: str) -> None:
    """Copy `state` into the model; the model is untouched where a single tensor does not fit.

    Raises:
        CheckpointError: missing, unexpected, wrong-shape or wrong-dtype tensors, all named.
    """
    copy_strictly(model.state_dict(), state, source)


def copy_strictly(targets: Mapping[str, Any], state: Mapping[str, Any], source: str) -> None:
    """Copy `state` into the tensors of the same names; none is written where one does not fit.

    Raises:
        CheckpointError: missing, unexpected, wrong-shape or wrong-dtype tensors, all named.
    """
    others = not_weights(state)
    if others:
        raise CheckpointError(f"{source}: not weights (holds {', '.join(others)})")
    misfit = describe_misfit(targets, state)
    if misfit:
        raise CheckpointError(f"{source}: {misfit}")
    with paddle.no_grad():
        for name, target in targets.items():
            target.copy_(state[name], True)


def not_weights(state: Mapping[Any, Any]) -> list[str]:
    """Return the first few names that are no text, or name no tensor."""
    others = [
        str(name)
        for name, value in state.items()
        if not isinstance(name, str) or not paddle.is_tensor(value)
    ]
    return others[:3]


def require_finite(state: Mapping[str, Any], purpose: str) -> None:
    """Raise NonFiniteError where a weight is NaN or infinite: `… holds NaN; refusing to …`."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not is_finite(tensor):
            kind = "NaN" if np.isnan(tensor.astype("float64").numpy()).any() else "Inf"
            raise NonFiniteError(f"{name} holds {kind}; refusing to {purpose}")
