"""All that one update moves, of one average or of several of the same weights, in few calls."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass, replace
from typing import Any, Optional, Sequence

import numpy as np
import paddle

from . import kernels
from .finite import first_non_finite, is_finite, is_finite_array
from .marks import Marks
from .place import at_place
from .swap import storage_of
from .views import BLOCK, blend_block, flat_view, is_viewable, numpy_dtype

# What the kernels take for a weight of 1, by which a live tensor is copied; 0 leaves an average.
_COPY = -1.0

_address = paddle.Tensor.data_ptr


@dataclass
class Shadow:
    """One averaged tensor: the live one, every name it has, and its average."""

    names: list[str]
    live: Any
    average: Any
    is_statistic: bool

    @property
    def name(self) -> str:
        """Return the name the tensor has first in the model's own order."""
        return self.names[0]

    @property
    def is_frozen(self) -> bool:
        """Tell whether the tensor is a parameter that does not train at the moment."""
        return bool(self.live.stop_gradient) and not self.is_statistic


class MovingTensors:
    """Move averages towards their live tensors, each live tensor read once for all averages.

    Tensors that share a dtype with their average and lie on the CPU move together, by the
    compiled kernels or by NumPy to the same bits; all others one by one, by Paddle.

    Args:
        columns: of each average, its tensors.
        beside_training: BN statistics are those of the last `hold`, as a forward pass changes
            them, and `written` tells of parameters that something has changed since.
    """

    def __init__(self, columns: Sequence[Sequence[Shadow]], beside_training: bool = False) -> None:
        self._given = list(columns)
        self._held = _make_holders(columns) if beside_training else {}
        self._holding = MovingTensors([list(self._held.values())]) if self._held else None
        self._columns = [[self._as_held(shadow) for shadow in column] for column in columns]
        groups: dict[Any, dict[tuple[int, bool], list[Optional[Shadow]]]] = {}
        self._others: list[tuple[int, Shadow]] = []
        # Counted once: Paddle takes 10 µs to tell the size of a tensor, which each step would ask.
        self._num_moved: int = sum(
            math.prod(s.average.shape) for shadows in columns for s in shadows
        )
        for column, shadows in enumerate(self._columns):
            for shadow in shadows:
                if not _are_alike(shadow.live, shadow.average):
                    self._others.append((column, shadow))
                    continue
                rows = groups.setdefault(numpy_dtype(shadow.live), {})
                key = id(shadow.live), shadow.is_statistic
                rows.setdefault(key, [None] * len(columns))[column] = shadow
        self._groups = [_Group(dtype, list(rows.values())) for dtype, rows in groups.items()]
        self._are_others_frozen: list[bool] = []
        # Held and compared as those of the groups are: `_marks` looks at this memory.
        self._other_tensors = [t for _, s in self._others for t in (s.live, s.average)]
        self._other_storage = [storage_of(tensor) for tensor in self._other_tensors]
        self._other_addresses = list(map(_address, self._other_tensors))
        self._marks: Optional[Marks] = None
        if beside_training:
            shadows = list(itertools.chain.from_iterable(self._columns))
            self._marks = Marks([s.name for s in shadows], [s.live for s in shadows])

    def __deepcopy__(self, memo: Any) -> MovingTensors:
        """Return one of nothing, which is not current: addresses mean nothing in a copy."""
        return MovingTensors([])

    @property
    def num_moved(self) -> int:
        """Return how many weights one move of all averages moves."""
        return self._num_moved

    @property
    def is_on_host(self) -> bool:
        """Tell whether every average lies in the CPU's memory."""
        return all(is_viewable(shadow.average) for _, shadow in self._others)

    def is_current(self, columns: Sequence[Sequence[Shadow]]) -> bool:
        """Tell whether these are the averages, and every tensor lies where it lay."""
        return (
            len(columns) == len(self._given)
            and all(mine is given for mine, given in zip(self._given, columns))
            and all(group.is_current() for group in self._groups)
            and list(map(_address, self._other_tensors)) == self._other_addresses
            and (self._holding is None or self._holding.is_current(self._holding._given))
        )

    def first_non_finite(self) -> Optional[str]:
        """Return the name of a live tensor that holds NaN or Inf, None where all are finite."""
        others = ((shadow.name, shadow.live) for _, shadow in self._others)
        if all(group.is_finite() for group in self._groups) and first_non_finite(others) is None:
            return None
        suspects = itertools.chain.from_iterable(self._columns)
        return next((shadow.name for shadow in suspects if not is_finite(shadow.live)), None)

    def hold(self) -> None:
        """Note what may change before `move`: which parameters are frozen, and BN statistics."""
        if self._holding is not None:
            self._holding.hold()
            self._holding.move([1.0])
        for group in self._groups:
            group.look_for_frozen()
        self._are_others_frozen = [shadow.is_frozen for _, shadow in self._others]
        if self._marks is not None:
            self._marks.take()

    def written(self) -> list[str]:
        """Return the names of live tensors that were written to since `hold`, as far as seen."""
        return self._marks.written() if self._marks is not None else []

    def move(self, weights: Sequence[float]) -> None:
        """Compute ``average += weight * (live - average)`` for every average.

        A parameter that was frozen at the last `hold` is copied, as all are at weight 1. Each
        weight is rounded once, to the tensors' dtype.

        Args:
            weights: of each average, in (0, 1]; 0 leaves it as it is.
        """
        for group in self._groups:
            group.move(weights)
        if self._others:
            with paddle.no_grad():
                for (column, shadow), is_frozen in zip(self._others, self._are_others_frozen):
                    if weights[column]:
                        _move_alone(shadow, 1.0 if is_frozen else weights[column])

    def _as_held(self, shadow: Shadow) -> Shadow:
        holder = self._held.get(id(shadow.live)) if shadow.is_statistic else None
        return shadow if holder is None else replace(shadow, live=holder.average)


