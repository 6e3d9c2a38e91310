"""Learning curves of a study: top-1 on validation over the steps, of all seeds together."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from .reached import Records
from .statistics import mean_and_std


def mean_curves(records: Sequence[Records]) -> dict[str, dict[str, list[Any]]]:
    """Return by weights the steps at which all runs were evaluated, with mean and deviation there.

    Args:
        records: of each run, its metrics.jsonl.
    """
    found: dict[str, dict[int, list[float]]] = {}
    for run in records:
        for record in run:
            if record["split"] == "eval":
                steps = found.setdefault(record["average"], {})
                steps.setdefault(record["step"], []).append(record["top1"])
    return {name: _curve(steps, len(records)) for name, steps in found.items()}


def _curve(steps: Mapping[int, Sequence[float]], num_runs: int) -> dict[str, list[Any]]:
    common = {step: top1 for step, top1 in sorted(steps.items()) if len(top1) == num_runs}
    samples = [mean_and_std(top1) for top1 in common.values()]
    return {
        "steps": list(common),
        "mean": [mean for mean, _ in samples],
        "std": [std for _, std in samples],
    }
