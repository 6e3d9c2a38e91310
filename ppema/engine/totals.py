"""What the steps since the last log line add up to, also where a resume lies among them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Mapping, Sequence

from ..averaging import ranks


@dataclass
class Totals:
    """What the steps since the last log line add up to; tensors stay on the device.

    Attributes:
        figures: of each batch since, the images, their mean loss, the right answers.
        num_before, loss_before, correct_before: the images of steps before a resume, the sum of
            their losses, the right answers among them.
        num_steps: the steps, and the seconds that they and the wait for data took.
    """

    figures: list[tuple[int, Any, Any]] = field(default_factory=list)
    num_before: int = 0
    loss_before: float = 0.0
    correct_before: int = 0
    num_steps: int = 0
    step_s: float = 0.0
    data_s: float = 0.0

    def add(self, figures: Sequence[tuple[int, Any, Any]]) -> None:
        """Add the images, loss and right answers of each batch of a step."""
        self.figures += figures

    @property
    def num_samples(self) -> int:
        """Return the images seen."""
        return self.num_before + sum(count for count, _, _ in self.figures)

    def mean_loss(self) -> float:
        """Return the mean loss of an image, NaN without any; waits for the device."""
        return self._loss() / self.num_samples if self.num_samples else math.nan

    def accuracy(self) -> float:
        """Return the share of images whose class was first, NaN without any; waits likewise."""
        return self._correct() / self.num_samples if self.num_samples else math.nan

    def of_all_ranks(self) -> Totals:
        """Return the totals of all ranks, with the times of this one; all ranks call it."""
        images, loss, correct = ranks.sum_of([self.num_samples, self._loss(), self._correct()])
        return replace(
            self, figures=[], num_before=int(images), loss_before=loss, correct_before=int(correct)
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the sums so far as numbers; waits for the device."""
        return {
            "num_before": self.num_samples,
            "loss_before": self._loss(),
            "correct_before": self._correct(),
            "num_steps": self.num_steps,
            "step_s": self.step_s,
            "data_s": self.data_s,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Totals:
        """Return totals that go on from a `state_dict`, to the bits of an unbroken sum."""
        return cls(**state)

    @classmethod
    def from_states(cls, states: Sequence[Mapping[str, Any]]) -> Totals:
        """Return totals that go on from those of several ranks, with the times of the first."""
        sums = ("num_before", "loss_before", "correct_before")
        return cls(**{**states[0], **{key: sum(state[key] for state in states) for key in sums}})

    def without_sums(self) -> Totals:
        """Return totals of the same steps and times, with no image among them."""
        return replace(self, figures=[], num_before=0, loss_before=0.0, correct_before=0)

    def _loss(self) -> float:
        # From left to right, so that a sum taken up again is rounded as it would have been.
        return sum((count * float(loss) for count, loss, _ in self.figures), self.loss_before)

    def _correct(self) -> int:
        return sum((int(correct) for _, _, correct in self.figures), self.correct_before)
