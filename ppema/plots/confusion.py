"""The picture of a confusion matrix, from 2 classes to hundreds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Sequence

import numpy as np
import numpy.typing as npt

from .figure import new_figure, save

# Up to so many classes each cell has its count; up to so many each has its name at the axes.
_MOST_COUNTS, _MOST_NAMES = 30, 120
_NUM_NAMED = 5
_LONGEST = 18


def plot_confusion(
    counts: npt.NDArray[np.int64], class_names: Sequence[str], title: str, path: Path
) -> None:
    """Draw how many images of each class (row) were taken for each class (column).

    Colours are shares of the row: blue for right answers, red for wrong ones, on a scale of their
    own, since a good model's mistakes would be white on that of the right ones.

    Args:
        counts: [K, K].
        class_names: K of them.
        title: above the picture.
        path: of the PNG.

    Raises:
        StorageError: the disk refused.
    """
    num_classes = len(counts)
    side = min(max(4.5, 0.55 * num_classes), 16.0)
    figure, (axes,) = new_figure(1, heights=(1,), size=(side + 1.5, side))
    axes.grid(False)
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    is_right = np.eye(num_classes, dtype=bool)
    wrong = np.ma.masked_where(is_right, 100 * shares)
    largest = float(wrong.filled(0.0).max())
    axes.imshow(np.ma.masked_where(~is_right, shares), cmap="Blues", vmin=0, vmax=1.6)
    drawn = axes.imshow(wrong, cmap="Reds", vmin=0, vmax=largest or 1.0)
    if largest:
        bar = figure.colorbar(drawn, ax=axes, fraction=0.04, pad=0.02)
        bar.set_label("wrong, % of the class's images")
    if num_classes <= _MOST_COUNTS:
        _write_counts(
            axes, counts, wrong.filled(0.0) / (largest or 1.0), size=_font_size(side, num_classes)
        )
    names = [_shortened(name) for name in class_names]
    _name_axes(axes, names, _font_size(side, num_classes))
    axes.set_title(f"{title}\n{_most_frequent(counts, names)}", fontsize=11)
    save(figure, path, [title, *class_names])


def _write_counts(axes: Any, counts: Any, redness: Any, size: float) -> None:
    for row, column in np.argwhere(counts > 0):
        axes.text(
            column,
            row,
            f"{counts[row, column]}",
            ha="center",
            va="center",
            fontsize=size,
            color="white" if redness[row, column] > 0.6 else "black",
        )


def _name_axes(axes: Any, names: Sequence[str], size: float) -> None:
    axes.set_ylabel("true class")
    axes.set_xlabel("predicted class")
    if len(names) > _MOST_NAMES:
        return
    is_long = max(map(len, names)) > 2
    axes.set_xticks(range(len(names)), names, fontsize=size, rotation=90 if is_long else 0)
    axes.set_yticks(range(len(names)), names, fontsize=size)


def _most_frequent(counts: npt.NDArray[np.int64], names: Sequence[str]) -> str:
    """Return the confusions that happened most often, in words."""
    wrong = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_NUM_NAMED]
    cells = [divmod(int(cell), len(counts)) for cell in order]
    said = [
        f"{names[row]} as {names[col]} ({wrong[row, col]})" for row, col in cells if wrong[row, col]
    ]
    return f"most often: {', '.join(said)}" if said else "no mistakes"


def _font_size(side: float, num_classes: int) -> float:
    """Return the points of a text that fits a cell."""
    return float(min(max(side * 72 / num_classes * 0.3, 4.0), 11.0))


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
