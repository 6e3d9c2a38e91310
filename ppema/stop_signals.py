"""SIGINT and SIGTERM of a training run: noted at once, acted on where nothing is left in half."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from types import FrameType, TracebackType
from typing import Any, Callable, Iterable, Iterator, Optional, TypeVar

Item = TypeVar("Item")
# Told the number of the signal that came here, 0 for none; returns that of all processes, 0 where
# none came or they were not asked this time.
Agree = Callable[[int], int]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Those that are listened to, as a process has one handler for each signal.
_current: Optional[StopSignals] = None
# Whether signals after the first mean no more than it.
_expects_several = False


class StopRequest(KeyboardInterrupt):
    """A signal came; no handler of `Exception` takes this for an error of its own."""


class StopSignals:
    """Note the first signal for the length of a `with` block; a second one ends at once.

    Entered after Paddle is imported, which sets a handler for SIGTERM of its own.

    Args:
        agree: of several processes that train together, which must end at the same step, and call
            `leave_if_asked` equally often.
        is_launched: by Paddle's launcher, which sends SIGTERM three times within a second, and
            SIGKILL after 30: signals after the first are ignored.
    """

    def __init__(self, agree: Optional[Agree] = None, is_launched: bool = False) -> None:
        self.received: Optional[signal.Signals] = None
        self._agree, self._is_launched = agree, is_launched
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
        """Raise StopRequest once a signal came; of several processes, once all know."""
        if self._agree is not None:
            number = self._agree(int(self.received or 0))
            if not number:
                return
            self.received = signal.Signals(number)
        if self.received is not None:
            raise StopRequest

    @property
    def is_shared(self) -> bool:
        """Tell whether other processes have to agree before this one ends."""
        return self._agree is not None

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Let a signal break off what is done in this block, which must leave nothing in half."""
        if self.is_shared:
            yield
            return
        self._is_waiting = True
        try:
            self.leave_if_asked()
            yield
        finally:
            self._is_waiting = False

    def _note(self, number: int, frame: Optional[FrameType]) -> None:
        # By the system itself, which asks no Python code that may hang.
        for each in _SIGNALS:
            signal.signal(each, handler_of_more(self._is_launched))
        self.received = signal.Signals(number)
        # Not in a worker that was forked just now.
        if self._is_waiting and os.getpid() == self._process:
            raise StopRequest


def expect_several() -> None:
    """Ignore signals after the first from now on, as who sends them may send several for one.

    A study passes on the signal that it got, and its end, which a second one brings about at once,
    sends another.
    """
    global _expects_several
    _expects_several = True


def handler_of_more(is_launched: bool) -> signal.Handlers:
    """Return what is done about signals after the first."""
    return signal.SIG_IGN if is_launched or _expects_several else signal.SIG_DFL


def leave_if_asked() -> None:
    """Raise StopRequest where a training run listens to signals, and one came."""
    if _current is not None:
        _current.leave_if_asked()


def watched(items: Iterable[Item], num_rounds: Optional[int] = None) -> Iterator[Item]:
    """Yield the items, and raise StopRequest in place of the next one once a signal came.

    Several processes go on or end together, in so many rounds (`num_rounds`), of which this one
    may lack an item in the last; without a number, what is done here is not broken off.
    """
    if _current is None or not _current.is_shared:
        for item in items:
            leave_if_asked()
            yield item
        return
    iterator = iter(items)
    for _ in range(num_rounds or 0):
        leave_if_asked()
        yield from itertools.islice(iterator, 1)
    yield from iterator


def waiting() -> contextlib.AbstractContextManager[None]:
    """Return a block that a signal to a training run breaks off with StopRequest."""
    return contextlib.nullcontext() if _current is None else _current.waiting()
