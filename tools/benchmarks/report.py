"""The findings as text for people and as JSON for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from .rows import Findings, Reach, Row

_COLUMNS = ("what", "median", "ratio", "spread", "to reach", "")


def table(findings: Findings) -> str:
    """Return the rows as a table for each group, then the notes.

    The spread is the least and the largest ratio of a round; in brackets, for rows that have no
    ratio, the quartiles of the samples.
    """
    groups = list(dict.fromkeys(row.group for row in findings.rows))
    parts = [_group_table(g, [r for r in findings.rows if r.group == g]) for g in groups]
    return "\n".join([*parts, *(f"note: {note}" for note in findings.notes)])


def as_json(facts: Mapping[str, str], subjects: Mapping[str, Findings]) -> dict[str, Any]:
    """Return everything: machine and command, and of each subject the rows with all samples."""
    return {
        "facts": dict(facts),
        "subjects": {
            name: {"notes": findings.notes, "rows": list(map(_row_as_json, findings.rows))}
            for name, findings in subjects.items()
        },
    }


def write_json(report: Mapping[str, Any], path: Path) -> None:
    """Write a report.

    Raises:
        OSError: the disk refused.
    """
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def number(value: float) -> str:
    """Return a number in two or three digits, more where it is a whole one."""
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    if value and abs(value) < 0.1:
        return f"{value:.2g}"
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def reach_text(row: Row) -> str:
    """Return what a row has to reach, in words; empty where it has nothing to reach."""
    if row.reach is None:
        return ""
    sign = "≥" if row.reach.at_least else "≤"
    return f"{sign} {number(row.reach.limit)}{_reach_unit(row, row.reach)}"


def _reach_unit(row: Row, reach: Reach) -> str:
    return " x" if reach.of == "ratio" else f" {row.unit}"


def _group_table(group: str, rows: Sequence[Row]) -> str:
    lines = [_COLUMNS, *map(_cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    texts = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip() for line in lines]
    return "\n".join(["", group, *texts])


def _cells(row: Row) -> tuple[str, ...]:
    ratio, spread = "", " to ".join(map(number, row.quartiles))
    if row.ratio is not None and row.range is not None and row.base != row.name:
        ratio = f"{number(row.ratio)} x {row.base}"
        spread = " to ".join(map(number, row.range))
    else:
        spread = f"[{spread}]"
    met = {None: "", True: "met", False: "NOT MET"}[row.is_met]
    return row.name, f"{number(row.median)} {row.unit}", ratio, spread, reach_text(row), met


def _row_as_json(row: Row) -> dict[str, Any]:
    return {
        "group": row.group,
        "name": row.name,
        "unit": row.unit,
        "median": row.median,
        "quartiles": list(row.quartiles),
        "base": row.base,
        "ratio": row.ratio,
        "ratio_range": None if row.range is None else list(row.range),
        "reach": _reach_as_json(row.reach),
        "is_met": row.is_met,
        "x": row.x,
        "samples": list(row.samples),
        "ratios": list(row.ratios),
    }


def _reach_as_json(reach: Optional[Reach]) -> Optional[dict[str, Any]]:
    if reach is None:
        return None
    return {"limit": reach.limit, "of": reach.of, "at_least": reach.at_least}
