"""A study's figures as lines of text: columns on a screen, or a table in Markdown."""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence

from .plan import Plan

# A difference of fewer seeds is no claim.
LEAST_SEEDS = 5
_SHARES = ("top1", "ece")


def rows_of(plan: Plan, variants: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the cells of the table, the names of its columns first."""
    study = plan.study
    reference = ", ".join([*study.reference.labels.values(), study.reference.weights])
    has_reach = study.reach is not None
    header = ["variant", "weights", "n", _column("top1"), _column(f"{study.metric} - {reference}")]
    header += ["95 % interval", "p", _column("loss"), _column("ece"), "churn, %"]
    if study.reach is not None:
        header.append(f"steps to {100 * study.reach:g} %")
    rows = [header]
    for variant, found in zip(plan.variants, variants):
        for name, summary in found["weights"].items():
            test, difference = summary["test"], summary.get("difference")
            cells = [variant.title, _marked(name, found["chosen"]), str(test["top1"]["n"])]
            cells += [spread(test["top1"], "top1")]
            cells += difference_cells(difference and difference[study.metric], study.metric)
            cells += [spread(test["loss"], "loss"), spread(test["ece"], "ece")]
            cells.append(
                "-" if summary["churn"] is None else f"{100 * summary['churn']['mean']:.2f}"
            )
            if has_reach:
                cells.append(_reached(summary["reached"]) if "reached" in summary else "-")
            rows.append(cells)
    return rows


def as_text(rows: Sequence[Sequence[str]]) -> str:
    """Return columns for a screen."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows
    )


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    # A label of the study may hold what ends a cell.
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    header, *others = [f"| {' | '.join(row)} |" for row in escaped]
    return "\n".join([header, "|---" * len(rows[0]) + "|", *others])


def spread(sample: Mapping[str, Any], metric: str) -> str:
    """Return mean ± standard deviation."""
    mean = number(sample["mean"], metric)
    return mean if sample["std"] is None else f"{mean} ± {number(sample['std'], metric)}"


def difference_cells(sample: Optional[Mapping[str, Any]], metric: str) -> list[str]:
    """Return a mean difference, its interval and p; of too few seeds the first alone."""
    if sample is None:
        return ["-", "-", "-"]
    mean = number(sample["mean"], metric, is_signed=True)
    if sample["n"] < LEAST_SEEDS:
        return [mean, f"({sample['n']} seed{'s' if sample['n'] > 1 else ''})", "-"]
    low, high = (number(sample[end], metric, is_signed=True) for end in ("low", "high"))
    return [mean, f"{low} to {high}", p_value(sample["p"])]


def p_value(p: float) -> str:
    """Return a probability as it is written."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def number(value: float, metric: str, is_signed: bool = False) -> str:
    """Return a figure, or a difference of two: shares in percent."""
    sign = "+" if is_signed else ""
    return f"{100 * value:{sign}.2f}" if metric in _SHARES else f"{value:{sign}.4f}"


def _column(metric: str) -> str:
    return f"{metric}, %" if metric.split()[0] in _SHARES else metric


def _marked(name: str, chosen: Optional[str]) -> str:
    return f"{name} *" if name == chosen else name


def _reached(found: Mapping[str, Any]) -> str:
    if found["steps"] is None:
        return "never"
    steps, n = found["steps"], found["n"]
    text = f"{steps['mean']:.0f}" + ("" if steps["std"] is None else f" ± {steps['std']:.0f}")
    return f"{text} ({n})"
