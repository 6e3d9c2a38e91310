"""Pictures of a run: curves of raw and averaged weights, and sweeps over widths."""

from __future__ import annotations

import logging
import math
import os
import warnings
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Optional, Sequence

from .checkpoint.files import reason, write_atomically
from .errors import StorageError

# Of the levels, in the order of the evaluation: raw comes first, and grey is its own.
_COLORS = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9")
# The least range of top-1 that is drawn, in percent.
_LEAST_RANGE = 0.2


class SweepPoint(NamedTuple):
    """One average made after the run: its width, how well it was met, and its accuracy."""

    sigma_rel: float
    residual: float
    top1: float


def plot_sweep(
    points: Sequence[SweepPoint],
    best: SweepPoint,
    others: Mapping[str, float],
    title: str,
    path: Path,
) -> None:
    """Draw top-1 over the width of averages made after a run, and how well each width was met.

    Args:
        points: by width.
        best: the one of them to be marked.
        others: top-1 of other weights of the same step, by name, as level lines.
        title: above the picture.
        path: of the PNG.

    Raises:
        StorageError: the disk refused.
    """
    figure, (upper, lower) = _new_figure(2, heights=(3, 1))
    widths = [point.sigma_rel for point in points]
    upper.plot(widths, [100 * point.top1 for point in points], "o-", color="black")
    _mark(upper, best.sigma_rel, best.top1)
    upper.set_ylabel("top-1, %")
    upper.set_title(f"{title}\nbest: {100 * best.top1:.2f} % at sigma_rel {best.sigma_rel:.3g}")
    upper.margins(y=0.15)
    # Figures that are all the same would be drawn over ten percent.
    drawn = [100 * top1 for top1 in (*others.values(), *(point.top1 for point in points))]
    if max(drawn) - min(drawn) < _LEAST_RANGE:
        upper.set_ylim(min(drawn) - _LEAST_RANGE, max(drawn) + _LEAST_RANGE)
    _draw_levels(upper, others)
    lower.plot(widths, [100 * point.residual for point in points], "o-", color="0.4")
    lower.set_ylabel("residual, %")
    lower.set_ylim(bottom=0)
    lower.set_xlabel("width of the average, sigma_rel (share of the run)")
    for axes in (upper, lower):
        axes.set_xscale("log")
        axes.set_xticks(widths, [f"{width:.3g}" for width in widths], fontsize=8)
        axes.minorticks_off()
    _save(figure, path)


def plot_curves(
    records: Sequence[Mapping[str, Any]],
    title: str,
    path: Path,
    winner: Optional[Mapping[str, Any]] = None,
    word: str = "best",
) -> None:
    """Draw the loss, and top-1 of raw and each average, over the steps of a run.

    Each curve carries its name at its end, so that none has to be looked up.

    Args:
        records: of metrics.jsonl.
        title: above the picture.
        path: of the PNG.
        winner: `average`, `step` and `top1` of the weights to be marked.
        word: what they are called.

    Raises:
        StorageError: the disk refused.
    """
    training = [record for record in records if record["split"] == "train"]
    evaluations = [record for record in records if record["split"] == "eval"]
    names = list(dict.fromkeys(record["average"] for record in evaluations))
    figure, axes = _new_figure(2 if names else 1, heights=(3, 2) if names else (1,))
    loss_axes = axes[-1]
    if names:
        _draw_evaluations(axes[0], evaluations, names, winner)
    if winner:
        title += (
            f"\n{word}: {winner['average']}, {100 * winner['top1']:.2f} % at step {winner['step']}"
        )
    axes[0].set_title(title)
    steps, losses = [r["step"] for r in training], [r["loss"] for r in training]
    loss_axes.plot(steps, losses, color="0.4", linewidth=1)
    loss_axes.set_yscale("log")
    loss_axes.set_ylabel("training loss")
    loss_axes.set_xlabel("step")
    _save(figure, path)


def _draw_evaluations(
    axes: Any,
    evaluations: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    winner: Optional[Mapping[str, Any]],
) -> None:
    ends = {}
    for index, name in enumerate(names):
        curve = [record for record in evaluations if record["average"] == name]
        steps, top1 = [r["step"] for r in curve], [100 * r["top1"] for r in curve]
        color = _color_of(index)
        axes.plot(steps, top1, "o-", color=color, linewidth=1.5, markersize=3)
        ends[name] = (top1[-1], color)
    last_step = max(record["step"] for record in evaluations)
    if winner:
        _mark(axes, winner["step"], winner["top1"])
    # Early figures are far below the rest; what tells curves apart is near the top.
    later = sorted(100 * record["top1"] for record in evaluations if record["step"] > last_step / 4)
    best = max(100 * record["top1"] for record in evaluations)
    if later:
        axes.set_ylim(bottom=later[0] - 0.1 * max(best - later[0], 0.1))
    axes.set_ylabel("top-1, %")
    axes.margins(x=0.02, y=0.12)
    _label_ends(axes, ends)


def _color_of(index: int) -> str:
    """Return the colour of the raw weights (0) or of the index-th average."""
    return "0.4" if index == 0 else _COLORS[(index - 1) % len(_COLORS)]


def _mark(axes: Any, x: float, top1: float) -> None:
    """Mark the best point."""
    axes.plot([x], [100 * top1], "*", color="black", markersize=13, zorder=9)


def _draw_levels(axes: Any, levels: Mapping[str, float]) -> None:
    ends = {}
    for index, (name, top1) in enumerate(levels.items()):
        ends[name] = (100 * top1, _color_of(index))
        axes.axhline(100 * top1, color=ends[name][1], linestyle="--", linewidth=1)
    _label_ends(axes, ends)


def _label_ends(axes: Any, ends: Mapping[str, tuple[float, str]]) -> None:
    """Write each name to the right of its curve's end, one below the other where they are near."""
    if not ends:
        return
    # Asked for last: what is drawn later would move the axes under the labels.
    low, high = axes.get_ylim()
    step = 0.055 * (high - low)
    position = math.inf
    for name, (value, color) in sorted(ends.items(), key=lambda item: -item[1][0]):
        position = min(value, position - step)
        axes.annotate(
            f"{name} {value:.2f}",
            xy=(1.0, position),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=color,
            fontsize=9,
            annotation_clip=False,
        )


def _new_figure(rows: int, heights: Sequence[int]) -> tuple[Any, Any]:
    # Imported where it is used: a run without pictures should not wait for it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # It tells of the fonts it finds.
        logging.getLogger("matplotlib").setLevel(logging.WARNING)
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    figure, axes = pyplot.subplots(
        rows,
        1,
        figsize=(8.4, 5.6),
        sharex=True,
        squeeze=False,
        gridspec_kw={"height_ratios": list(heights)},
    )
    for each in axes[:, 0]:
        each.grid(color="0.92")
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes[:, 0]


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    def write(target: Path) -> None:
        figure.savefig(target, format="png", dpi=120, bbox_inches="tight")
        with open(target, "rb") as file:
            os.fsync(file.fileno())

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, write)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {reason(error)}") from error
    finally:
        pyplot.close(figure)
