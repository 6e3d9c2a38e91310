"""Differences to other weights than the study's reference, paired by seed, from the kept runs."""

from __future__ import annotations

from typing import Any, Mapping, Optional

from ppema.study.schema import SELECTED
from ppema.study.summary import FIGURES, paired_difference

from .results import Result

# By seed, and by metric.
_Figures = dict[int, Mapping[str, float]]
# Of what is said of some weights: all that no reference plays a part in.
_KEPT = ("validation", "test", "churn")


def with_reference(result: Result, name: str, variant: Optional[str]) -> list[dict[str, Any]]:
    """Return what a result says of each variant, its differences to other weights.

    Steps and seconds are left out, which runs do not have of every weight.

    Args:
        result: of a study.
        name: of the weights to compare with.
        variant: whose they are; None for each variant's own.
    """
    return [
        _compared(result, found, name, variant or found["variant"]) for found in result.variants
    ]


def _compared(
    result: Result, found: Mapping[str, Any], reference: str, of_variant: str
) -> dict[str, Any]:
    others = _test_figures(result, of_variant, reference)
    weights = {}
    for name, summary in found["weights"].items():
        weights[name] = {key: value for key, value in summary.items() if key in _KEPT}
        if (found["variant"], name) != (of_variant, reference):
            own = _test_figures(result, found["variant"], name)
            weights[name]["difference"] = {m: _difference(own, others, m) for m in FIGURES}
    return {**found, "weights": weights}


def _test_figures(result: Result, variant: str, name: str) -> _Figures:
    runs = [run for run in result.facts["runs"] if run["variant"] == variant]
    names = {run["seed"]: run["selected"] if name == SELECTED else name for run in runs}
    return {
        run["seed"]: run["weights"][names[run["seed"]]]["test"]
        for run in runs
        if names[run["seed"]] in run["weights"]
    }


def _difference(own: _Figures, others: _Figures, metric: str) -> Optional[dict[str, Any]]:
    pairs = [own[seed][metric] - others[seed][metric] for seed in own if seed in others]
    return paired_difference(pairs)
