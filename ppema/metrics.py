"""What evaluation measures: top-1, top-2, the mean loss, calibration; and churn between runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle


@dataclass(frozen=True)
class Evaluation:
    """Shares in [0, 1] of images whose class is first, or among the first two; the mean loss.

    And the expected calibration error in [0, 1], of `calibration.Reliability`.
    """

    top1: float
    top2: float
    loss: float
    ece: float

    def as_dict(self) -> dict[str, float]:
        """Return the figures by name, as they stand in metrics.jsonl and the manifest."""
        return asdict(self)

    @property
    def rank(self) -> tuple[float, float]:
        """Return what a better evaluation has more of: top-1, then a lower loss."""
        return (self.top1, -self.loss)

    def __str__(self) -> str:
        return (
            f"top1 {_percent(self.top1)}  top2 {_percent(self.top2)}  loss {self.loss:.4f}  "
            f"ece {_percent(self.ece)}"
        )


def num_correct(logits: Any, label: Any, k: int) -> Any:
    """Return how many of `label` [N] are among the k largest of `logits` [N, C], as int64 []."""
    k = min(k, logits.shape[1])
    predicted = paddle.topk(logits, k, axis=1)[1]
    return (predicted == label.unsqueeze(1)).sum()


def is_first_and_second(logits: Any, label: Any) -> Any:
    """Return whether each of `label` [N] is the largest, and the second largest, of `logits`.

    As bool [N, 2], [N, 1] where there is one class only. In one search for both; the sum of the
    two is `num_correct` of k = 2.
    """
    predicted = paddle.topk(logits, min(2, logits.shape[1]), axis=1)[1]
    return predicted == label.unsqueeze(1)


def confidences(logits: Any) -> Any:
    """Return the probability of the likeliest class for each of `logits` [N, C], as float32 [N]."""
    return paddle.nn.functional.softmax(logits.astype("float32"), axis=1).max(axis=1)


def churn(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> float:
    """Return the share, in [0, 1], of images that two models put into different classes.

    Args:
        first: int64 [N], the classes that one predicts, as `Predictions.classes` has them.
        second: likewise, of the same images in the same order.

    Raises:
        ValueError: they are not of the same images, or there are none.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(
            f"churn is of two lists of classes of the same images, got {list(first.shape)} and "
            f"{list(second.shape)}"
        )
    return int((first != second).sum()) / len(first)


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
