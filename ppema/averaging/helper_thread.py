"""A thread that does jobs one after another, which no interrupt of the callers can break.

`concurrent.futures` starts its threads and counts them in several steps; where Ctrl-C comes between
two of them, a second thread may take jobs beside the first, or the process never end.
"""

from __future__ import annotations

import _thread
import atexit
import os
import threading
from queue import SimpleQueue
from typing import Any, Callable, Optional


class Job:
    """Something that the thread will do, and what came of it."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._is_running = _thread.allocate_lock()
        self._is_running.acquire()
        self.is_done = False
        self._result: Any = None
        self._error: Optional[BaseException] = None

    def wait(self) -> None:
        """Wait until it is done, whatever came of it."""
        if not self.is_done:
            self._is_running.acquire()

    def wait_out(self) -> None:
        """Wait until it is done, and only then raise what came in between, such as Ctrl-C."""
        interrupt: Optional[BaseException] = None
        while not self.is_done:
            try:
                self.wait()
            except BaseException as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def result(self) -> Any:
        """Wait, then return what the function returned or raise what it raised."""
        self.wait()
        if self._error is not None:
            raise self._error
        return self._result

    def run(self) -> None:
        """Do it; called by the thread."""
        try:
            self._result = self._function()
        # Whatever it is: it is for the one who asks for the result.
        except BaseException as error:
            self._error = error
        finally:
            # What it was about, a batch of images perhaps, may go.
            self._function = _do_nothing
            self.is_done = True
            self._is_running.release()


class HelperThread:
    """One thread, which starts at its first job and takes jobs in the order they are given.

    It is done with all of them before the process forks or ends, and a forked child starts its
    own.
    """

    def __init__(self) -> None:
        self._jobs: Optional[SimpleQueue[Job]] = None
        self._start = _thread.allocate_lock()
        self._local = threading.local()
        atexit.register(self.drain)
        if hasattr(os, "register_at_fork"):
            # A child must not get memory that is half written.
            os.register_at_fork(before=self.drain, after_in_child=self._forget)

    @property
    def is_here(self) -> bool:
        """Tell whether the caller is the thread itself."""
        return getattr(self._local, "is_here", False)

    def submit(self, function: Callable[[], Any]) -> Job:
        """Have the thread do a job, after those given before it."""
        job = Job(function)
        self._queue().put(job)
        return job

    def drain(self) -> None:
        """Wait until it has done all that it was given."""
        if self._jobs is not None and not self.is_here:
            self.submit(_do_nothing).wait()

    def _queue(self) -> SimpleQueue[Job]:
        with self._start:
            if self._jobs is None:
                jobs: SimpleQueue[Job] = SimpleQueue()
                # In one call: threading.Thread waits for its thread, and may be interrupted.
                _thread.start_new_thread(self._work, (jobs,))
                self._jobs = jobs
            return self._jobs

    def _work(self, jobs: SimpleQueue[Job]) -> None:
        self._local.is_here = True
        while True:
            jobs.get().run()

    def _forget(self) -> None:
        # A fork does not copy threads: the child would wait for ever.
        self._jobs = None
        self._start = _thread.allocate_lock()


def _do_nothing() -> None:
    pass