class _Group:
    """The tensors of one dtype: rows of a live one and, of each average, a shadow or None."""

    def __init__(self, dtype: Any, rows: Sequence[Sequence[Optional[Shadow]]]) -> None:
        self._like = np.empty(0, dtype)
        self._rows = rows
        firsts = [next(shadow for shadow in row if shadow is not None) for row in rows]
        self._lives = [shadow.live for shadow in firsts]
        self._can_freeze = [not shadow.is_statistic for shadow in firsts]
        averages = [shadow.average for row in rows for shadow in row if shadow is not None]
        self._tensors = [*self._lives, *averages]
        # Held, so that the same address means the same memory and not what was put there since.
        self._storage = [storage_of(tensor) for tensor in self._tensors]
        self._addresses = list(map(_address, self._tensors))
        ends = np.cumsum([math.prod(live.shape) for live in self._lives])
        self._num_weights = int(ends[-1])
        self._table = np.array(
            [
                [0, end, _address(live), 0, *(_address(s.average) if s else 0 for s in row)]
                for live, end, row in zip(self._lives, ends, rows)
            ],
            np.int64,
        )
        self._table[1:, 0] = ends[:-1]
        self._frozen: list[bool] = []
        self._blocks: list[tuple[int, Any, list[Any], Any]] = []

    def is_current(self) -> bool:
        """Tell whether every tensor lies where it lay."""
        return list(map(_address, self._tensors)) == self._addresses

    def is_finite(self) -> bool:
        """Tell whether no live tensor holds NaN or Inf."""
        compiled = kernels.compiled_kernels()
        if compiled is None:
            return self._is_finite_by_numpy()
        zero = self._like.dtype.type(0)
        totals = kernels.in_two_threads(
            lambda first, last: compiled.sum_of_zeros(self._table, zero, first, last, self._like),
            self._num_weights,
            self._num_weights,
        )
        return not any(map(math.isnan, totals))

    def look_for_frozen(self) -> None:
        """Note which parameters are frozen."""
        frozen = [live.stop_gradient for live in self._lives]
        if frozen != self._frozen:
            self._frozen = frozen
            self._table[:, 3] = np.logical_and(frozen, self._can_freeze)

    def move(self, weights: Sequence[float]) -> None:
        """Move every average; see `MovingTensors.move`."""
        signed = [_COPY if weight == 1.0 else weight for weight in weights]
        rounded = np.array(signed, self._like.dtype)
        compiled = kernels.compiled_kernels()
        if compiled is None:
            started = time.perf_counter()
            # Scalars of both kinds, as comparing NumPy's is slow.
            self._blend_by_numpy(list(zip(signed, rounded)))
            kernels.count_plain_time(time.perf_counter() - started)
            return
        kernels.in_two_threads(
            lambda first, last: compiled.blend(self._table, rounded, first, last, self._like),
            self._num_weights,
            self._num_weights * len(weights),
        )

    def _is_finite_by_numpy(self) -> bool:
        with np.errstate(over="ignore", invalid="ignore"):
            return all(is_finite_array(live) for _, live, _, _ in self._numpy_blocks())

    def _blend_by_numpy(self, weights: Sequence[tuple[float, Any]]) -> None:
        copied = self._table[:, 3].tolist()
        with np.errstate(all="ignore"):
            for row, live, averages, scratch in self._numpy_blocks():
                for average, (weight, rounded) in zip(averages, weights):
                    if average is None or not weight:
                        continue
                    if copied[row] or weight == _COPY:
                        np.copyto(average, live)
                    else:
                        blend_block(live, average, rounded, scratch)

    def _numpy_blocks(self) -> list[tuple[int, Any, list[Any], Any]]:
        """Return, in blocks that the cache holds, views of each live tensor and its averages."""
        if not self._blocks:
            scratch = np.empty(BLOCK, self._like.dtype)
            for index, (live, row) in enumerate(zip(self._lives, self._rows)):
                view = flat_view(live)
                averages = [flat_view(shadow.average) if shadow else None for shadow in row]
                for start in range(0, len(view), BLOCK):
                    block = slice(start, start + BLOCK)
                    parts = [None if view is None else view[block] for view in averages]
                    count = len(view[block])
                    self._blocks.append((index, view[block], parts, scratch[:count]))
        return self._blocks


