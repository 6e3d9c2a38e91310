"""The resident memory of this process, as Linux counts it."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path
from typing import Any, Callable

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
# What makes Linux forget the highest that the memory was so far.
_RESET_PEAK = "5"


def can_measure() -> bool:
    """Tell whether this system says how high the memory was, and forgets it when told to."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text(_RESET_PEAK)
        return _STATUS.exists()
    return False


def resident_peak_bytes(function: Callable[[], Any]) -> int:
    """Return the most bytes by which the resident memory grows while a function runs."""
    _give_back()
    _CLEAR.write_text(_RESET_PEAK)
    before = _read("VmRSS")
    function()
    return max(0, _read("VmHWM") - before)


def _give_back() -> None:
    """Let the C library return what is free, which a function would else take unseen."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _read(key: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{_STATUS} has no {key}")
