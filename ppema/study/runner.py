"""Run what a study has not run yet, so many processes at a time, and survive what ends them."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Mapping, Optional, Sequence

from ..console import PARENT
from ..data.archives import MIRRORS_VARIABLE
from ..errors import FolderInUseError, StoppedError
from ..progress import ProgressLine, can_be_shown
from ..run_lock import hold_if_used
from ..stop_signals import StopSignals
from .done import is_trained
from .how_far import HowFar
from .measure import read_measured
from .plan import Plan, PlannedRun
from .schema import Study

logger = logging.getLogger(__name__)

_POLL_S = 0.1
# A run that is told to stop has ten seconds, or two steps (docs/reliability.md).
_STOP_S, _ORPHAN_S = 60.0, 60.0


@dataclass(frozen=True)
class Tools:
    """The scripts that train a run and measure it, and the study file that the latter reads."""

    train: Path
    compare: Path

    def commands(self, study: Study, run: PlannedRun) -> list[list[str]]:
        """Return what is called for a run, in turn."""
        python = [sys.executable, "-W", "ignore"]
        measure = ["-c", study.path, "--measure", str(run.folder)]
        return [
            [*python, str(self.train), *run.arguments],
            [*python, str(self.compare), *measure],
        ]


@dataclass
class _Job:
    """A run on its way: what is still to be called, the process that is running, since when."""

    run: PlannedRun
    commands: list[list[str]]
    started_s: float = field(default_factory=time.monotonic)
    process: Optional[subprocess.Popen[bytes]] = None
    errors: Optional[IO[bytes]] = None


@dataclass(frozen=True)
class Failure:
    """A run that failed, and with what."""

    run: PlannedRun
    code: int
    line: str


class Runner:
    """Train and measure the runs of a plan that are not done yet.

    Args:
        plan: the runs.
        tools: what is called.
        workers: processes at a time, of one thread each.
        steps: of a run of each variant, by name.
    """

    def __init__(self, plan: Plan, tools: Tools, workers: int, steps: Mapping[str, int]) -> None:
        self._plan, self._tools, self._workers = plan, tools, workers
        self._how_far = HowFar(steps, plan.runs)
        self._waiting: deque[_Job] = deque()
        self._running: list[_Job] = []
        self._num_done = 0
        self.failures: list[Failure] = []

    def run(self) -> None:
        """Call what is to be called; failures are kept, and logged as they come.

        Raises:
            ConfigError: a run's folder is of another config.
            FolderInUseError: another process trains in one.
            StoppedError: a signal came; the runs that were under way have saved.
        """
        with StopSignals() as signals:
            self._wait_for_orphans(signals)
            self._sort_out()
            line = ProgressLine("study")
            try:
                while self._waiting or self._running:
                    if signals.received is not None:
                        self._stop(signals.received)
                    self._fill()
                    for job in list(self._running):
                        self._look_after(job)
                    self._show(line)
                    if self._running:
                        time.sleep(_POLL_S)
            finally:
                line.close()
                self._end(signal.SIGTERM)

    def _wait_for_orphans(self, signals: StopSignals) -> None:
        """Wait until the runs of an earlier call that was killed have saved, as they are told to.

        Raises:
            FolderInUseError: one does not end.
        """
        ends_s, said = time.monotonic() + _ORPHAN_S, ""
        for run in self._plan.runs:
            while True:
                if signals.received is not None:
                    self._stop(signals.received)
                try:
                    with hold_if_used(run.folder):
                        break
                except FolderInUseError as error:
                    if time.monotonic() > ends_s:
                        raise
                    if str(error) != said:
                        said = str(error)
                        logger.info("%s; waiting until it has saved", said)
                    time.sleep(_POLL_S)

    def _sort_out(self) -> None:
        """Find out what is to be done; what is finished is skipped."""
        for run in self._plan.runs:
            commands = self._tools.commands(self._plan.study, run)
            if is_trained(run):
                commands = commands[1:]
                if read_measured(self._plan.study, run.folder) is not None:
                    commands = []
            if commands:
                self._waiting.append(_Job(run, commands))
            else:
                self._num_done += 1
                self._how_far.end(run)
        if self._num_done:
            logger.info("%d of %d runs are done already", self._num_done, len(self._plan.runs))

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._workers:
            job = self._waiting.popleft()
            job.started_s = time.monotonic()
            self._running.append(job)
            self._start(job)

    def _start(self, job: _Job) -> None:
        # A file, since nobody reads a pipe in time.
        job.errors = tempfile.TemporaryFile()  # noqa: SIM115
        job.process = subprocess.Popen(
            job.commands.pop(0),
            env=child_environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=job.errors,
            # A terminal's Ctrl-C is for this process, which tells the others.
            start_new_session=True,
        )

    def _look_after(self, job: _Job) -> None:
        """Go on with a run whose process ended."""
        assert job.process is not None
        code = job.process.poll()
        if code is None:
            return
        said = _last_line(job)
        if code == 0 and job.commands:
            self._start(job)
            return
        self._running.remove(job)
        self._how_far.end(job.run)
        if code:
            self._fail(job, 128 - code if code < 0 else code, said)
            return
        self._num_done += 1
        total, elapsed_s = len(self._plan.runs), time.monotonic() - job.started_s
        # On a terminal the progress line stands for it.
        logger.info(
            *("%d/%d %s: done in %.0f s", self._num_done, total, job.run.title, elapsed_s),
            extra={"is_step": True},
        )

    def _fail(self, job: _Job, code: int, said: str) -> None:
        line = said or f"ended with {_ending(code)} and said nothing"
        self.failures.append(Failure(job.run, code, line))
        logger.error("%s failed: %s", job.run.title, line)

    def _stop(self, received: signal.Signals) -> None:
        """Tell the runs to save and end; go no further.

        Raises:
            StoppedError: always.
        """
        num_stopped = len(self._running)
        self._end(received)
        raise StoppedError(
            f"stopped by {received.name}: {self._num_done} of {len(self._plan.runs)} runs are done"
            f"{' and what was under way is saved' if num_stopped else ''}; "
            "go on with the same command",
            received,
        )

    def _end(self, number: int) -> None:
        """End all that runs, and wait for it: it saves first."""
        processes = [job.process for job in self._running if job.process is not None]
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)
        ends_s = time.monotonic() + _STOP_S
        for process in processes:
            try:
                process.wait(max(0.0, ends_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running = []

    def _show(self, line: ProgressLine) -> None:
        if not can_be_shown():
            return
        self._how_far.look(job.run for job in self._running)
        failed = f"{len(self.failures)} failed, " if self.failures else ""
        line.text = (
            f"{self._num_done} done, {failed}{len(self._running)} running, "
            f"{len(self._waiting)} left{self._how_far.time_left()}"
        )
        line.show(self._how_far.done, self._how_far.total)


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a run: one thread, no downloads, no life after this process.

    What is not at hand was fetched before; a run that looked again might find other data.
    """
    own = {"OMP_NUM_THREADS": "1", MIRRORS_VARIABLE: "", PARENT: str(os.getpid())}
    return {**environment, **own}


def _last_line(job: _Job) -> str:
    assert job.errors is not None
    job.errors.seek(0)
    lines = job.errors.read().decode(errors="replace").strip().splitlines()
    job.errors.close()
    return lines[-1] if lines else ""


def _ending(code: int) -> str:
    return signal.Signals(code - 128).name if code > 128 else f"code {code}"


def exit_code(failures: Sequence[Failure]) -> int:
    """Return that of the first failure, 0 without any."""
    return failures[0].code if failures else 0
