"""NumPy views of CPU tensors, without a copy, and the blend of two in place."""

from __future__ import annotations

import ctypes
import math
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


def numpy_dtype(tensor: Any) -> Any:
    """Return the NumPy dtype of a viewable tensor."""
    return _NUMPY_DTYPES[tensor.dtype]


def flat_view(tensor: Any) -> Any:
    """Return the memory of a viewable tensor as a flat, writable NumPy array.

    Built from the address, as NumPy before 2.0 makes DLPack views read-only. The caller keeps
    the tensor alive and compares `data_ptr()` before using a view again.
    """
    dtype = numpy_dtype(tensor)
    # Paddle's own size is computed by NumPy, and takes ten times as long.
    num_bytes = math.prod(tensor.shape) * dtype.itemsize
    if num_bytes == 0:
        return np.empty(0, dtype)
    memory = (ctypes.c_char * num_bytes).from_address(tensor.data_ptr())
    return np.frombuffer(memoryview(memory), dtype)


def blend_block(live: Any, average: Any, weight: Any, scratch: Any) -> None:
    """Compute ``average += weight * (live - average)`` for flat arrays of up to BLOCK weights.

    Args:
        live, average: of one dtype and length.
        weight: a scalar of that dtype.
        scratch: of that dtype and length, written.
    """
    np.subtract(live, average, scratch)
    np.multiply(scratch, weight, scratch)
    np.add(average, scratch, average)
