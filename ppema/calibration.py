"""How far a model's confidence is from the share of its answers that are right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# What the literature counts in, and what figures of others can be compared with.
NUM_BINS = 15

# A confidence is counted in units of 2**-30, so that sums are whole numbers: the same in any
# order, over any number of threads or processes. It is off by 5e-10 at most.
_UNIT = 2.0**-30

Counts = npt.NDArray[np.int64]


# eq=False: comparing arrays gives arrays.
@dataclass(frozen=True, eq=False)
class Reliability:
    """Answers by how sure the model was of them, in bins of equal width; two can be added.

    Bin b of B holds confidences in (b / B, (b + 1) / B]. A confidence is the probability of the
    class that is answered.

    Args:
        counts: int64 [NUM_BINS], the answers in each bin.
        right: likewise, those that are right.
        confidence: likewise, the sum of their confidences, in units of 2**-30.
    """

    counts: Counts
    right: Counts
    confidence: Counts

    @classmethod
    def of(
        cls, confidence: npt.NDArray[np.float32], is_right: npt.NDArray[np.bool_]
    ) -> Reliability:
        """Return that of some answers.

        Args:
            confidence: [N], in (0, 1].
            is_right: [N].
        """
        sure = confidence.astype(np.float64)
        bins = (np.ceil(sure * NUM_BINS).astype(np.int64) - 1).clip(0, NUM_BINS - 1)
        units = np.rint(sure / _UNIT).astype(np.int64)
        sums = np.zeros(NUM_BINS, np.int64)
        np.add.at(sums, bins, units)
        counts, right = (np.bincount(b, minlength=NUM_BINS) for b in (bins, bins[is_right]))
        return cls(counts.astype(np.int64), right.astype(np.int64), sums)

    def __add__(self, other: Reliability) -> Reliability:
        """Return that of the answers of both."""
        return Reliability(
            self.counts + other.counts,
            self.right + other.right,
            self.confidence + other.confidence,
        )

    @property
    def ece(self) -> float:
        """Return the expected calibration error, in [0, 1].

        Source: sum over bins of |B| / n * |acc(B) - conf(B)|, Guo et al. 2017, arXiv 1706.04599,
        equation 3.
        """
        # |B| * acc(B) and |B| * conf(B) are sums, so that a whole number is left to be divided.
        right_units = self.right * round(1 / _UNIT)
        return int(np.abs(right_units - self.confidence).sum()) * _UNIT / int(self.counts.sum())

    def means(self) -> tuple[Any, Any]:
        """Return accuracy and mean confidence of each bin, NaN where it has no answer."""
        counts = np.where(self.counts > 0, self.counts, np.nan)
        return self.right / counts, self.confidence * _UNIT / counts
