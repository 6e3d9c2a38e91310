"""A study's figures as lines of text: columns on a screen, or a table in Markdown."""

from __future__ import annotations

from typing import Any, Callable, Mapping, NamedTuple, Optional, Sequence

from .plan import Plan
from .summary import FIGURES, level_name

# A difference of fewer seeds is no claim.
LEAST_SEEDS = 5
_SHARES = ("top1", "ece", "churn")
_DECIMALS = {"steps": 0, "seconds": 1}
_INTERVAL = "95 % interval"


class Column(NamedTuple):
    """A column: what stands above it, and what it says of some weights' summary."""

    header: str
    cell: Callable[[Mapping[str, Any]], str]


def rows_of(plan: Plan, variants: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the cells of the table of all weights, the names of its columns first."""
    names = ["n", "top1", "lead", "interval", "p", "loss", "ece", "churn"]
    names += [_to(level, "steps") for level in plan.study.reach]
    columns = columns_of(plan)
    rows = [["variant", "weights", *(columns[name].header for name in names)]]
    for variant, found in zip(plan.variants, variants):
        for weights, summary in found["weights"].items():
            cells = [columns[name].cell(summary) for name in names]
            rows.append([variant.title, marked(weights, found["chosen"]), *cells])
    return rows


def columns_of(plan: Plan, reference: Optional[str] = None) -> dict[str, Column]:
    """Return all columns that a table of the study may have, by name.

    `difference`, `p`, and its parts `lead` and `interval`, are of the study's metric.

    Args:
        plan: of the study.
        reference: what differences are to, where it is not what the study says.
    """
    if reference is None:
        own = plan.study.reference
        labels = (f"{axis} {label}" for axis, label in own.labels.items())
        reference = ", ".join([*labels, own.weights])
    columns = {
        "n": Column("n", lambda summary: str(summary["test"]["top1"]["n"])),
        "validation": Column("validation top1, %", _level_of("validation", "top1")),
    }
    for metric in FIGURES:
        columns[metric] = Column(_header(metric), _level_of("test", metric))
        columns.update(_of_difference(metric, f"{metric}_", reference, _paired(metric)))
    metric = plan.study.metric
    columns.update(_of_difference(metric, "", reference, _paired(metric)))
    columns["churn"] = Column(_header("churn"), lambda s: _churn(s["churn"]))
    for level in plan.study.reach:
        for unit in _DECIMALS:
            name, title = _to(level, unit), f"{unit} to {100 * level:g} %"
            columns[name] = Column(title, _reached_in(level, unit))
            pairs = _paired_reach(level, unit)
            columns.update(_of_difference(unit, f"{name}_", reference, pairs, title))
    return columns


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


def difference_cell(sample: Optional[Mapping[str, Any]], metric: str) -> str:
    """Return a mean difference with its interval in one text."""
    mean, interval, _ = difference_cells(sample, metric)
    return mean if sample is None else f"{mean} ({interval.strip('()')})"


def p_value(p: float) -> str:
    """Return a probability as it is written."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def number(value: float, metric: str, is_signed: bool = False) -> str:
    """Return a figure, or a difference of two: shares in percent."""
    sign = "+" if is_signed else ""
    if metric in _SHARES:
        return f"{100 * value:{sign}.2f}"
    return f"{value:{sign},.{_DECIMALS.get(metric, 4)}f}"


def marked(name: str, chosen: Optional[str]) -> str:
    """Return the name of some weights, with a star where validation chose them."""
    return f"{name} *" if name == chosen else name


# What a summary says of a difference, None where there is none.
_Pairs = Callable[[Mapping[str, Any]], Optional[Mapping[str, Any]]]


def _of_difference(
    metric: str, prefix: str, reference: str, pairs: _Pairs, title: Optional[str] = None
) -> dict[str, Column]:
    """Return the columns of a difference: in one, and in parts."""
    title = title or metric
    header = _header(f"{title} - {reference}")
    each = ("lead", header), ("interval", _INTERVAL), ("p", "p" if not prefix else f"p of {title}")
    parts = {
        f"{prefix}{name}": Column(above, _part(pairs, metric, index))
        for index, (name, above) in enumerate(each)
    }
    whole = Column(
        f"{header} ({_INTERVAL})", lambda summary: difference_cell(pairs(summary), metric)
    )
    return {f"{prefix}difference": whole, **parts}


def _part(pairs: _Pairs, metric: str, index: int) -> Callable[[Mapping[str, Any]], str]:
    return lambda summary: difference_cells(pairs(summary), metric)[index]


def _paired(metric: str) -> _Pairs:
    return lambda summary: summary.get("difference", {}).get(metric)


def _paired_reach(level: float, unit: str) -> _Pairs:
    def pairs(summary: Mapping[str, Any]) -> Optional[Mapping[str, Any]]:
        found: Mapping[str, Any] = summary.get("reached", {}).get(level_name(level), {})
        return found.get(f"{unit}_difference")

    return pairs


def _level_of(split: str, metric: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda summary: spread(summary[split][metric], metric)


def _churn(found: Optional[Mapping[str, Any]]) -> str:
    return "-" if found is None else number(found["mean"], "churn")


def _to(level: float, unit: str) -> str:
    """Return the name of the column of the steps, or seconds, to an accuracy."""
    return f"{unit}_to_{100 * level:g}"


def _reached_in(level: float, unit: str) -> Callable[[Mapping[str, Any]], str]:
    def cell(summary: Mapping[str, Any]) -> str:
        # Of what each run selects, and of what is made after it, there is none.
        if "reached" not in summary:
            return "-"
        found = summary["reached"][level_name(level)]
        return f"{spread(found[unit], unit)} ({found['n']})" if found[unit] else "never"

    return cell


def _header(metric: str) -> str:
    return f"{metric}, %" if metric.split()[0] in _SHARES else metric
