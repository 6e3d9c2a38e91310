"""What shows a run to people: histograms of its weights, its curves, its best at the end."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Mapping

from ..averaging import ranks
from ..plots import plot_curves
from ..stop_signals import watched
from .evaluate import RAW, mark_of
from .hooks import EvaluateHook
from .record import METRICS, Recorder, read_records
from .trainer import Hook, Trainer

logger = logging.getLogger(__name__)

CURVES = "curves.png"


class HistogramHook(Hook):
    """Show histograms of the raw weights, and of each average beside them, after each epoch."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def after_step(self, trainer: Trainer) -> None:
        """Show them where an epoch ends and there is a view to show them in."""
        if not (trainer.is_epoch_end and self._recorder.has_view):
            return
        trainer.refresh_averages()
        self._recorder.show_weights(RAW, trainer.model.state_dict(), trainer.step)
        for name, average in watched(trainer.averages.items()):
            self._recorder.show_weights(name, average.averaged_state_dict(), trainer.step)


class SummaryHook(Hook):
    """Draw the curves of the run at its end, and say which weights were best.

    Args:
        folder: the run's folder.
        title: above the picture.
        evaluate: the hook that knows the best.
    """

    def __init__(self, folder: Path, title: str, evaluate: EvaluateHook) -> None:
        self._folder, self._title, self._evaluate = folder, title, evaluate

    def after_step(self, trainer: Trainer) -> None:
        """Draw after the last step, all figures being in the record."""
        if not (trainer.is_run_end and ranks.is_first()):
            return
        evaluate = self._evaluate
        draw_summary(self._folder, self._title, evaluate.best, evaluate.select, evaluate.note)


def draw_summary(
    folder: Path, title: str, best: Mapping[str, Any], select: str, note: str = ""
) -> None:
    """Draw the curves of a run, all figures being in its record; say which weights were best.

    `best` has their `average`, `step` and figures, or nothing; `note` is said beside those.
    """
    word = mark_of(select)
    plot_curves(list(read_records(folder / METRICS)), title, folder / CURVES, best or None, word)
    logger.info("curves drawn in %s", folder / CURVES)
    text = "finished; nothing was evaluated"
    if best:
        text = (
            f"{word}: {best['average']} of step {best['step']}, "
            f"top1 {100 * best['top1']:.2f} %  loss {best['loss']:.4f}{note}"
        )
    logger.info("%s: %s", folder, text, extra={"is_result": True})
