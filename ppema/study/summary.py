"""What the runs of a study say together: figures by run, by variant, and paired differences."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any, Mapping, Optional, Sequence

import numpy as np

from ..builder import run_folder
from ..config import Config
from ..errors import CheckpointError
from ..metrics import churn
from .curves import mean_curves
from .done import is_trained
from .measure import final_checkpoint, rank, read_measured, records_of
from .plan import Plan, PlannedRun, Variant
from .reached import first_reaching, images_until, seconds_by_step, seconds_to
from .schema import SELECTED, Study
from .statistics import summarise

FIGURES = ("top1", "loss", "ece")


@dataclass(frozen=True)
class RunResult:
    """What one run gave.

    Attributes:
        measured: what its test.json says.
        records: its metrics.jsonl.
        weights: by name, with what `selected` stands for among them.
        steps: of training, in all parts of a run with the section Swap.
        seconds: likewise.
    """

    run: PlannedRun
    measured: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    weights: Mapping[str, Mapping[str, Any]]
    selected: str
    steps: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the figures of the run, as they stand in result.json."""
        weights = {
            name: {key: value for key, value in found.items() if key not in _BULKY}
            for name, found in self.weights.items()
            if name != SELECTED
        }
        return {
            "variant": self.run.variant.name,
            "seed": self.run.seed,
            "config_sha256": self.run.fingerprint,
            "command": self.run.command,
            "steps": self.steps,
            "seconds": self.seconds,
            "selected": self.selected,
            "weights": weights,
        }


# Of each image, or of each bin: in the run's own file.
_BULKY = ("classes", "reliability")


def read_result(study: Study, run: PlannedRun) -> Optional[RunResult]:
    """Return what a run gave, None where it is not done.

    Raises:
        ConfigError: its folder is of another config.
    """
    measured = read_measured(study, run.folder) if is_trained(run) else None
    if measured is None:
        return None
    records = records_of(run.folder)
    # A study of accuracies to reach has no runs of several parts.
    seconds, *others = (_seconds_of(part) for part in run.parts)
    weights = {name: dict(found) for name, found in measured["weights"].items()}
    # Not of those made after the run, which have no curve.
    for name in weights.keys() & {record.get("average") for record in records}:
        weights[name]["reached"] = {
            level_name(level): _reaching(records, name, level, seconds) for level in study.reach
        }
    selected = max(weights, key=lambda name: rank(weights[name]["validation"], study.metric))
    return RunResult(
        run,
        measured,
        records,
        {**weights, SELECTED: weights[selected]},
        selected,
        steps=sum(max(part) for part in (seconds, *others)),
        seconds=sum(part[max(part)] for part in (seconds, *others)),
    )


def _reaching(
    records: Sequence[Mapping[str, Any]], name: str, level: float, seconds: Mapping[int, float]
) -> dict[str, Any]:
    """Return when some weights of a run came to an accuracy, None where they did not."""
    step = first_reaching(records, name, level)
    return {"steps": step, "seconds": None if step is None else seconds_to(step, seconds)}


def _seconds_of(part: Config) -> dict[int, float]:
    """Return the seconds of training up to each step of what was trained by one config."""
    folder = run_folder(part)
    final = final_checkpoint(folder)
    if final is None:
        raise CheckpointError(f"{folder}: is no finished run, though one was made of it")
    images_at = functools.partial(
        images_until,
        images_per_step=part.TrainReader.batch_size * part.accumulate_steps,
        steps_per_epoch=final.manifest["steps_per_epoch"],
        # It stands at the end of an epoch.
        images_per_epoch=final.manifest["samples"],
    )
    return seconds_by_step(records_of(folder), images_at)


def read_results(plan: Plan) -> list[RunResult]:
    """Return what the runs gave that are done, by variant, then by seed.

    Raises:
        CheckpointError: they are not all of the same data.
        ConfigError: one is of another config.
    """
    found = [read_result(plan.study, run) for run in plan.runs]
    results = [result for result in found if result is not None]
    order = [variant.name for variant in plan.variants]
    results.sort(key=lambda result: order.index(result.run.variant.name))
    kinds = {result.measured["data"]["kind"]: result.run for result in results}
    if len(kinds) > 1:
        said = ", ".join(f"{kind} ({run.folder})" for kind, run in sorted(kinds.items()))
        raise CheckpointError(f"runs of one study are of different data: {said}; delete the others")
    _require_same_data(results)
    return results


def _require_same_data(results: Sequence[RunResult]) -> None:
    """Raise CheckpointError where the runs of a variant, which share a row, do not share data."""
    firsts: dict[str, RunResult] = {}
    for result in results:
        first = firsts.setdefault(result.run.variant.name, result)
        if result.measured["data"] != first.measured["data"]:
            raise CheckpointError(
                f"{first.run.folder} and {result.run.folder} are of one variant, and not of the "
                "same images and labels; delete what is of others"
            )


