"""What is done at SIGINT and SIGTERM: the last step is saved, then the run ends."""

from __future__ import annotations

from ..errors import StoppedError
from ..stop_signals import StopSignals
from .hooks import CheckpointHook
from .trainer import Hook, Trainer


class StopHook(Hook):
    """Save the step after which a signal made the run leave what it did, and end the run."""

    def __init__(self, signals: StopSignals, checkpoint: CheckpointHook) -> None:
        self._signals, self._checkpoint = signals, checkpoint

    def on_stop(self, trainer: Trainer) -> None:
        """Save, and raise StoppedError."""
        received = self._signals.received
        assert received is not None
        if trainer.step == 0:
            raise StoppedError(f"stopped by {received.name} before the first step", received)
        self._checkpoint.save(trainer, trainer.is_open)
        raise StoppedError(
            f"stopped by {received.name} after step {trainer.step}, which is saved; "
            "continue with -r auto",
            received,
        )
