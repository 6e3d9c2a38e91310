"""Curves of raw and averaged weights over a run, and sweeps over widths."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from .figure import RAW_COLOR, label_ends, new_figure, save, style_of

# The least range of top-1 that is drawn, in percent.
_LEAST_RANGE = 0.2
# Early figures may be so many times as far below the best as the later ones.
_EARLY = 3
# More evaluations than that are a line without dots, more training records one with a mean.
_MOST_DOTS, _MOST_NOISE = 40, 100


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
    figure, (upper, lower) = new_figure(2, heights=(3, 1))
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
    lower.plot(widths, [100 * point.residual for point in points], "o-", color="0.4")
    lower.set_ylabel("residual, %")
    lower.set_ylim(bottom=0)
    lower.set_xlabel("width of the average, sigma_rel (share of the run)")
    for axes in (upper, lower):
        axes.set_xscale("log")
        axes.set_xticks(widths, [f"{width:.3g}" for width in widths], fontsize=8)
        axes.minorticks_off()
    styles = _styles_of(list(others))
    for name, top1 in others.items():
        upper.axhline(100 * top1, color=styles[name]["color"], linestyle="--", linewidth=1)
    ends = [(f"{n} {100 * top1:.2f}", 100 * top1, styles[n]["color"]) for n, top1 in others.items()]
    label_ends(upper, ends)
    save(figure, path, [title])


def plot_curves(
    records: Sequence[Mapping[str, Any]],
    title: str,
    path: Path,
    winner: Optional[Mapping[str, Any]] = None,
    word: str = "best",
) -> None:
    """Draw top-1 of raw and each average over the steps of a run, and the losses below.

    Each curve carries its name at its end, so that none has to be looked up. A figure that was
    not finite is a gap.

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
    height = 5.6 + 0.3 * max(len(names) - 6, 0)
    heights = (3, 2) if names else (1,)
    figure, axes = new_figure(len(heights), heights, size=(8.4, height))
    if winner:
        title += (
            f"\n{word}: {winner['average']}, {100 * winner['top1']:.2f} % at step {winner['step']}"
        )
    axes[0].set_title(title)
    if names:
        _draw_top1(axes[0], evaluations, _styles_of(names))
    _draw_losses(axes[-1], training, evaluations, _styles_of(names))
    if winner:
        _mark(axes[0], winner["step"], winner["top1"])
        for each in axes:
            each.axvline(winner["step"], color="black", linestyle=":", linewidth=1)
    save(figure, path, [title])


def _draw_top1(
    axes: Any, evaluations: Sequence[Mapping[str, Any]], styles: Mapping[str, Mapping[str, Any]]
) -> None:
    ends = []
    for name, style in styles.items():
        steps, top1 = _curve(evaluations, name, "top1", 100.0)
        draw_curve(axes, steps, top1, {"linewidth": 1.5, **style})
        ends.append((f"{name} {top1[-1]:.2f}", top1[-1], style["color"]))
    last_step = max(record["step"] for record in evaluations)
    every = [100 * record["top1"] for record in evaluations]
    later = [100 * record["top1"] for record in evaluations if record["step"] > last_step / 4]
    limit_top1(axes, every, later)
    label_ends(axes, ends)


def limit_top1(axes: Any, every: Sequence[float], later: Sequence[float]) -> None:
    """Set the limits of top-1 in percent: what tells curves apart is near the top.

    Args:
        axes: to be limited.
        every: all figures.
        later: those after the beginning, when they may be far below the rest.
    """
    best = max(every)
    low = max(min(every), best - _EARLY * (best - min(later)))
    margin = 0.08 * max(best - low, _LEAST_RANGE)
    axes.set_ylim(low - margin, best + margin)
    axes.set_ylabel("top-1, %")
    axes.margins(x=0.02)


def draw_curve(
    axes: Any, at: Sequence[int], values: Sequence[float], style: Mapping[str, Any]
) -> None:
    """Draw a curve, with a dot at each value where they are few."""
    dots = {"marker": "o", "markersize": 3} if len(at) <= _MOST_DOTS else {}
    axes.plot(at, values, **dots, **style)


def _draw_losses(
    axes: Any,
    training: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Mapping[str, Any]],
    styles: Mapping[str, Mapping[str, Any]],
) -> None:
    steps, losses = _steps_of(training), values_of(training, "loss")
    is_noisy = len(steps) > _MOST_NOISE
    axes.plot(steps, losses, color="0.8" if is_noisy else "0.5", linewidth=1)
    if is_noisy:
        axes.plot(steps, _moving_mean(losses, len(losses) // 50), color="0.5", linewidth=1.5)
    ends = [("training", _last(losses), "0.5")]
    drawn = list(losses)
    for name, style in styles.items():
        steps, values = _curve(evaluations, name, "loss")
        draw_curve(axes, steps, values, {"linewidth": 1.2, **style})
        ends.append((name, _last(values), style["color"]))
        drawn += values
    finite = [value for value in drawn if math.isfinite(value)]
    if finite and min(finite) > 0:
        axes.set_yscale("log")
    axes.set_ylabel("loss")
    axes.set_xlabel("step")
    if finite:
        axes.autoscale_view()
        label_ends(axes, [end for end in ends if math.isfinite(end[1])])
    else:
        axes.text(0.5, 0.5, "no finite loss", transform=axes.transAxes, ha="center")
        axes.set_yticks([])


def _styles_of(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return how the curve of each set of weights looks: the raw ones, then each average."""
    averages = [name for name in names if name != "raw"]
    styles = {name: style_of(index) for index, name in enumerate(averages)}
    return {name: styles.get(name, {"color": RAW_COLOR, "linestyle": "-"}) for name in names}


def _curve(
    records: Sequence[Mapping[str, Any]], name: str, key: str, factor: float = 1.0
) -> tuple[list[int], list[float]]:
    own = [record for record in records if record["average"] == name]
    return _steps_of(own), [factor * value for value in values_of(own, key)]


def _steps_of(records: Sequence[Mapping[str, Any]]) -> list[int]:
    return [record["step"] for record in records]


def values_of(records: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """Return a figure of each record, NaN where it was not finite."""
    # What was not finite is null in the record.
    return [math.nan if record[key] is None else record[key] for record in records]


def _last(values: Sequence[float]) -> float:
    """Return the last finite value, NaN without any."""
    return next((value for value in reversed(values) if math.isfinite(value)), math.nan)


def _moving_mean(values: Sequence[float], width: int) -> Any:
    """Return the mean of the finite values around each, `width` in all; a gap stays one."""
    array, window = np.array(values), np.ones(width)
    is_finite = np.isfinite(array)
    sums = np.convolve(np.where(is_finite, array, 0.0), window, "same")
    counts = np.convolve(is_finite, window, "same")
    return np.where(is_finite, sums / np.maximum(counts, 1), math.nan)


def _mark(axes: Any, x: float, top1: float) -> None:
    """Mark the best point."""
    axes.plot([x], [100 * top1], "*", color="black", markersize=13, zorder=9)
