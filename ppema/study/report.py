"""What a study leaves: result.json, a table, and figures, all made of the runs that are done."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any, Iterable, Sequence

from ..checkpoint.files import replace_file
from ..errors import CheckpointError
from ..plots import plot_mean_curves, plot_means, plot_reliability
from .panels import (
    INTERVALS,
    UNITS,
    curve_panel,
    mean_panel,
    reliability_of,
    summary_of,
)
from .plan import Plan, Variant
from .schema import SELECTED
from .summary import read_results, summarise_variants
from .table import as_markdown, rows_of

RESULT = "result.json"
TABLE = "result.md"
_FORMAT = 1


class Report:
    """The figures of a study's runs that are done.

    Args:
        plan: the study.

    Raises:
        CheckpointError: no run is done, or they are of different data.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._results = read_results(plan)
        if not self._results:
            raise CheckpointError(f"{plan.folder}: no run of the study is done")
        self._variants = summarise_variants(plan, self._results)
        words = ["-c", plan.study.path, *(("-o", *plan.options) if plan.options else ())]
        self._command = f"python tools/compare.py {shlex.join(words)}"

    @property
    def rows(self) -> list[list[str]]:
        """Return the cells of the table."""
        return rows_of(self._plan, self._variants)

    @property
    def protocol(self) -> str:
        """Return what the figures are, in words."""
        study = self._plan.study
        stands = "its last checkpoint"
        if study.checkpoint == "best":
            stands = f"the epoch that validates best by {study.metric}, one for each set of weights"
        return (
            f"Of each run: {stands}. Chosen by {study.metric} on validation images kept out of "
            f"training: * by the mean of all seeds, {SELECTED} by each run alone. All figures are "
            "of the test data, mean ± standard deviation over the seeds; differences and their "
            "95 % intervals are paired by seed (Student's t)"
        )

    @property
    def note(self) -> str:
        """Return what the data are, where that is not what people expect."""
        data = self._results[0].measured["data"]
        return " (on the embedded UCI digits)" if data["kind"] == "digits" else ""

    @property
    def missing(self) -> list[str]:
        """Return the runs that are not done, and are in no figure."""
        done = {(result.run.variant.name, result.run.seed) for result in self._results}
        runs = self._plan.runs
        return [run.title for run in runs if (run.variant.name, run.seed) not in done]

    def as_dict(self) -> dict[str, Any]:
        """Return all that result.json holds."""
        study = self._plan.study
        return {
            "format": _FORMAT,
            "study": study.name,
            "command": self._command,
            "file": study.text,
            "protocol": self.protocol,
            "machines": distinct(result.measured["machine"] for result in self._results),
            "missing": self.missing,
            "variants": self._variants,
            "runs": [result.as_dict() for result in self._results],
        }

    def write(self) -> list[Path]:
        """Write result.json, the table and the figures; return the files.

        Raises:
            StorageError: the disk refused.
        """
        folder = self._plan.folder
        replace_file(folder / RESULT, f"{render(self.as_dict())}\n".encode())
        replace_file(folder / TABLE, self._markdown().encode())
        return [folder / RESULT, folder / TABLE, *self._draw(self._done_variants())]

    def _draw(self, variants: Sequence[Variant]) -> list[Path]:
        """Draw the variants that can be drawn by now; return the files."""
        if not variants:
            return []
        study, folder = self._plan.study, self._plan.folder
        drawn, title = [folder / "means.png"], f"{study.name}{self.note}"
        unit = f"{UNITS[study.metric]}; {INTERVALS}"
        means = [mean_panel(self._plan, self._variants, v, study.metric) for v in variants]
        plot_means(means, title, unit, drawn[-1])
        if study.reach:
            drawn.append(folder / "steps.png")
            curves = [curve_panel(self._variants, variant) for variant in variants]
            text = f"{title}: top-1 on validation, mean of the seeds"
            plot_mean_curves(curves, study.reach, text, drawn[-1])
        for variant in variants:
            drawn += self._draw_reliability(variant, title)
        return drawn

    def _draw_reliability(self, variant: Variant, title: str) -> list[Path]:
        """Draw how right the reference's and the chosen weights are where they are sure."""
        drawn = []
        found = summary_of(self._variants, variant)
        names = (self._plan.study.reference.weights, found["chosen"])
        for name in dict.fromkeys(name for name in names if name in found["weights"]):
            drawn.append(self._plan.folder / "reliability" / f"{variant.name}-{name}.png")
            text = f"{title}: {variant.title}, {name}, all seeds"
            plot_reliability(reliability_of(found["weights"][name]), text, drawn[-1])
        return drawn

    def _markdown(self) -> str:
        study = self._plan.study
        missing = f"Left out, not done yet: {'; '.join(self.missing)}.\n\n" if self.missing else ""
        return (
            f"# {study.name}\n\n{self.protocol}.\n\n{missing}"
            f"Measured{self.note} with `{self._command}`\n\n{as_markdown(self.rows)}\n"
        )

    def _done_variants(self) -> list[Variant]:
        """Return the variants with a run, and with one of their reference."""
        done = {result.run.variant.name for result in self._results}
        of = self._plan.reference_of
        return [v for v in self._plan.variants if {v.name, of(v).name} <= done]


def distinct(found: Iterable[Any]) -> list[Any]:
    """Return each of some values once, in the order in which they come."""
    kept: list[Any] = []
    for value in found:
        if value not in kept:
            kept.append(value)
    return kept


def render(value: Any, indent: int = 0) -> str:
    """Return JSON in which what holds no further lists or objects is on one line."""
    items = list(value.values()) if isinstance(value, dict) else value
    is_flat = not isinstance(value, (dict, list)) or not any(
        isinstance(item, (dict, list)) for item in items
    )
    if is_flat:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    pad, lines = " " * (indent + 1), []
    if isinstance(value, dict):
        for key, item in value.items():
            lines.append(f"{pad}{json.dumps(key)}: {render(item, indent + 1)}")
    else:
        lines = [pad + render(item, indent + 1) for item in value]
    first, last = "{}" if isinstance(value, dict) else "[]"
    return "\n".join([first, ",\n".join(lines), " " * indent + last])
