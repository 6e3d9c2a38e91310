"""The findings as a picture: bars for each group, lines where a group varies something."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from .report import number, reach_text
from .rows import Findings, Row

_OWN, _LIMIT, _OTHER, _REACH = "C0", "0.25", "0.7", "C3"


def draw(subjects: Mapping[str, Findings], facts: Mapping[str, str], path: Path) -> None:
    """Draw all groups, one below the other, with the machine under them.

    Raises:
        OSError: the disk refused.
    """
    groups: dict[str, list[Row]] = {}
    for findings in subjects.values():
        for row in findings.rows:
            groups.setdefault(row.group, []).append(row)
    heights = [3.0 if _is_curve(rows) else 0.9 + 0.27 * len(rows) for rows in groups.values()]
    pyplot = _load_pyplot()
    figure, axes = pyplot.subplots(
        len(groups),
        1,
        figsize=(9, sum(heights) + 0.5),
        squeeze=False,
        gridspec_kw={"height_ratios": heights},
        layout="constrained",
    )
    for each, (group, rows) in zip(axes[:, 0], groups.items()):
        each.set_title(group, loc="left", fontsize=10)
        each.spines[["top", "right"]].set_visible(False)
        (_draw_curve if _is_curve(rows) else _draw_bars)(each, rows)
    figure.supxlabel(f"{facts['machine']}; paddle {facts['paddlepaddle']}", fontsize=8)
    figure.savefig(path, format="png", dpi=110)
    pyplot.close(figure)


def _is_curve(rows: Sequence[Row]) -> bool:
    return any(row.x is not None for row in rows)


def _draw_bars(axes: Any, rows: Sequence[Row]) -> None:
    """Draw the median of each row, what it has to reach as a red line, and both in figures."""
    places = list(range(len(rows)))[::-1]
    axes.barh(places, [row.median for row in rows], color=list(map(_color_of, rows)), height=0.7)
    axes.set_yticks(places, [row.name for row in rows], fontsize=8)
    for place, row in zip(places, rows):
        mark = _reach_in_unit(row, rows)
        if mark is not None:
            axes.plot([mark, mark], [place - 0.45, place + 0.45], color=_REACH, linewidth=2)
        axes.annotate(
            _label_of(row),
            (max(row.median, mark or 0.0), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_xlabel(" / ".join(dict.fromkeys(row.unit for row in rows)), fontsize=8)
    # Room for what stands beside the longest bar.
    axes.margins(x=0.6)
    axes.set_xlim(left=min(0.0, *(row.median for row in rows)))
    axes.tick_params(labelsize=8)


def _draw_curve(axes: Any, rows: Sequence[Row]) -> None:
    """Draw the rows that share a kind of name over what the group varies."""
    curves: dict[str, list[Row]] = {}
    for row in rows:
        curves.setdefault(row.name.partition(":")[0], []).append(row)
    for name, curve in curves.items():
        color = _color_of(curve[0])
        points = [row.x for row in curve], [row.median for row in curve]
        axes.plot(*points, "o-", color=color, label=name, markersize=4)
    marks = [(row.x, mark) for row in rows if (mark := _reach_in_unit(row, rows)) is not None]
    axes.plot(*zip(*marks), "_", color=_REACH, label="to reach", markersize=14)
    axes.set_xscale("log")
    axes.set_xticks(sorted({row.x for row in rows if row.x is not None}))
    axes.get_xaxis().set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_ylabel(rows[0].unit, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.92")
    axes.legend(fontsize=8, frameon=False)


def _reach_in_unit(row: Row, rows: Sequence[Row]) -> Optional[float]:
    """Return the figure that a row has to reach on the axis of its samples."""
    if row.reach is None or row.reach.of == "median":
        return None if row.reach is None else row.reach.limit
    return next(row.reach.limit * other.median for other in rows if other.name == row.base)


def _label_of(row: Row) -> str:
    text = number(row.median)
    if row.ratio is not None:
        text += f"  ({number(row.ratio)} x {row.base})"
    if row.reach is not None:
        text += f"  reach {reach_text(row)}: {'met' if row.is_met else 'not met'}"
    return text


def _color_of(row: Row) -> str:
    if row.name.startswith("ppema"):
        return _OWN
    return _LIMIT if row.name.startswith("limit") else _OTHER


def _load_pyplot() -> Any:
    # It tells of the fonts it finds.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("matplotlib").setLevel(logging.WARNING)
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    return pyplot
