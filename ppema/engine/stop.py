"""SIGINT and SIGTERM: the step at hand is finished and saved, then the run ends."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Optional

from ..errors import StoppedError
from .hooks import CheckpointHook
from .trainer import Hook, Trainer

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Note the first signal for the length of a `with` block; a second one ends at once.

    Entered after Paddle is imported, which sets a handler for SIGTERM of its own.
    """

    def __init__(self) -> None:
        self.received: Optional[signal.Signals] = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Optional[FrameType]) -> None:
        if self.received is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.received = signal.Signals(number)


class StopHook(Hook):
    """Save the step at which a signal came, and end the run."""

    def __init__(self, signals: StopSignals, checkpoint: CheckpointHook) -> None:
        self._signals, self._checkpoint = signals, checkpoint

    def after_step(self, trainer: Trainer) -> None:
        """Raise StoppedError where a signal came; the last step of a run just ends it."""
        received = self._signals.received
        if received is None or trainer.is_run_end:
            return
        self._checkpoint.save(trainer)
        raise StoppedError(
            f"stopped by {received.name} after step {trainer.step}, which is saved; "
            "continue with -r auto",
            received,
        )
