"""The exchange of two sets of tensors' storage: nothing is copied, and it can always be undone."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any, Iterable

from paddle.base import core

from .views import flat_view, is_viewable

# The exchanges in force at the moment: two over one tensor must not nest.
_IN_FORCE: weakref.WeakSet[Exchange] = weakref.WeakSet()


@dataclass
class _Pair:
    """Two tensors, and the storage that each had before."""

    name: str
    live: Any
    partner: Any
    live_storage: Any
    partner_storage: Any
    mark: bytes = b""


class Exchange:
    """Give live tensors the storage of their partners, of the same dtype and place, and back.

    Made first and begun second, so that its owner can undo it however far `begin` came: all
    storage is held from the start.

    Args:
        tensors: (name, live tensor, partner) of each pair.
    """

    def __init__(self, tensors: Iterable[tuple[str, Any, Any]]) -> None:
        self._pairs = [
            _Pair(name, live, partner, storage_of(live), storage_of(partner))
            for name, live, partner in tensors
        ]

    def begin(self) -> None:
        """Exchange the storage of every pair."""
        _IN_FORCE.add(self)
        for pair in self._pairs:
            _point(pair.live, pair.partner_storage)
            pair.partner.get_tensor()._share_data_with(pair.live_storage)
            pair.mark = _mark(pair.live)

    @property
    def partners(self) -> list[Any]:
        """Return the partners, which hold what the live tensors held."""
        return [pair.partner for pair in self._pairs]

    def written(self) -> list[str]:
        """Return the names of the live tensors that were written to since, as far as seen."""
        return [pair.name for pair in self._pairs if _mark(pair.live) != pair.mark]

    def undo(self) -> None:
        """Give every tensor its own storage back."""
        for pair in self._pairs:
            _point(pair.live, pair.live_storage)
            pair.partner.get_tensor()._share_data_with(pair.partner_storage)
        _IN_FORCE.discard(self)

    def covers(self, tensors: set[int]) -> bool:
        """Tell whether one of the live tensors is among these ids."""
        return any(id(pair.live) in tensors for pair in self._pairs)


def is_any_exchanged(tensors: Iterable[Any]) -> bool:
    """Tell whether an exchange is in force over one of the tensors."""
    if not _IN_FORCE:
        return False
    ids = {id(tensor) for tensor in tensors}
    return any(exchange.covers(ids) for exchange in _IN_FORCE)


def storage_of(tensor: Any) -> Any:
    """Return a holder of the storage that a tensor has at the moment."""
    holder = core.DenseTensor()
    holder._share_data_with(tensor.get_tensor())
    return holder


def alias_of(tensor: Any) -> Any:
    """Return a tensor over the same memory, which stays with it when the storage is exchanged."""
    return core.eager.Tensor(storage_of(tensor))


def _point(live: Any, storage: Any) -> None:
    live.get_tensor()._share_data_with(storage)
    # A backward pass that saved the weight before the exchange must fail, not use the other one.
    live._bump_inplace_version()


def _mark(tensor: Any) -> bytes:
    """Return a tensor's first and last element, which tell a written one from an untouched one.

    A sample, because reading all would cost more than the exchange; Paddle's own version counter
    stays the same through `optimizer.step()`, `set_value` and BN in train mode.
    """
    if not is_viewable(tensor):
        return b""
    view = flat_view(tensor)
    return bytes(view[:1].tobytes() + view[-1:].tobytes())
