"""The physical limit of an update: ``average += weight * (live - average)`` over flat memory."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Optional

import numpy as np

_SOURCE = """
void move(float *restrict average, const float *restrict live, float weight, long count) {
    for (long i = 0; i < count; i++) average[i] += weight * (live[i] - average[i]);
}
"""
_BLOCK = 32768

IN_C = "C (gcc -O3 -march=native)"
IN_NUMPY = "NumPy in place, as there is no gcc"


class Limit:
    """Move as many weights as an average has, by compiled C where gcc is there, else by NumPy.

    Args:
        num_weights: float32.
    """

    def __init__(self, num_weights: int) -> None:
        random = np.random.default_rng(0)
        self._live = random.standard_normal(num_weights, dtype=np.float32)
        self._average = np.zeros_like(self._live)
        self._scratch = [np.empty(_BLOCK, np.float32) for _ in range(2)]
        self._compiled = compiled_move()
        self._helper = ThreadPoolExecutor(1)

    def describe(self) -> str:
        """Return what moves the weights."""
        return IN_NUMPY if self._compiled is None else IN_C

    def move(self, threads: int) -> None:
        """Move all weights once, on one or two threads."""
        count = len(self._live)
        if threads == 1:
            self._move_part(0, 0, count)
            return
        other = self._helper.submit(self._move_part, 1, count // 2, count)
        self._move_part(0, 0, count // 2)
        other.result()

    def _move_part(self, part: int, first: int, last: int) -> None:
        live, average = self._live[first:last], self._average[first:last]
        if self._compiled is not None:
            self._compiled(average.ctypes.data, live.ctypes.data, 0.001, last - first)
            return
        for start in range(0, len(live), _BLOCK):
            there = average[start : start + _BLOCK]
            scratch = self._scratch[part][: len(there)]
            np.subtract(live[start : start + _BLOCK], there, scratch)
            np.multiply(scratch, np.float32(0.001), scratch)
            np.add(there, scratch, there)


def compiled_move() -> Optional[Any]:
    """Return the C function, compiled for this machine; None where there is no gcc."""
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
        function = ctypes.CDLL(str(library)).move
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_float, ctypes.c_long]
    function.restype = None
    return function
