"""Compare a stored state with the one it must fit, before a single weight is written."""

from __future__ import annotations

import math
import reprlib
from typing import Any, Dict, Mapping, Optional, Union

Counters = Dict[str, Union[int, float]]


def describe_misfit(model: Mapping[str, Any], stored: Mapping[str, Any]) -> Optional[str]:
    """Return None where every tensor fits, else one line that names all that do not.

    Both map structured names to tensors or arrays; shapes and dtypes are compared, values are not.
    """
    wrong = [
        misfit for name in model if name in stored and (misfit := _misfit(name, model, stored))
    ]
    missing = [name for name in model if name not in stored]
    unexpected = [name for name in stored if name not in model]
    if not (wrong or missing or unexpected):
        return None
    parts = [f"{len(model) - len(wrong) - len(missing)} of {len(model)} fit", *wrong]
    if missing:
        parts.append(f"missing: {', '.join(map(str, missing))}")
    if unexpected:
        parts.append(f"unexpected: {', '.join(map(str, unexpected))}")
    return "; ".join(parts)


def require_tensors(state: Any) -> None:
    """Raise ValueError where a part of a state is not a mapping from names to tensors."""
    if not isinstance(state, Mapping) or not all(
        hasattr(value, "shape") and hasattr(value, "dtype") for value in state.values()
    ):
        raise ValueError("the shadow of a state maps names to tensors; this one does not")


def require_names(part: str, value: Any) -> list[str]:
    """Return a part of a state that is a list of names; raise ValueError where it is none."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{part} of a state is a list of names; this one is not")
    return value


def fitting_numbers(wanted: Mapping[str, Any], state: Mapping[str, Any]) -> Counters:
    """Return the numbers of a state that have the names and types of `wanted`, none below 0.

    Raises:
        ValueError: one is of another type, below 0 or infinite; the text names it.
    """
    numbers: Counters = {}
    for name, example in wanted.items():
        value = state[name]
        if type(value) is not type(example) or not 0 <= value < math.inf:
            kind = "whole number" if isinstance(example, int) else "number"
            raise ValueError(f"{name} must be a {kind} from 0, got {reprlib.repr(value)}")
        numbers[name] = value
    return numbers


def _misfit(name: str, model: Mapping[str, Any], stored: Mapping[str, Any]) -> Optional[str]:
    wanted, found = model[name], stored[name]
    if list(wanted.shape) != list(found.shape):
        return f"{name}: file {_shape(found)}, model {_shape(wanted)}"
    if _dtype(wanted) != _dtype(found):
        return f"{name}: file {_dtype(found)}, model {_dtype(wanted)}"
    return None


def _shape(tensor: Any) -> str:
    return f"[{','.join(str(size) for size in tensor.shape)}]"


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).replace("paddle.", "")
