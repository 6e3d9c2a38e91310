"""What a finished run is worth: each set of its weights, chosen on validation, on the test data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from .. import builder
from ..builder.after_run import make_candidates, posthoc_targets
from ..calibration import Reliability
from ..checkpoint import FINAL, Checkpoint, CheckpointStore
from ..checkpoint.files import replace_file
from ..config import Config
from ..engine.evaluate import RAW, evaluate
from ..engine.posthoc import SnapshotSet
from ..engine.predictions import Predictions
from ..engine.record import METRICS, read_records
from ..engine.run_folder import CONFIG
from ..engine.weights import ALL, find_weights
from ..errors import CheckpointError, ConfigError
from ..fast_cpu import FastLayers
from ..machine import machine_facts
from ..metrics import Evaluation
from .plan import posthoc_name
from .schema import Study

MEASURED = "test.json"
_FORMAT = 1


def rank(figures: Mapping[str, float], metric: str) -> tuple[float, float]:
    """Return what better figures have more of: of the metric, then a lower loss."""
    sign = 1 if metric == "top1" else -1
    return (sign * figures[metric], -figures["loss"])


def measure(study: Study, folder: Path) -> Path:
    """Evaluate a finished run on its test data, and write what came out beside it.

    Raises:
        CheckpointError: the run is not finished, or a file of it is damaged.
        ConfigError: it kept no validation data out.
    """
    final = final_checkpoint(folder)
    if final is None:
        raise CheckpointError(f"{folder}: is no finished run; train it first")
    config = builder.read_config(str(folder / CONFIG), [])
    if config.validation is None:
        raise ConfigError(
            f"{folder}: was trained without validation, so nothing but its test data could choose"
        )
    chosen = _choose(study, folder, final)
    builder.select_place(config)
    found = _Found(config, final)
    for step in sorted({record["step"] for record in chosen.values()}):
        names = [name for name, record in chosen.items() if record["step"] == step]
        found.add_checkpoint(folder, step, {name: chosen[name] for name in names})
    found.add_posthoc(folder, study.posthoc)
    facts = {
        **_asked(study, final),
        "machine": machine_facts(),
        "data": found.data,
        "weights": found.weights,
    }
    path = folder / MEASURED
    replace_file(path, (json.dumps(facts) + "\n").encode())
    return path


def read_measured(study: Study, folder: Path) -> Optional[dict[str, Any]]:
    """Return what `measure` found; None where it did not look at this run as it is now."""
    final = final_checkpoint(folder)
    if final is None:
        return None
    try:
        facts = json.loads((folder / MEASURED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    asked = _asked(study, final)
    is_same = isinstance(facts, dict) and all(facts.get(k) == v for k, v in asked.items())
    return facts if is_same else None


def records_of(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a run, but what it was evaluated on test data, which have no say."""
    return [r for r in read_records(folder / METRICS) if r.get("on") != "test"]


def final_checkpoint(folder: Path) -> Optional[Checkpoint]:
    """Return the checkpoint that a run ended with, None where it did not end."""
    try:
        return CheckpointStore(folder, keep=1).linked(FINAL)
    except CheckpointError:
        return None


def _asked(study: Study, final: Checkpoint) -> dict[str, Any]:
    """Return what the figures are of: they count for nothing else."""
    return {
        "format": _FORMAT,
        "final": final.manifest["digest"],
        "checkpoint": study.checkpoint,
        # Selection within a run goes by it.
        "metric": study.metric if study.checkpoint == "best" else None,
        "posthoc": list(study.posthoc),
    }


def _choose(study: Study, folder: Path, final: Checkpoint) -> dict[str, Mapping[str, Any]]:
    """Return the record of the evaluation, on validation, that each set of weights stands by."""
    ends: dict[tuple[str, int], Mapping[str, Any]] = {}
    for record in records_of(folder):
        if record["split"] == "eval":
            # Of an epoch the last, at its end.
            ends[record["average"], record["epoch"]] = record
    chosen: dict[str, Mapping[str, Any]] = {}
    for name in (RAW, *final.manifest["averages"]):
        own = [record for (average, _), record in ends.items() if average == name]
        if not own or own[-1]["step"] != final.step:
            raise CheckpointError(f"{folder / METRICS}: has no evaluation of {name} at the end")
        is_last = study.checkpoint == "last"
        chosen[name] = own[-1] if is_last else max(own, key=lambda r: rank(r, study.metric))
    return chosen


class _Found:
    """The figures of each set of weights, with what they are evaluated on."""

    def __init__(self, config: Config, final: Checkpoint) -> None:
        self._config, self._final = config, final
        dataset = builder.load_eval_data(config, final.manifest)
        self._reader = builder.make_eval_reader(config, dataset)
        self._model, self._loss_fn = builder.make_model(config), builder.make_loss(config)
        self._fast_layers = FastLayers(self._model, config.fast_cpu)
        # Not their sources, which name folders of this machine.
        digests = {"train": "train", "validation": "validation", "test": "eval"}
        known = final.manifest["data"]
        self.data = {"kind": dataset.kind} | {
            name: known[part]["digest"] for name, part in digests.items() if part in known
        }
        self.weights: dict[str, dict[str, Any]] = {}

    def add_checkpoint(
        self, folder: Path, step: int, records: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Evaluate some of the weights of one checkpoint."""
        path = CheckpointStore(folder, keep=1).path(step)
        weights = find_weights(str(path), folder, ALL)
        for name, record in records.items():
            weights.load(name, self._model)
            figures = {key: record[key] for key in ("top1", "top2", "loss", "ece")}
            self._add(name, self._model, step, record["epoch"], figures)

    def add_posthoc(self, folder: Path, widths: Sequence[float]) -> None:
        """Make averages of the run's snapshots and evaluate them on validation and test."""
        if not widths:
            return
        manifest = self._final.manifest
        snapshots = SnapshotSet(folder, manifest)
        candidates = make_candidates(self._config, self._final)
        for target in posthoc_targets(manifest, widths, None):
            assert target.sigma_rel is not None
            state = snapshots.combine(snapshots.coefficients(target)[0])
            evaluation = candidates.evaluate(state, str(target))
            name = posthoc_name(target.sigma_rel)
            self._add(
                name, candidates.model, self._final.step, manifest["epoch"], evaluation.as_dict()
            )

    def _add(
        self, name: str, model: Any, step: int, epoch: int, validation: Mapping[str, float]
    ) -> None:
        predictions = Predictions(num_mistakes=0)
        with self._fast_layers.in_use():
            tested: Evaluation = evaluate(model, self._loss_fn, self._reader, predictions, name)
        self.weights[name] = {
            "step": step,
            "epoch": epoch,
            "validation": dict(validation),
            "test": tested.as_dict(),
            "reliability": _counts(predictions.reliability),
            "classes": predictions.classes.tolist(),
        }


def _counts(reliability: Reliability) -> dict[str, list[int]]:
    return {key: values.tolist() for key, values in vars(reliability).items()}
