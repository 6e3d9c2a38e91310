"""The one picture that says most: what an average saves in steps, and what it gains at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, NamedTuple, Optional, Sequence

from .curves import limit_top1
from .figure import RAW_COLOR, count_along, label_ends, new_row, save
from .study import colors_of

_SIZE, _WIDTHS = (8.4, 3.2), (1.45, 1.0)
_LEVEL_COLOR = "0.25"
_LATE = 0.7


class Band(NamedTuple):
    """Top-1 of some weights over the steps, and when it was there.

    Attributes:
        name: of the weights.
        steps: of the evaluations.
        mean: of all seeds, shares in [0, 1].
        std: of the seeds, likewise.
        reached: the mean step at which a seed first reached the level; None where none did.
        note: written beside that step.
    """

    name: str
    steps: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]
    reached: Optional[float]
    note: str


class Gain(NamedTuple):
    """What some weights gain over the raw ones: in percentage points, with its interval."""

    label: str
    name: str
    mean: float
    low: float
    high: float


def plot_headline(
    bands: Sequence[Band],
    level: float,
    gains: Sequence[Gain],
    titles: tuple[str, str],
    path: Path,
    facts: Optional[Mapping[str, str]] = None,
) -> None:
    """Draw curves with the level that they reach on the left, and gains on the right.

    Args:
        bands: of the curves.
        level: the top-1 that is to be reached, a share.
        gains: from the top.
        titles: of the left and the right part.
        path: of the PNG.
        facts: what the file is to say of itself.

    Raises:
        StorageError: the disk refused.
    """
    figure, (left, right) = new_row(_WIDTHS, _SIZE)
    colors = colors_of([*(band.name for band in bands), *(gain.name for gain in gains)])
    _draw_bands(left, bands, level, colors)
    _draw_gains(right, gains, colors)
    for axes, title in zip((left, right), titles):
        axes.set_title(title, loc="left", fontsize=10)
    figure.tight_layout()
    save(figure, path, titles, facts)


def _draw_bands(axes: Any, bands: Sequence[Band], level: float, colors: Mapping[str, str]) -> None:
    every, later = [100 * level], []
    last_step = max(step for band in bands for step in band.steps)
    axes.axhline(100 * level, color=_LEVEL_COLOR, linestyle=":", linewidth=1.2)
    for band in bands:
        top1 = [100 * mean for mean in band.mean]
        low, high = ([t + s * 100 * d for t, d in zip(top1, band.std)] for s in (-1, 1))
        axes.fill_between(band.steps, low, high, color=colors[band.name], alpha=0.16, linewidth=0)
        axes.plot(band.steps, top1, color=colors[band.name], linewidth=1.6)
        every += [*low, *high]
        later += [value for step, value in zip(band.steps, low) if step > last_step / 4]
    count_along(axes)
    limit_top1(axes, every, later)
    axes.set_xlabel("step")
    _mark_steps(axes, bands, level, colors)
    ends = [(f"{b.name} {100 * b.mean[-1]:.2f}", 100 * b.mean[-1], colors[b.name]) for b in bands]
    label_ends(axes, [*ends, (f"{100 * level:g} %", 100 * level, _LEVEL_COLOR)])


def _mark_steps(axes: Any, bands: Sequence[Band], level: float, colors: Mapping[str, str]) -> None:
    """Mark on the level, and on the axis below, when each was there."""
    bottom, end = axes.get_ylim()[0], axes.get_xlim()[1]
    for row, band in enumerate(bands):
        if band.reached is None:
            continue
        color = colors[band.name]
        # What would run out of the axes stands on the left.
        is_late = band.reached > _LATE * end
        axes.plot(
            [band.reached] * 2, [bottom, 100 * level], color=color, linewidth=1.0, dashes=(3, 2)
        )
        axes.plot([band.reached], [100 * level], "o", color=color, markersize=6)
        axes.annotate(
            band.note,
            xy=(band.reached, bottom),
            # One above the other: steps may lie close together.
            xytext=(-4 if is_late else 4, 5 + 14 * row),
            ha="right" if is_late else "left",
            textcoords="offset points",
            color=color,
            fontsize=9,
        )


def _draw_gains(axes: Any, gains: Sequence[Gain], colors: Mapping[str, str]) -> None:
    axes.axvline(0, color=RAW_COLOR, linestyle="--", linewidth=1)
    for place, gain in enumerate(gains):
        color = colors[gain.name]
        axes.plot([gain.low, gain.high], [place, place], color=color, linewidth=2.2)
        axes.plot([gain.mean], [place], "o", color=color, markersize=6)
        axes.annotate(
            f"{gain.name} {gain.mean:+.2f}",
            xy=(gain.mean, place),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            color=color,
            fontsize=9,
        )
    axes.set_yticks(range(len(gains)), [gain.label for gain in gains])
    axes.set_ylim(len(gains) - 0.5, -0.75)
    axes.margins(x=0.18)
    axes.set_xlabel("points over raw, 95 % interval")
