"""SIGINT and SIGTERM of a training run: noted at once, acted on where nothing is left in half."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType, TracebackType
from typing import Any, Iterable, Iterator, Optional, TypeVar

Item = TypeVar("Item")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Those that are listened to, as a process has one handler for each signal.
_current: Optional[StopSignals] = None


class StopRequest(KeyboardInterrupt):
    """A signal came; no handler of `Exception` takes this for an error of its own."""


class StopSignals:
    """Note the first signal for the length of a `with` block; a second one ends at once.

    Entered after Paddle is imported, which sets a handler for SIGTERM of its own.
    """

    def __init__(self) -> None:
        self.received: Optional[signal.Signals] = None
        self._is_waiting = False
        self._before: dict[signal.Signals, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> StopSignals:
        global _current
        _current = self
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        global _current
        _current = None
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def leave_if_asked(self) -> None:
        """Raise StopRequest once a signal came."""
        if self.received is not None:
            raise StopRequest

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Let a signal break off what is done in this block, which must leave nothing in half."""
        self._is_waiting = True
        try:
            self.leave_if_asked()
            yield
        finally:
            self._is_waiting = False

    def _note(self, number: int, frame: Optional[FrameType]) -> None:
        # By the system itself, which asks no Python code that may hang.
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        self.received = signal.Signals(number)
        # Not in a worker that was forked just now.
        if self._is_waiting and os.getpid() == self._process:
            raise StopRequest


def leave_if_asked() -> None:
    """Raise StopRequest where a training run listens to signals, and one came."""
    if _current is not None:
        _current.leave_if_asked()


def watched(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items, and raise StopRequest in place of the next one once a signal came."""
    for item in items:
        leave_if_asked()
        yield item


def waiting() -> contextlib.AbstractContextManager[None]:
    """Return a block that a signal to a training run breaks off with StopRequest."""
    return contextlib.nullcontext() if _current is None else _current.waiting()
