"""A sample of tensors' elements that tells, cheaply, whether something has written to them."""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np

from .views import flat_view, is_viewable


class Marks:
    """Remember the first and the last element of each tensor on the CPU.

    A sample, because reading all would cost more than what it guards; Paddle's own version counter
    stays the same through `optimizer.step()`, `set_value` and BN in train mode. What is watched is
    the memory that the tensors have when this is made: a later exchange of storage does not show.

    Args:
        names: of the tensors.
        tensors: those that are not `is_viewable` are left out; the caller keeps them.
    """

    def __init__(self, names: Sequence[str], tensors: Sequence[Any]) -> None:
        self._names: list[str] = []
        self._ends: list[Any] = []
        for name, tensor in zip(names, tensors):
            if is_viewable(tensor) and tensor.size:
                view = flat_view(tensor)
                for end in (view[:1], view[-1:]):
                    self._ends.append(end.view(np.uint8))
                    self._names += [name] * end.nbytes
        self._taken = self._read()

    def take(self) -> None:
        """Remember what the tensors hold now."""
        self._taken = self._read()

    def written(self) -> list[str]:
        """Return the names of the tensors that were written to since `take`, as far as seen."""
        changed = np.flatnonzero(self._read() != self._taken)
        return list(dict.fromkeys(self._names[index] for index in changed))

    def _read(self) -> Any:
        return np.concatenate(self._ends) if self._ends else np.empty(0, np.uint8)
