"""What a model said of each image of an evaluation, gathered in the pass that measures it."""

from __future__ import annotations

import threading
from typing import Any, Optional

import numpy as np
import numpy.typing as npt
import paddle

from ..averaging import ranks
from ..calibration import Reliability
from ..plots import Mistake

# Of the curves of precision over recall: 0.00, 0.01, …, 1.00.
NUM_THRESHOLDS = 101

Counts = npt.NDArray[np.int64]
# Classes by the first image of their batch, reliability, confusions, right answers and all at each
# threshold, mistakes.
_Gathered = tuple[dict[int, Counts], Reliability, Counts, Counts, Counts, list[Mistake]]


class Predictions:
    """Gather each image's class, a confusion matrix, the surest mistakes, counts at thresholds.

    Batches may be added by several threads, in any order; the result is the same.

    Args:
        num_mistakes: so many are kept, with their images.
    """

    def __init__(self, num_mistakes: int) -> None:
        self._num_mistakes = num_mistakes
        self._lock = threading.Lock()
        self._confusion: Optional[Counts] = None
        self._own: Any = 0
        self._all: Any = 0
        self._classes: dict[int, Counts] = {}
        self._reliability: Optional[Reliability] = None
        self.mistakes: list[Mistake] = []

    def add(self, start: int, batch: Any, logits: Any) -> None:
        """Add a batch, whose first image is the `start`-th of the data, and its logits [N, K]."""
        scores = paddle.nn.functional.softmax(logits.astype("float32"), axis=1).numpy()
        label, predicted = batch.label, scores.argmax(axis=1)
        num_classes = scores.shape[1]
        rows = np.arange(len(label))
        pairs = np.bincount(label * num_classes + predicted, minlength=num_classes**2)
        buckets = (scores * (NUM_THRESHOLDS - 1)).astype(np.int64)
        cells = np.arange(num_classes) * NUM_THRESHOLDS + buckets
        num_cells = num_classes * NUM_THRESHOLDS
        own = np.bincount(cells[rows, label], minlength=num_cells)
        every = np.bincount(cells.ravel(), minlength=num_cells)
        confidence = scores[rows, predicted]
        mistakes = self._surest(start, batch, predicted, confidence)
        reliability = Reliability.of(confidence, predicted == label)
        with self._lock:
            self._take(({start: predicted}, reliability, pairs, own, every, mistakes))

    def gather(self) -> None:
        """Add what the other ranks have gathered; each then has it all. All ranks call it."""
        own = self._classes, self._reliability, self._confusion, self._own, self._all, self.mistakes
        for rank, gathered in enumerate(ranks.gather(own)):
            # A rank may have had no batch at all.
            if rank != ranks.rank() and gathered[0]:
                self._take(gathered)

    def _take(self, gathered: _Gathered) -> None:
        classes, reliability, pairs, own, every, mistakes = gathered
        self._classes.update(classes)
        known = self._reliability
        self._reliability = reliability if known is None else known + reliability
        self._confusion = pairs if self._confusion is None else self._confusion + pairs
        self._own, self._all = self._own + own, self._all + every
        kept = sorted([*self.mistakes, *mistakes], key=lambda m: (-m.probability, m.index))
        self.mistakes = kept[: self._num_mistakes]

    @property
    def classes(self) -> Counts:
        """Return the class that was predicted for each image, int64 [N], in the data's order."""
        return np.concatenate([self._classes[start] for start in sorted(self._classes)])

    @property
    def reliability(self) -> Reliability:
        """Return the answers by how sure the model was of them."""
        assert self._reliability is not None
        return self._reliability

    @property
    def confusion(self) -> Counts:
        """Return how many images of each class (row) were taken for each class (column)."""
        assert self._confusion is not None
        num_classes = round(len(self._confusion) ** 0.5)
        return self._confusion.reshape(num_classes, num_classes)

    def at_thresholds(self) -> tuple[Counts, Counts]:
        """Return the right and the wrong answers at each threshold, [K, NUM_THRESHOLDS] each.

        Class k is answered to each image that gives it at least the probability.
        """
        shape = (-1, NUM_THRESHOLDS)
        own, every = self._own.reshape(shape), self._all.reshape(shape)
        right, answers = (np.cumsum(x[:, ::-1], axis=1)[:, ::-1] for x in (own, every))
        return right, answers - right

    def _surest(self, start: int, batch: Any, predicted: Any, probability: Any) -> list[Mistake]:
        """Return the surest mistakes of a batch, with copies of their images."""
        wrong = np.flatnonzero(predicted != batch.label)
        order = wrong[np.argsort(-probability[wrong], kind="stable")][: self._num_mistakes]
        return [
            Mistake(
                index=start + int(i),
                label=int(batch.label[i]),
                predicted=int(predicted[i]),
                probability=float(probability[i]),
                image=np.array(batch.image[i], np.float32),
            )
            for i in order
        ]