def _are_alike(live: Any, average: Any) -> bool:
    """Tell whether both can lie in a table: flat in the CPU's memory, of one dtype and shape."""
    return bool(
        live.dtype == average.dtype
        and live.shape == average.shape
        and is_viewable(live)
        and is_viewable(average)
    )


def _make_holders(columns: Sequence[Sequence[Shadow]]) -> dict[int, Shadow]:
    """Return, by the id of each BN statistic, what moves a copy of it to where it is."""
    return {
        id(shadow.live): replace(shadow, average=shadow.live.detach().clone().contiguous())
        for shadow in itertools.chain.from_iterable(columns)
        if shadow.is_statistic
    }


def _move_alone(shadow: Shadow, weight: float) -> None:
    live, average = shadow.live.detach(), shadow.average
    converted = live if live.dtype == average.dtype else live.astype(average.dtype)
    converted = at_place(converted, average.place)
    if weight == 1.0:
        average.copy_(converted, True)
    elif is_viewable(average):
        _blend_views(flat_view(converted.contiguous()), flat_view(average), weight)
    else:
        average.add_((converted - average) * weight)


def _blend_views(live: Any, average: Any, weight: float) -> None:
    scratch, rounded = np.empty(BLOCK, average.dtype), average.dtype.type(weight)
    with np.errstate(all="ignore"):
        for start in range(0, len(average), BLOCK):
            block = slice(start, start + BLOCK)
            count = len(average[block])
            blend_block(live[block], average[block], rounded, scratch[:count])
