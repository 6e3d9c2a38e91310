"""NumPy views of CPU tensors, without a copy, and the blend of two in place."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import paddle

# Blocks of this many weights keep the difference (scratch) in the second-level cache.
BLOCK = 32768

_NUMPY_DTYPES: dict[Any, Any] = {
    paddle.float32: np.dtype("float32"),
    paddle.float64: np.dtype("float64"),
}


def is_viewable(tensor: Any) -> bool:
    """Tell whether `flat_view` can show it: float32 or float64, on the CPU, contiguous."""
    return tensor.dtype in _NUMPY_DTYPES and tensor.place.is_cpu_place() and tensor.is_contiguous()


def flat_view(tensor: Any) -> Any:
    """Return the memory of a viewable tensor as a flat, writable NumPy array.

    Built from the address, as NumPy before 2.0 makes DLPack views read-only. The caller keeps
    the tensor alive and compares `data_ptr()` before using a view again.
    """
    dtype = _NUMPY_DTYPES[tensor.dtype]
    num_bytes = int(tensor.size) * dtype.itemsize
    if num_bytes == 0:
        return np.empty(0, dtype)
    memory = (ctypes.c_char * num_bytes).from_address(tensor.data_ptr())
    return np.frombuffer(memoryview(memory), dtype)


class BlendViews:
    """Flat views of a live tensor and its average, cut into blocks, and the blend over them.

    Args:
        live: a viewable tensor.
        average: a viewable tensor of the same dtype and shape.
        scratch: a flat array of the same dtype, at least BLOCK long, written at each blend.
    """

    def __init__(self, live: Any, average: Any, scratch: Any) -> None:
        self._addresses = (live.data_ptr(), average.data_ptr())
        self._round = scratch.dtype.type
        live_view, average_view = flat_view(live), flat_view(average)
        self._blocks = [
            (
                live_view[start : start + BLOCK],
                average_view[start : start + BLOCK],
                scratch[: min(BLOCK, len(average_view) - start)],
            )
            for start in range(0, len(average_view), BLOCK)
        ]

    def are_of(self, live: Any, average: Any) -> bool:
        """Tell whether both tensors still lie where the views look."""
        return bool(self._addresses == (live.data_ptr(), average.data_ptr()))

    def blend(self, weight: float) -> None:
        """Compute ``average += weight * (live - average)``, `weight` rounded to the dtype once."""
        rounded = self._round(weight)
        for live, average, difference in self._blocks:
            np.subtract(live, average, out=difference)
            np.multiply(difference, rounded, out=difference)
            np.add(average, difference, out=average)
