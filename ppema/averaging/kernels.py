"""When the compiled kernels are loaded, and what runs on the helper thread."""

from __future__ import annotations

import importlib
import logging
import os
from typing import Any, Callable, Optional

from .helper_thread import HelperThread
from .ranks import num_ranks_here

logger = logging.getLogger(__name__)

# What loading numba and its cached code takes, about (0.35 s measured; the first time of all,
# with compiling, 0.9 s). It is loaded when the plain path has taken as long in this process: a
# small model's run ends before (LeNet: after 9,000 updates), a large one gets there in seconds
# (25 million weights: 20 updates), and none ever waits longer than twice the better choice.
LOAD_S = 0.4

# Below this many weights to move, a second thread costs more than it brings.
MIN_WEIGHTS_OF_TWO_THREADS = 1_000_000
# Below this many, handing an update to the helper thread takes as long as doing it.
MIN_WEIGHTS_IN_BACKGROUND = 1_000_000


class _State:
    """What this process has: seconds spent on the plain path, and the kernels."""

    plain_s = 0.0
    is_decided = False
    kernels: Any = None


_HELPER = HelperThread()


def compiled_kernels() -> Any:
    """Return the compiled kernels (`compiled.py`) once they pay, None before or without numba."""
    if not _State.is_decided and _State.plain_s >= LOAD_S:
        _State.kernels, _State.is_decided = _load(), True
    return _State.kernels


def count_plain_time(seconds: float) -> None:
    """Add the seconds that an update took on the plain path."""
    _State.plain_s += seconds


def in_two_threads(function: Callable[[int, int], Any], num_weights: int, cost: int) -> list[Any]:
    """Call ``function(first, last)`` over halves of all weights; return what the calls gave.

    One call over all of them where there is little to do, one core to do it, or the caller is
    the helper thread. Neither half is still running when this returns or raises.

    Args:
        function: reads and writes the weights from `first` to `last`, without Python's lock.
        num_weights: where the last of them ends.
        cost: how many weights are moved, those of each average counted.
    """
    if _HELPER.is_here or cost < MIN_WEIGHTS_OF_TWO_THREADS or num_own_cores() < 2:
        return [function(0, num_weights)]
    middle = num_weights // 2
    other = _HELPER.submit(lambda: function(middle, num_weights))
    try:
        mine = function(0, middle)
    finally:
        # Where Ctrl-C comes, what the caller does next must not meet a half that still runs.
        other.wait_out()
    return [mine, other.result()]


def gains_in_background(cost: int) -> bool:
    """Tell whether moving so many weights beside the caller's own work is worth a handover."""
    return cost >= MIN_WEIGHTS_IN_BACKGROUND and num_own_cores() >= 2


def start_in_background(function: Callable[[], None]) -> None:
    """Have the helper thread do something, after what it was given before."""
    _HELPER.submit(function)


def finish_background() -> None:
    """Wait until the helper thread has done all that it was given."""
    _HELPER.drain()


def _load() -> Optional[Any]:
    try:
        kernels = importlib.import_module(".compiled", __package__)
        if kernels.rounds_as_numpy_does():
            return kernels
        reason = "its rounding is not NumPy's here"
    except ImportError:
        return None
    # A compiler may fail in its own ways; averaging goes on without it.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    logger.warning("numba cannot be used (%s); averages are updated by NumPy, more slowly", reason)
    return None


def num_own_cores() -> int:
    """Return this process's share of the cores it may use, which can change while it runs."""
    has_affinity = hasattr(os, "sched_getaffinity")
    num_cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, num_cores // num_ranks_here())
