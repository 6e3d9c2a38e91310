"""What a study found, in pictures: means with intervals, and accuracy over the steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, NamedTuple, Optional, Sequence

from .curves import draw_curve, limit_top1
from .figure import RAW_COLOR, label_ends, new_figure, save, style_of

# In inches.
_ROW, _PANEL, _CURVES = 0.3, 0.75, 2.8
_SELECTED_COLOR = "black"


class MeanRow(NamedTuple):
    """Some weights of a variant: their mean, and the interval of their difference.

    Attributes:
        name: of the weights.
        mean: in the unit of the axis.
        low: mean of the reference plus the lower end of the interval of the paired difference;
            None where there is none.
        high: likewise the upper end.
        note: written to the right.
        is_chosen: whether validation chose them.
    """

    name: str
    mean: float
    low: Optional[float]
    high: Optional[float]
    note: str
    is_chosen: bool


class MeanPanel(NamedTuple):
    """A variant: its title, its rows, and the mean of the reference."""

    title: str
    rows: Sequence[MeanRow]
    reference: float


class CurvePanel(NamedTuple):
    """A variant: its title, and by weights the steps with the means at them."""

    title: str
    curves: Mapping[str, tuple[Sequence[int], Sequence[float]]]


def plot_means(
    panels: Sequence[MeanPanel],
    title: str,
    unit: str,
    path: Path,
    facts: Optional[Mapping[str, str]] = None,
) -> None:
    """Draw a panel for each variant: a dot for the mean of each set of weights, a bar for its lead.

    The bar is the interval of the paired difference, drawn from the reference's mean on: it
    misses the dashed line where the interval misses 0. Each panel has a scale of its own.

    Args:
        panels: one or more.
        title: above the picture.
        unit: what the horizontal axis is of.
        path: of the PNG.
        facts: what the file is to say of itself.

    Raises:
        StorageError: the disk refused.
    """
    heights = [_PANEL + _ROW * len(panel.rows) for panel in panels]
    names = list(dict.fromkeys(row.name for panel in panels for row in panel.rows))
    colors = colors_of(names)
    figure, all_axes = new_figure(
        len(panels), heights, (8.4, 0.8 + sum(heights)), shares_axis=False
    )
    # A run without pictures does not wait for it.
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    for axes, panel in zip(all_axes, panels):
        _draw_means(axes, panel, colors)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    all_axes[-1].set_xlabel(unit)
    figure.suptitle(title)
    figure.tight_layout()
    save(figure, path, [title, *(panel.title for panel in panels)], facts)


def plot_mean_curves(
    panels: Sequence[CurvePanel],
    levels: Sequence[float],
    title: str,
    path: Path,
    facts: Optional[Mapping[str, str]] = None,
) -> None:
    """Draw top-1 over the steps, the mean of all seeds, and the accuracies to reach.

    Args:
        panels: one or more; values are shares in [0, 1].
        levels: a line each, likewise.
        title: above the picture.
        path: of the PNG.
        facts: what the file is to say of itself.

    Raises:
        StorageError: the disk refused.
    """
    heights = [_CURVES] * len(panels)
    size = (8.4, 0.8 + sum(heights))
    figure, all_axes = new_figure(len(panels), heights, size)
    colors = colors_of(list(dict.fromkeys(name for p in panels for name in p.curves)))
    for axes, panel in zip(all_axes, panels):
        _draw_panel(axes, panel, levels, colors)
    all_axes[-1].set_xlabel("step")
    figure.suptitle(title)
    figure.tight_layout()
    save(figure, path, [title, *(panel.title for panel in panels)], facts)


def colors_of(names: Sequence[str]) -> dict[str, str]:
    """Return the colour of each set of weights, the same in all pictures of a study."""
    averages = [name for name in names if name not in ("raw", "selected")]
    colors = {name: str(style_of(index)["color"]) for index, name in enumerate(averages)}
    return {**colors, "raw": RAW_COLOR, "selected": _SELECTED_COLOR}


def _draw_means(axes: Any, panel: MeanPanel, colors: Mapping[str, str]) -> None:
    axes.axvline(panel.reference, color=RAW_COLOR, linestyle="--", linewidth=1)
    for place, row in enumerate(panel.rows):
        color = colors[row.name]
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [place, place], color=color, linewidth=2.2)
        axes.plot([row.mean], [place], "o", color=color, markersize=5.5)
        axes.annotate(
            row.note,
            xy=(1.02, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8.5,
            fontweight=_weight(row),
            annotation_clip=False,
        )
    axes.set_yticks(range(len(panel.rows)), [row.name for row in panel.rows])
    for label, row in zip(axes.get_yticklabels(), panel.rows):
        label.set_fontweight(_weight(row))
    axes.set_ylim(len(panel.rows) - 0.4, -0.6)
    axes.set_title(panel.title, loc="left", fontsize=10)
    axes.margins(x=0.08)


def _weight(row: MeanRow) -> str:
    return "bold" if row.is_chosen else "normal"


def _draw_panel(
    axes: Any, panel: CurvePanel, levels: Sequence[float], colors: Mapping[str, str]
) -> None:
    ends, every, later = [], [], []
    last_step = max(step for steps, _ in panel.curves.values() for step in steps)
    for name, (steps, values) in panel.curves.items():
        top1 = [100 * value for value in values]
        draw_curve(axes, steps, top1, {"linewidth": 1.5, "color": colors[name]})
        ends.append((f"{name} {top1[-1]:.2f}", top1[-1], colors[name]))
        every += top1
        later += [value for step, value in zip(steps, top1) if step > last_step / 4]
    aims = [100 * level for level in levels]
    for aim in aims:
        axes.axhline(aim, color="0.6", linestyle=":", linewidth=1.2)
    limit_top1(axes, [*every, *aims], later)
    axes.set_title(panel.title, loc="left", fontsize=10)
    label_ends(axes, ends)
