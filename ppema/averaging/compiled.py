"""The kernels that numba compiles: many tensors in one call, without Python's lock.

Importing this imports numba; `kernels.py` decides when. Both take a table, int64 [tensors, 4 +
columns], whose rows hold the first and the last weight's place in the count of all weights, the
address of the live tensor, whether to copy it, and the address of each average, 0 for none.
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

# Weights at a time: the live ones stay in the second-level cache while all averages are moved.
_BLOCK = 65536

Kernel = Callable[..., Any]


@intrinsic
def _array_at(typing_context: Any, address: Any, count: Any, like: Any) -> Any:
    """Return the flat array of `count` elements, of the type of `like`, that lies at an address.

    numba.carray does the same, and compiles itself first: 0.1 s for each kernel.
    """
    array_type = types.Array(like.dtype, 1, "C")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        element = context.get_data_type(like.dtype)
        width = context.get_constant(types.intp, context.get_abi_sizeof(element))
        array = make_array(array_type)(context, builder)
        populate_array(
            array,
            data=builder.inttoptr(arguments[0], element.as_pointer()),
            shape=[arguments[1]],
            strides=[width],
            itemsize=width,
            meminfo=None,
        )
        return array._getvalue()

    return array_type(types.intp, types.intp, like), generate


def _compile(**options: Any) -> Callable[[Kernel], Kernel]:
    """Return a decorator that compiles a kernel, and caches its code on disk where that works.

    The kernels raise nothing themselves, so an exception of a call is of the compiler or of the
    cache (no folder that can be written, a damaged file), and nothing was computed yet.
    """

    def decorate(function: Kernel) -> Kernel:
        chosen = uncached = numba.njit(nogil=True, **options)(function)
        # RuntimeError: there is no folder to cache in.
        with contextlib.suppress(RuntimeError):
            chosen = numba.njit(nogil=True, cache=True, **options)(function)

        def call(*arguments: Any) -> Any:
            nonlocal chosen
            try:
                return chosen(*arguments)
            except Exception:
                if chosen is uncached:
                    raise
                chosen = uncached
                return uncached(*arguments)

        return call

    return decorate


# min, max and len would each be compiled as a function of its own: half a second together.
@_compile()
def blend(table: Any, weights: Any, first: int, last: int, like: Any) -> None:
    """Move every average by ``average += weight * (live - average)`` from `first` to `last`.

    Each operation is rounded by itself, as NumPy's are: no fused multiply-add.

    Args:
        table: see above.
        weights: of each column, in the tensors' dtype; below 0 copies, 0 leaves the column alone.
        first, last: places in the count of all weights, so that threads can share the work.
        like: an empty array of the tensors' dtype.
    """
    for row in table:
        low = row[0] if row[0] > first else first
        high = row[1] if row[1] < last else last
        start = (low - row[0]) * like.itemsize
        while low < high:
            count = high - low if high - low < _BLOCK else _BLOCK
            live = _array_at(row[2] + start, count, like)
            # Two averages in one loop: the live weights are read once for both.
            waiting = -1
            for column in range(weights.size):
                weight = weights[column]
                if row[4 + column] == 0 or weight == 0:
                    continue
                average = _array_at(row[4 + column] + start, count, like)
                if row[3] or weight < 0:
                    for i in range(count):
                        average[i] = live[i]
                elif waiting < 0:
                    waiting = column
                else:
                    other = _array_at(row[4 + waiting] + start, count, like)
                    other_weight = weights[waiting]
                    for i in range(count):
                        other[i] += other_weight * (live[i] - other[i])
                        average[i] += weight * (live[i] - average[i])
                    waiting = -1
            if waiting >= 0:
                average = _array_at(row[4 + waiting] + start, count, like)
                weight = weights[waiting]
                for i in range(count):
                    average[i] += weight * (live[i] - average[i])
            low += count
            start += count * like.itemsize


# Sums in any order, so that many can be added at a time: NaN comes through in each.
@_compile(fastmath={"reassoc"})
def sum_of_zeros(table: Any, zero: Any, first: int, last: int, like: Any) -> Any:
    """Return the sum of all live weights from `first` to `last`, each times zero.

    That is NaN where one of them is NaN or infinite, and else zero, however large they are.

    Args:
        table, first, last, like: as for `blend`.
        zero: 0 in the tensors' dtype.
    """
    total = zero
    for row in table:
        low = row[0] if row[0] > first else first
        high = row[1] if row[1] < last else last
        if low < high:
            start = (low - row[0]) * like.itemsize
            live = _array_at(row[2] + start, high - low, like)
            for i in range(live.size):
                total += live[i] * zero
    return total


def rounds_as_numpy_does() -> bool:
    """Tell whether `blend` gives NumPy's bits on this machine; some compilers fuse operations."""
    # Full mantissas: every product is inexact, so that a fused operation shows at once.
    live = np.linspace(0.1, 0.9, 64, dtype=np.float32) ** 3
    average = np.linspace(0.7, -0.3, 64, dtype=np.float32) ** 3
    weights = np.array([0.1], np.float32)
    expected = average + weights * (live - average)
    table = np.array([[0, live.size, live.ctypes.data, 0, average.ctypes.data]])
    blend(table, weights, 0, live.size, np.empty(0, np.float32))
    return bool(average.tobytes() == expected.tobytes())
