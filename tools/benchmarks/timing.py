"""Measure several things side by side: the same round for all, in an order that changes."""

from __future__ import annotations

import contextlib
import math
import os
import time
from dataclasses import dataclass
from typing import Any, Callable, ContextManager, Iterator, Mapping, Optional, Sequence

from .rows import Reach, Row, ratios_of

# Does its work once, and returns the seconds that one piece of it took.
Contender = Callable[[], float]
Around = Callable[[], ContextManager[Any]]

_MAX_REPEATS = 10_000


@dataclass(frozen=True)
class Unit:
    """What the figures of a group are in.

    Args:
        name: as it is printed.
        factor: times the seconds of one piece.
        is_rate: the factor over the seconds, in place of times.
    """

    name: str
    factor: float = 1.0
    is_rate: bool = False

    def of(self, seconds: float) -> float:
        """Return the figure that so many seconds are."""
        return self.factor / seconds if self.is_rate else self.factor * seconds


SECONDS = Unit("s")
MILLISECONDS = Unit("ms", 1e3)
MICROSECONDS = Unit("µs", 1e6)


@dataclass(frozen=True)
class Entry:
    """One contender of a group: its name, what its ratios are to, what it has to reach."""

    name: str
    contender: Contender
    base: Optional[str] = None
    reach: Optional[Reach] = None
    x: Optional[float] = None


def measure_group(group: str, entries: Sequence[Entry], rounds: int, unit: Unit) -> list[Row]:
    """Return a row for each entry, all measured in the same rounds."""
    seconds = interleave({entry.name: entry.contender for entry in entries}, rounds)
    samples = {name: tuple(map(unit.of, taken)) for name, taken in seconds.items()}
    return [
        Row(
            group,
            entry.name,
            unit.name,
            samples[entry.name],
            entry.base,
            ratios_of(samples[entry.name], samples[entry.base]) if entry.base else (),
            entry.reach,
            entry.x,
        )
        for entry in entries
    ]


def interleave(contenders: Mapping[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Return the samples of each contender, one a round."""
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in order_of_round(list(contenders), number):
            samples[name].append(contenders[name]())
    return samples


def order_of_round(names: Sequence[str], number: int) -> list[str]:
    """Return the names in the order of a round: begun by another each time, forth and back.

    What one contender leaves behind (caches, a clock that is up) then meets each other one.
    """
    start = number // 2 % len(names)
    turned = [*names[start:], *names[:start]]
    return turned[::-1] if number % 2 else turned


def repeated(
    function: Callable[[], Any], least_s: float, around: Around = contextlib.nullcontext
) -> Contender:
    """Return a contender that calls a function as often as fills `least_s`.

    It is called three times at once, so that what it does only at first is done.

    Args:
        function: the piece of work.
        least_s: seconds that a sample lasts at least.
        around: entered for each sample, outside of what is timed.
    """
    with around():
        for _ in range(3):
            started = time.perf_counter()
            function()
            elapsed = time.perf_counter() - started
    repeats = num_repeats(elapsed, least_s)

    def contend() -> float:
        with around():
            started = time.perf_counter()
            for _ in range(repeats):
                function()
            return (time.perf_counter() - started) / repeats

    return contend


def num_repeats(elapsed: float, least_s: float) -> int:
    """Return how often something that takes `elapsed` seconds fills `least_s`."""
    return max(1, min(_MAX_REPEATS, math.ceil(least_s / max(elapsed, 1e-9))))


def can_hold_to_one_core() -> bool:
    """Tell whether `one_core` works here: Linux has it, macOS and Windows have not."""
    return hasattr(os, "sched_setaffinity")


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Hold the calling thread to one of its cores; ppema then takes no second thread."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
