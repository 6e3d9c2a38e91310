"""What an average is made of at the moment: figures that show silent mistakes."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Mapping, Union

from .views import flat_view, is_viewable


@dataclass(frozen=True)
class Diagnostics:
    """Figures of one average.

    Attributes:
        effective_window: of how many equal-weight sets of weights the mean would vary as much:
            ``1 / sum(share**2)`` over the shares of all updates and of the initial weights.
        initial_share: the share that the initial weights still have, in [0, 1].
        distance: the L2 norm of raw minus averaged weights.
        never_moved: names of the tensors that train (or are BN statistics) whose average has not
            changed since this object was made, registered or loaded; stuck or unused weights.
        num_tensors: how many tensors `never_moved` could name.
    """

    effective_window: float
    initial_share: float
    distance: float
    never_moved: tuple[str, ...]
    num_tensors: int

    @property
    def never_moved_share(self) -> float:
        """Return the share of tensors that never moved, in [0, 1]."""
        return len(self.never_moved) / max(self.num_tensors, 1)


class Movement:
    """Remember what averages were, to tell which have moved since.

    Args:
        averages: the averaged tensors, by name.
    """

    def __init__(self, averages: Mapping[str, Any]) -> None:
        self._marks = {name: _fingerprint(tensor) for name, tensor in averages.items()}

    def unmoved(self, averages: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of those that are what they were."""
        found = []
        for name, tensor in averages.items():
            if name not in self._marks:
                continue
            if _fingerprint(tensor) == self._marks[name]:
                found.append(name)
            else:
                # Looked at no more: it has moved, also if it should come back.
                del self._marks[name]
        return tuple(found)


def _fingerprint(tensor: Any) -> Union[int, float]:
    if is_viewable(tensor):
        return zlib.crc32(flat_view(tensor))
    return float(tensor.astype("float64").sum())