def summarise_variants(plan: Plan, results: Sequence[RunResult]) -> list[dict[str, Any]]:
    """Return for each variant, and each of its weights, means and differences over the seeds."""
    by_variant = {v.name: [r for r in results if r.run.variant is v] for v in plan.variants}
    return [
        {
            "variant": variant.name,
            "labels": dict(variant.labels),
            "n": len(by_variant[variant.name]),
            "chosen": _chosen(plan.study, by_variant[variant.name]),
            "data": next((r.measured["data"] for r in by_variant[variant.name]), None),
            "weights": _summaries(plan, variant, by_variant),
        }
        for variant in plan.variants
    ]


def _chosen(study: Study, results: Sequence[RunResult]) -> Optional[str]:
    """Return the weights that validate best in the mean of all seeds."""
    if not results:
        return None
    names = [name for name in results[0].weights if name != SELECTED]

    def mean_rank(name: str) -> tuple[float, ...]:
        ranks = [rank(result.weights[name]["validation"], study.metric) for result in results]
        # Exact sums: equal means of figures in another order must tie, so that the loss decides.
        return tuple(math.fsum(column) for column in zip(*ranks))

    return max(names, key=mean_rank)


def _summaries(
    plan: Plan, variant: Variant, by_variant: Mapping[str, Sequence[RunResult]]
) -> dict[str, dict[str, Any]]:
    """Return what is said of each of a variant's weights; nothing where no run is done."""
    own = by_variant[variant.name]
    if not own:
        return {}
    names = (*plan.weights(variant), SELECTED)
    summaries = {name: _summary(plan, variant, name, by_variant) for name in names}
    if plan.study.reach:
        curves = mean_curves([result.records for result in own])
        for name in curves.keys() & summaries.keys():
            summaries[name]["curve"] = curves[name]
    return summaries


def _summary(
    plan: Plan, variant: Variant, name: str, by_variant: Mapping[str, Sequence[RunResult]]
) -> dict[str, Any]:
    own = {result.run.seed: result.weights[name] for result in by_variant[variant.name]}
    other = plan.reference_of(variant)
    reference = {
        result.run.seed: result.weights[plan.study.reference.weights]
        for result in by_variant[other.name]
    }
    is_itself = other is variant and name == plan.study.reference.weights
    seeds = [seed for seed in own if seed in reference]
    summary: dict[str, Any] = {
        split: {key: _level([found[split][key] for found in own.values()]) for key in FIGURES}
        for split in ("validation", "test")
    }
    if not is_itself:
        summary["difference"] = {
            key: paired_difference([own[s]["test"][key] - reference[s]["test"][key] for s in seeds])
            for key in FIGURES
        }
    summary["churn"] = _churn([found["classes"] for found in own.values()])
    summary["reliability"] = _reliability([found["reliability"] for found in own.values()])
    if name != SELECTED and all("reached" in found for found in own.values()):
        summary["reached"] = {
            level_name(level): _reached(level, own, {} if is_itself else reference)
            for level in plan.study.reach
        }
    return summary


def level_name(level: float) -> str:
    """Return an accuracy that is to be reached as it stands in result.json."""
    return f"{level:g}"


def _reached(
    level: float,
    own: Mapping[int, Mapping[str, Any]],
    reference: Mapping[int, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return steps and seconds to an accuracy, of the seeds that reached it."""
    found: dict[str, Any] = {}
    for unit in ("steps", "seconds"):
        reached, other = (
            # The reference may be an average made after the runs.
            {s: r["reached"][level_name(level)][unit] for s, r in each.items() if "reached" in r}
            for each in (own, reference)
        )
        values = {seed: value for seed, value in reached.items() if value is not None}
        pairs = [v - other[seed] for seed, v in values.items() if other.get(seed) is not None]
        found["n"] = len(values)
        found[unit] = _level(list(values.values()))
        found[f"{unit}_difference"] = paired_difference(pairs)
    return found


def _churn(classes: Sequence[Sequence[int]]) -> Optional[dict[str, float]]:
    """Return the shares of test images that two seeds put into different classes."""
    arrays = [np.array(each, np.int64) for each in classes]
    pairs = [churn(*pair) for pair in itertools.combinations(arrays, 2)]
    if not pairs:
        return None
    return {"mean": sum(pairs) / len(pairs), "least": min(pairs), "largest": max(pairs)}


def _reliability(counts: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, list[int]]:
    """Return the answers on the test data by confidence, of all seeds together."""
    return {key: [sum(each) for each in zip(*(c[key] for c in counts))] for key in counts[0]}


def _level(values: Sequence[float]) -> Optional[dict[str, Any]]:
    """Return a figure over the seeds, without a test: that it is not 0 says nothing."""
    if not values:
        return None
    found = summarise(values)
    return {"n": found.n, "mean": found.mean, "std": found.std}


def paired_difference(values: Sequence[float]) -> Optional[dict[str, Any]]:
    """Return a difference over the pairs, with its interval and its test."""
    return summarise(values).as_dict() if values else None
