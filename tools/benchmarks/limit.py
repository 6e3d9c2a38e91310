"""The physical limit of an update: ``average += weight * (live - average)`` over flat memory."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Optional, Sequence

import numpy as np

_SOURCE = """
void move(float *restrict average, const float *restrict live, float weight, long count) {
    for (long i = 0; i < count; i++) average[i] += weight * (live[i] - average[i]);
}
void move_each(const long (*table)[3], float weight, long rows) {
    for (long i = 0; i < rows; i++)
        move((float *)table[i][0], (const float *)table[i][1], weight, table[i][2]);
}
"""
_BLOCK = 32768
# By which an average moves; any other takes as long.
WEIGHT = 0.001

IN_C = "C (gcc -O3 -march=native)"
IN_NUMPY = "NumPy in place, as there is no gcc that works"


class Limit:
    """Move as many weights as an average has, by compiled C where gcc is there, else by NumPy.

    Args:
        num_weights: float32.
    """

    def __init__(self, num_weights: int) -> None:
        random = np.random.default_rng(0)
        self._live = random.standard_normal(num_weights, dtype=np.float32)
        self._average = np.zeros_like(self._live)
        self._addresses = self._average.ctypes.data, self._live.ctypes.data
        self._scratch = [np.empty(_BLOCK, np.float32) for _ in range(2)]
        self._library = compiled_library()
        self._helper = ThreadPoolExecutor(1)

    def describe(self) -> str:
        """Return what moves the weights."""
        return IN_NUMPY if self._library is None else IN_C

    def move(self, threads: int) -> None:
        """Move all weights once, on one or two threads."""
        count = len(self._live)
        if threads == 1:
            self._move_part(0, 0, count)
            return
        other = self._helper.submit(self._move_part, 1, count // 2, count)
        self._move_part(0, 0, count // 2)
        other.result()

    @property
    def average(self) -> Any:
        """Return the weights that are moved."""
        return self._average

    @property
    def live(self) -> Any:
        """Return the weights that they are moved towards."""
        return self._live

    def _move_part(self, part: int, first: int, last: int) -> None:
        if self._library is not None:
            average_at, live_at = (address + 4 * first for address in self._addresses)
            self._library.move(average_at, live_at, WEIGHT, last - first)
            return
        live, average = self._live[first:last], self._average[first:last]
        for start in range(0, len(live), _BLOCK):
            there = average[start : start + _BLOCK]
            scratch = self._scratch[part][: len(there)]
            np.subtract(live[start : start + _BLOCK], there, scratch)
            np.multiply(scratch, np.float32(WEIGHT), scratch)
            np.add(there, scratch, there)


class LimitOnTensors:
    """Move averages of a model's own tensors by compiled C, one after another on one thread.

    NumPy's memory is in huge pages where Linux has them; Paddle's is not, which shows here.
    """

    def __init__(self, library: Any, tensors: Sequence[Any]) -> None:
        self._library, self._lives = library, tensors
        self._averages = [tensor.detach().clone() for tensor in tensors]
        self._table = np.array(
            [
                [average.data_ptr(), live.data_ptr(), live.size]
                for live, average in zip(self._lives, self._averages)
            ],
            np.int64,
        )

    def move(self) -> None:
        """Move all of them once."""
        self._library.move_each(self._table.ctypes.data, WEIGHT, len(self._table))


@functools.cache
def compiled_library() -> Optional[Any]:
    """Return the C functions, compiled for this machine; None where there is no gcc."""
    compiler = shutil.which("gcc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "limit.c"), Path(folder, "limit.so")
        source.write_text(_SOURCE)
        options = ["-O3", "-march=native", "-shared", "-fPIC"]
        made = subprocess.run([compiler, *options, source, "-o", library], capture_output=True)
        if made.returncode != 0:
            return None
        # Loaded, it stays though its file goes.
        loaded = ctypes.CDLL(str(library))
    pointer = ctypes.c_void_p
    loaded.move.argtypes = [pointer, pointer, ctypes.c_float, ctypes.c_long]
    loaded.move_each.argtypes = [pointer, ctypes.c_float, ctypes.c_long]
    loaded.move.restype = loaded.move_each.restype = None
    return loaded
