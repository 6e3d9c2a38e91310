"""Which rank averages which tensor, where every rank has all the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping

import paddle

from . import ranks
from .place import at_place


@dataclass(frozen=True)
class Template:
    """What a tensor of the whole average is like."""

    shape: Any
    dtype: Any
    place: Any

    def empty(self) -> Any:
        """Return one to receive."""
        return at_place(paddle.empty(self.shape, self.dtype), self.place)


class OwnedLayout:
    """Each rank averages tensors of its own, and BN statistics, which differ over the ranks.

    It is what `ShardedAverage` asks of an average of a whole model.
    """

    can_apply = True

    def __init__(self, owners: Mapping[str, int], templates: Mapping[str, Template]) -> None:
        self._owners, self._templates = owners, templates

    def own(self, whole: Mapping[str, Any]) -> dict[str, Any]:
        """Return what of whole tensors, by name, this rank averages."""
        rank = ranks.rank()
        return {name: whole[name] for name in whole if self._owners.get(name, rank) == rank}

    def whole(self, held: Mapping[str, Any], keep: bool) -> dict[str, Any]:
        """Return the tensors of all ranks."""
        tensors = {
            name: held[name] if name in held else template.empty()
            for name, template in self._templates.items()
        }
        return self.whole_state(tensors, keep)

    def whole_state(self, state: dict[str, Any], keep: bool) -> dict[str, Any]:
        """Return the state with what other ranks average written into it."""
        for source in range(ranks.num_ranks()):
            names = [name for name, owner in self._owners.items() if owner == source]
            ranks.broadcast_tensors([state[name] for name in names], source)
        return state if keep else {}


def assign_owners(sizes: Mapping[str, int], num_ranks: int) -> dict[str, int]:
    """Return the rank that averages each tensor, by name: the same on all ranks.

    The largest comes first, each to the rank that has the fewest weights so far.

    Raises:
        ValueError: fewer tensors than ranks.
    """
    if len(sizes) < num_ranks:
        raise ValueError(
            f"{len(sizes)} averaged tensors cannot be spread over {num_ranks} processes; leave "
            "out ShardedAverage, so that each has the whole average"
        )
    loads = [0] * num_ranks
    counts = [0] * num_ranks
    owners = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owner = min(range(num_ranks), key=lambda rank: (loads[rank], counts[rank], rank))
        loads[owner] += sizes[name]
        counts[owner] += 1
        owners[name] = owner
    return owners
