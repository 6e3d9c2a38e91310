"""What Paddle, NumPy and Python allocate while a function runs, whatever the system gives them."""

from __future__ import annotations

import threading
import tracemalloc
from typing import Any, Callable

from paddle.base import core

_POLL_S = 0.0005


def peak_bytes(function: Callable[[], Any]) -> int:
    """Return an upper bound of the most bytes held more while a function runs.

    The sum of two peaks, of Paddle and of the rest, which need not fall together.
    """
    before = core.host_memory_stat_current_value("Allocated", 0)
    core.host_memory_stat_reset_peak_value("Allocated", 0)
    tracemalloc.start()
    try:
        function()
        python_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return int(core.host_memory_stat_peak_value("Allocated", 0) - before + python_bytes)


def polled_peak_bytes(function: Callable[[], Any]) -> int:
    """Return the most bytes held more at one moment, for a function that takes many polls."""
    before, peak, is_done = _held_by_paddle(), 0, threading.Event()

    def poll() -> None:
        nonlocal peak
        while not is_done.wait(_POLL_S):
            peak = max(peak, _held_by_paddle() - before + tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    poller = threading.Thread(target=poll)
    poller.start()
    try:
        function()
    finally:
        is_done.set()
        poller.join()
        tracemalloc.stop()
    return peak


def _held_by_paddle() -> int:
    return int(core.host_memory_stat_current_value("Allocated", 0))
