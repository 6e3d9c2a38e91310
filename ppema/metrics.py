"""What evaluation measures: top-1, top-2 and the mean loss."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import paddle


@dataclass(frozen=True)
class Evaluation:
    """Shares in [0, 1] of images whose class is first, or among the first two; the mean loss."""

    top1: float
    top2: float
    loss: float

    def as_dict(self) -> dict[str, float]:
        """Return the figures by name, as they stand in metrics.jsonl and the manifest."""
        return asdict(self)

    @property
    def rank(self) -> tuple[float, float]:
        """Return what a better evaluation has more of: top-1, then a lower loss."""
        return (self.top1, -self.loss)

    def __str__(self) -> str:
        return f"top1 {_percent(self.top1)}  top2 {_percent(self.top2)}  loss {self.loss:.4f}"


def num_correct(logits: Any, label: Any, k: int) -> Any:
    """Return how many of `label` [N] are among the k largest of `logits` [N, C], as int64 []."""
    k = min(k, logits.shape[1])
    predicted = paddle.topk(logits, k, axis=1)[1]
    return (predicted == label.unsqueeze(1)).sum()


def num_first_and_second(logits: Any, label: Any) -> Any:
    """Return of how many of `label` [N] the largest, and the second largest, of `logits` is.

    As int64 [2], [1] where there is one class only. In one search for both; the sum of the two is
    `num_correct` of k = 2.
    """
    predicted = paddle.topk(logits, min(2, logits.shape[1]), axis=1)[1]
    return (predicted == label.unsqueeze(1)).sum(axis=0)


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
