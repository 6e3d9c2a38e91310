"""How far a study is, in steps: those of the runs that ended, and of those under way."""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path
from typing import Iterable, Mapping, Optional

from ..builder import run_folder
from ..engine.record import METRICS
from .plan import PlannedRun

# A record of a dozen averages takes three thousand.
_TAIL_BYTES = 1 << 16
_LOOK_S = 1.0


class HowFar:
    """Count the steps that are done, and tell how long the rest takes at the speed so far.

    Args:
        steps: of a run of each variant, by name.
        runs: all of them.
    """

    def __init__(self, steps: Mapping[str, int], runs: Iterable[PlannedRun]) -> None:
        self._steps = steps
        self.total = sum(steps[run.variant.name] for run in runs)
        self.done = 0
        self._ended = 0
        self._looked_s = -_LOOK_S
        self._first: Optional[tuple[float, int]] = None

    def end(self, run: PlannedRun) -> None:
        """Count a run as done, though it failed."""
        self._ended += self._steps[run.variant.name]

    def look(self, running: Iterable[PlannedRun]) -> None:
        """Look where the runs under way are, at most once a second."""
        now = time.monotonic()
        if now - self._looked_s < _LOOK_S:
            return
        self._looked_s = now
        folders = (run_folder(part) for run in running for part in run.parts)
        self.done = self._ended + sum(last_step(folder / METRICS) for folder in folders)
        if self._first is None:
            self._first = (now, self.done)

    def time_left(self) -> str:
        """Return the rest as a text, empty where nothing is known yet."""
        if self._first is None or self.done <= self._first[1]:
            return ""
        started_s, before = self._first
        left_s = (self._looked_s - started_s) / (self.done - before) * (self.total - self.done)
        return f", eta {datetime.timedelta(seconds=round(left_s))}"


def last_step(path: Path) -> int:
    """Return the step of the last whole record in a metrics.jsonl, 0 without any."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        # The last line may be half of one by now.
        except (ValueError, KeyError, TypeError):
            continue
    return 0
