"""Find a NaN or an infinity among tensors, in one read of each."""

from __future__ import annotations

import math
from typing import Any, Iterable, Optional, Sequence

import numpy as np
import paddle

from .views import flat_view, is_viewable


class FiniteCheck:
    """Look through the same tensors at each step, keeping what it takes to read each.

    The sum of squares is what is looked at, so that one that overflows counts as infinite.
    Paddle's CPU kernels hide NaN (relu gives 0, argmax ignores it): the loss would not tell.
    """

    def __init__(self) -> None:
        # Of each name, what its tensor was and where it lay, and the view of it, if it has one.
        self._views: dict[str, tuple[tuple[int, list[int], Any], Any]] = {}

    def first_non_finite(self, tensors: Iterable[tuple[str, Any]]) -> Optional[str]:
        """Return the name of the first tensor that holds NaN or Inf, None where all are finite."""
        unread: list[tuple[str, Any]] = []
        with np.errstate(over="ignore", invalid="ignore"):
            for name, tensor in tensors:
                view = self._view_of(name, tensor)
                if view is not None:
                    if not math.isfinite(np.dot(view, view)):
                        return _first_of(unread) or name
                elif tensor.is_floating_point():
                    # Detached: a graph would hold a float32 copy of each until all are read.
                    unread.append((name, tensor.detach().astype("float32").square().sum()))
        return _first_of(unread)

    def _view_of(self, name: str, tensor: Any) -> Any:
        layout = tensor.data_ptr(), tensor.shape, tensor.dtype
        known = self._views.get(name)
        if known is None or known[0] != layout:
            known = layout, flat_view(tensor) if is_viewable(tensor) else None
            self._views[name] = known
        return known[1]


def first_non_finite(tensors: Iterable[tuple[str, Any]]) -> Optional[str]:
    """Return what `FiniteCheck` does, for tensors that are looked at once."""
    return FiniteCheck().first_non_finite(tensors)


def _first_of(totals: Sequence[tuple[str, Any]]) -> Optional[str]:
    """Return the name of the first total that is NaN or Inf, in one read of each device."""
    by_place: dict[str, list[int]] = {}
    for index, (_, total) in enumerate(totals):
        by_place.setdefault(str(total.place), []).append(index)
    faulty: list[int] = []
    for indices in by_place.values():
        values = paddle.stack([totals[index][1] for index in indices]).numpy()
        faulty.extend(index for index, value in zip(indices, values) if not np.isfinite(value))
    return totals[min(faulty)][0] if faulty else None


def is_finite(tensor: Any) -> bool:
    """Tell whether a float tensor holds neither NaN nor Inf; its squares may overflow."""
    if is_viewable(tensor):
        with np.errstate(over="ignore", invalid="ignore"):
            return is_finite_array(flat_view(tensor))
    return bool(tensor.astype("float32").isfinite().all())


def is_finite_array(array: Any) -> bool:
    """Tell the same of a flat float array."""
    # Most arrays need the one fast read; where a square overflows, each weight is looked at.
    return bool(np.isfinite(np.dot(array, array)) or np.isfinite(array).all())
