"""What an average is made of at the moment: figures that show silent mistakes."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Mapping, Union

from .views import flat_view, is_viewable

# So many elements of a tensor are compared before all of them are.
_SAMPLE = 64


@dataclass(frozen=True)
class Diagnostics:
    """Figures of one average.

    Attributes:
        effective_window: of how many equal-weight sets of weights the mean would vary as much:
            ``1 / sum(share**2)`` over the shares of all updates and of the initial weights.
        initial_share: the share that the initial weights still have, in [0, 1].
        distance: the L2 norm of raw minus averaged weights.
        never_moved: names of the tensors that train (or are BN statistics) whose average is what
            it was at `register`; stuck or unused weights.
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
    """Remember what averages were, to tell which are not what they were any more.

    Args:
        averages: the averaged tensors, by name.
    """

    def __init__(self, averages: Mapping[str, Any]) -> None:
        self._marks = {
            name: (_sample(tensor), _fingerprint(tensor)) for name, tensor in averages.items()
        }

    def unmoved(self, averages: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of those that are what they were."""
        return tuple(
            name
            for name, tensor in averages.items()
            # The sample tells nearly all, and costs next to nothing.
            if name in self._marks
            and self._marks[name][0] == _sample(tensor)
            and self._marks[name][1] == _fingerprint(tensor)
        )


def _sample(tensor: Any) -> bytes:
    if not is_viewable(tensor):
        return b""
    view = flat_view(tensor)
    return bytes(view[:: max(1, len(view) // _SAMPLE)].tobytes())


def _fingerprint(tensor: Any) -> Union[int, float]:
    if is_viewable(tensor):
        return zlib.crc32(flat_view(tensor))
    return float(tensor.astype("float64").sum())
