"""The exchange of two sets of tensors' storage: nothing is copied, and it can always be undone."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any, Iterable, Mapping, Sequence

import paddle
from paddle.base import core

from .marks import Marks

# The exchanges in force at the moment: two over one tensor must not nest.
_IN_FORCE: weakref.WeakSet[Exchange] = weakref.WeakSet()


@dataclass
class _Pair:
    """Two tensors, and the storage that each had before."""

    live: Any
    partner: Any
    live_storage: Any
    partner_storage: Any


class Exchange:
    """Give live tensors the storage of their partners, of the same dtype and place, and back.

    Made first and begun second, so that its owner can undo it however far `begin` came: all
    storage is held from the start. It can be begun again while it `is_current`.

    A `state_dict()` that a layer gives in between holds tensors of its own over the partners'
    storage, as those of Paddle would turn into the other weights at `undo`.

    Args:
        lives: the live tensors.
        partners: of each, its partner.
        watched: by name, the partners of which `written` tells.
        layers: whose state dicts may name the live tensors.
    """

    def __init__(
        self,
        lives: Sequence[Any],
        partners: Sequence[Any],
        watched: Mapping[str, Any],
        layers: Sequence[Any] = (),
    ) -> None:
        self.partners = list(partners)
        self._tensors = [*lives, *partners]
        self._addresses = [tensor.data_ptr() for tensor in self._tensors]
        self._pairs = [
            _Pair(live, partner, storage_of(live), storage_of(partner))
            for live, partner in zip(lives, partners)
        ]
        self._ids = {id(live) for live in lives}
        self._layers = layers
        self._marks = Marks(list(watched), list(watched.values()))
        self._hooks: list[Any] = []

    def __deepcopy__(self, memo: Any) -> Exchange:
        """Return one of nothing, for a copy of a layer whose state dict this one looks through."""
        return Exchange([], [], {})

    def is_current(self) -> bool:
        """Tell whether every tensor lies where it lay."""
        addresses = [tensor.data_ptr() for tensor in self._tensors]
        return bool(addresses) and addresses == self._addresses

    def begin(self) -> None:
        """Exchange the storage of every pair."""
        _IN_FORCE.add(self)
        for layer in self._layers:
            self._hooks.append(layer.register_state_dict_hook(self._keep_in_state))
        for pair in self._pairs:
            _point(pair.live, pair.partner_storage)
            pair.partner.get_tensor()._share_data_with(pair.live_storage)
        self._marks.take()

    def written(self) -> list[str]:
        """Return the names of watched partners that were written to since, as far as seen."""
        return self._marks.written()

    def undo(self) -> None:
        """Give every tensor its own storage back."""
        for pair in self._pairs:
            _point(pair.live, pair.live_storage)
            pair.partner.get_tensor()._share_data_with(pair.partner_storage)
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        _IN_FORCE.discard(self)

    def covers(self, tensors: set[int]) -> bool:
        """Tell whether one of the live tensors is among these ids."""
        return not self._ids.isdisjoint(tensors)

    def _keep_in_state(self, state: dict[str, Any]) -> None:
        if not paddle.in_dynamic_mode():
            # An export, which reads the state at once, and in which no tensor can be made.
            return
        for name, tensor in state.items():
            if id(tensor) in self._ids:
                state[name] = alias_of(tensor)
                # Paddle saves this name beside the structured one.
                state[name].name = tensor.name


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
