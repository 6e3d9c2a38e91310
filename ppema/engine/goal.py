"""End a run early, with the first epoch of which so many training images were answered right."""

from __future__ import annotations

import logging
from typing import Any, Mapping

from ..averaging import ranks
from .trainer import Hook, Trainer

logger = logging.getLogger(__name__)


class AccuracyGoal(Hook):
    """End the run with the first epoch whose training accuracy reaches a goal.

    That is the share of right answers over the images of an epoch, each as it was trained on:
    augmented, and by the weights of its step. To be the first hook, as others act on the end.

    Args:
        accuracy: the share, above 0, at most 1.
    """

    name = "goal"

    def __init__(self, accuracy: float) -> None:
        self._goal = accuracy
        self._epoch, self._num_images, self._num_correct = 0, 0, 0
        # Of this rank, not yet in the sums of all.
        self._own_images, self._own_correct = 0, 0

    def before_run(self, trainer: Trainer) -> None:
        """Forget what was counted where the epoch is to begin, perhaps anew with other data."""
        if trainer.samples == 0:
            self._begin(trainer.epoch)

    def after_step(self, trainer: Trainer) -> None:
        """Count the images of the step; at the end of an epoch, compare."""
        if trainer.epoch != self._epoch:
            self._begin(trainer.epoch)
        for count, _, num_correct in trainer.figures:
            self._own_images += count
            # A tensor; read at the end of the epoch, as reading waits.
            self._own_correct = self._own_correct + num_correct
        if trainer.is_epoch_end:
            self.gather()
            if self._num_images:
                self._compare(trainer, self._num_correct / self._num_images)

    def gather(self) -> None:
        """Take in what the other ranks have counted."""
        images, correct = ranks.sum_of([self._own_images, int(self._own_correct)])
        self._num_images += int(images)
        self._num_correct += int(correct)
        self._own_images, self._own_correct = 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Return what is counted of the epoch at hand."""
        return {
            "epoch": self._epoch,
            "num_images": self._num_images,
            "num_correct": self._num_correct,
        }

    def set_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self._epoch, self._num_images = state["epoch"], state["num_images"]
        self._num_correct = state["num_correct"]

    def _begin(self, epoch: int) -> None:
        self._epoch, self._num_images, self._num_correct = epoch, 0, 0
        self._own_images, self._own_correct = 0, 0

    def _compare(self, trainer: Trainer, accuracy: float) -> None:
        found = f"epoch {trainer.epoch}: training accuracy {100 * accuracy:.2f} %"
        if accuracy >= self._goal:
            logger.info("%s, and %g %% is enough: the run ends here", found, 100 * self._goal)
            trainer.end_with_epoch()
        elif trainer.epoch == trainer.num_epochs:
            logger.warning(
                "%s: %g %% was not reached in %d epochs, and there are no more",
                found,
                100 * self._goal,
                trainer.epoch,
            )
        else:
            logger.info("%s: the run goes on until %g %%", found, 100 * self._goal)
