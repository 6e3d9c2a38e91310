"""The picture of a reliability diagram: how often answers are right, by how sure they are."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any, Mapping, Optional

import numpy as np

from ..calibration import NUM_BINS, Reliability
from .figure import new_figure, save

_WIDTH = 100 / NUM_BINS
_TITLE_LETTERS = 64


def plot_reliability(
    reliability: Reliability, title: str, path: Path, facts: Optional[Mapping[str, str]] = None
) -> None:
    """Draw accuracy over confidence, bin by bin, and below how many answers are in each.

    The gap is between a bin's accuracy and its mean confidence; weighted by the answers, the gaps
    are the expected calibration error.

    Args:
        reliability: of at least one answer.
        title: above the picture.
        path: of the PNG.
        facts: what the file is to say of itself.

    Raises:
        StorageError: the disk refused.
    """
    figure, (upper, lower) = new_figure(2, heights=(3, 1), size=(6.0, 6.8))
    upper.set_axisbelow(True)
    lower.set_axisbelow(True)
    lefts = np.arange(NUM_BINS) * _WIDTH
    is_there = reliability.counts > 0
    accuracy, confidence = (100 * values[is_there] for values in reliability.means())
    _draw_bars(upper, lefts[is_there], accuracy, confidence)
    upper.plot([0, 100], [0, 100], color="0.3", linestyle="--", label="as right as sure")
    upper.set(xlim=(0, 100), ylim=(0, 100), ylabel="right, % of the answers")
    upper.legend(loc="upper left", fontsize=9)
    lower.bar(lefts, reliability.counts, _WIDTH, align="edge", color="0.6", edgecolor="white")
    # Nearly all answers of a good model are in the last bin.
    lower.set_yscale("log")
    lower.set_ylim(bottom=0.5)
    lower.yaxis.set_major_formatter("{x:,.0f}")
    lower.set(xlabel="confidence, %", ylabel="answers")
    said = f"ECE {100 * reliability.ece:.2f} % ({NUM_BINS} bins)"
    upper.set_title(f"{textwrap.fill(title, _TITLE_LETTERS)}\n{said}", fontsize=11)
    save(figure, path, [title], facts)


def _draw_bars(axes: Any, lefts: Any, accuracy: Any, confidence: Any) -> None:
    """Draw a bar for each bin, and over it how far it is from the mean confidence."""
    shape = {"width": _WIDTH, "align": "edge"}
    axes.bar(lefts, accuracy, color="#9ecae1", edgecolor="white", label="right", **shape)
    axes.bar(
        lefts,
        confidence - accuracy,
        bottom=accuracy,
        color=(0.84, 0.15, 0.16, 0.25),
        edgecolor="C3",
        linewidth=0.8,
        label="gap to the mean confidence",
        **shape,
    )
