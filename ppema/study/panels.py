"""The panels of a study's pictures, made of what the variants' summaries say."""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence

import numpy as np

from ..calibration import Reliability
from ..plots import CurvePanel, MeanPanel, MeanRow
from .plan import Plan, Variant
from .table import LEAST_SEEDS, difference_cell, number

UNITS = {"top1": "top-1 on the test data, %", "loss": "loss", "ece": "ECE, %"}
INTERVALS = "bars: 95 % interval of the paired difference to the dashed line"

# What stands under "variants" in result.json.
Summaries = Sequence[Mapping[str, Any]]


def summary_of(summaries: Summaries, variant: Variant) -> Mapping[str, Any]:
    """Return what is said of a variant."""
    return next(found for found in summaries if found["variant"] == variant.name)


def reliability_of(summary: Mapping[str, Any]) -> Reliability:
    """Return the answers of some weights on the test data, of all seeds together."""
    counts: Mapping[str, Sequence[int]] = summary["reliability"]
    return Reliability(**{key: np.array(each, np.int64) for key, each in counts.items()})


def mean_panel(
    plan: Plan,
    summaries: Summaries,
    variant: Variant,
    metric: str,
    names: Optional[Sequence[str]] = None,
) -> MeanPanel:
    """Return the means of a variant's weights, and of the reference, on the test data.

    Args:
        plan: the study.
        summaries: of all variants.
        variant: the one to be drawn.
        metric: what is drawn.
        names: of the weights; None for all.
    """
    factor = 1 if metric == "loss" else 100
    other = summary_of(summaries, plan.reference_of(variant))["weights"]
    base = factor * other[plan.study.reference.weights]["test"][metric]["mean"]
    found = summary_of(summaries, variant)
    rows = []
    for name in found["weights"] if names is None else names:
        summary = found["weights"][name]
        mean = summary["test"][metric]["mean"]
        low = high = None
        note = number(mean, metric)
        difference = summary.get("difference", {}).get(metric)
        if difference is not None:
            note += f"   {difference_cell(difference, metric)}"
            if difference["n"] >= LEAST_SEEDS:
                low, high = (base + factor * difference[end] for end in ("low", "high"))
        rows.append(MeanRow(name, factor * mean, low, high, note, name == found["chosen"]))
    return MeanPanel(_title(variant), rows, base)


def curve_panel(
    summaries: Summaries, variant: Variant, names: Optional[Sequence[str]] = None
) -> CurvePanel:
    """Return the curves of a variant's weights, or of some of them."""
    weights = summary_of(summaries, variant)["weights"]
    curves = {name: found["curve"] for name, found in weights.items() if "curve" in found}
    return CurvePanel(
        _title(variant),
        {
            name: (curve["steps"], curve["mean"])
            for name, curve in curves.items()
            if names is None or name in names
        },
    )


def _title(variant: Variant) -> str:
    """Return what stands above a panel: nothing where it is the only one."""
    return variant.title if variant.labels else ""
