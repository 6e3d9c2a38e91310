"""The last phase of a config with the section Swap: the mean of the workers, as a checkpoint."""

from __future__ import annotations

import logging
from dataclasses import fields
from typing import Any, Mapping, Sequence

from ..checkpoint import BEST, FINAL, Checkpoint, CheckpointStore, require_finite
from ..config import Config
from ..engine.candidates import Candidates
from ..engine.evaluate import RAW, choose, table
from ..engine.phases import (
    PHASE_1,
    SWAP,
    join_records,
    mean_weights,
    weights_facts,
    worker_name,
)
from ..engine.run_state import MODEL_FILE, average_file
from ..engine.view_hooks import draw_summary
from ..metrics import Evaluation
from .after_run import make_candidates
from .parts import identity
from .run_data import note_on_run

logger = logging.getLogger(__name__)

# Whose weights are the raw ones beside the mean: one worker is as good as another, and the best
# of them would be chosen on the very images it is then measured on.
_RAW_WORKER = 0

Figures = Mapping[str, Evaluation]


def save_mean(
    config: Config,
    store: CheckpointStore,
    start: Checkpoint,
    finals: Sequence[Checkpoint],
    with_evaluation: bool,
) -> None:
    """Average the raw weights that workers end with, compute BN anew, evaluate, and save it.

    Nothing is done where that was done with the same workers.

    Args:
        config: with the section Swap.
        store: of the whole.
        start: what phase 1 ends with.
        finals: what each worker ends with, in order.
        with_evaluation: evaluate the mean, and say it beside the figures of all others.

    Raises:
        CheckpointError: a file is damaged, or does not fit.
        NonFiniteError: the mean, or a BN statistic of it, is not finite.
    """
    done = store.newest()
    if done is not None and _is_mean_of(done, finals, with_evaluation):
        _link(store, done)
        logger.info("%s is finished, the mean of its workers too", store.folder)
        return
    alone = config.of_workers
    assert alone is not None
    logger.info("phase 3 of 3, %s: the mean of %d workers", store.folder, len(finals))
    candidates = make_candidates(alone, finals[0])
    if candidates.recomputes:
        logger.info(
            "its BatchNorm statistics are computed anew, on %d training batches at most",
            alone.recompute_batches,
        )
    figures = _evaluate_parts(candidates, start, finals) if with_evaluation else {}
    candidates.load(mean_weights(finals), SWAP)
    if with_evaluation:
        figures[SWAP] = candidates.evaluate_loaded(SWAP)
    require_finite(candidates.state_dict(), "save the mean")
    raw = finals[_RAW_WORKER]
    facts = _facts(config, start, finals, figures)
    join_records(store.folder, start, len(finals), _record(facts))
    store.replace_after(-1)
    path = store.save(
        start.step + raw.step,
        {
            MODEL_FILE: (RAW, lambda: raw.read(MODEL_FILE)),
            average_file(SWAP): ("average", candidates.state_dict),
        },
        facts,
    )
    _link(store, Checkpoint(path))
    logger.info("the mean is saved in %s", path)
    note = note_on_run(raw.manifest)
    if figures:
        winner = worker_name(_RAW_WORKER) if facts["winner"] == RAW else SWAP
        logger.info("Eval: phase 3%s\n%s", note, table(figures, winner, _select(config)))
    draw_summary(store.folder, config.name + note, facts["best"], _select(config), note)


def _is_mean_of(
    checkpoint: Checkpoint, finals: Sequence[Checkpoint], with_evaluation: bool
) -> bool:
    facts = checkpoint.manifest
    is_evaluated = bool(facts.get("metrics")) or not with_evaluation
    return facts.get("workers") == [weights_facts(final) for final in finals] and is_evaluated


def _evaluate_parts(
    candidates: Candidates, start: Checkpoint, finals: Sequence[Checkpoint]
) -> dict[str, Evaluation]:
    """Return the figures of phase 1 and of each worker."""
    names = [PHASE_1, *map(worker_name, range(len(finals)))]
    return {name: _figures(name, c, candidates) for name, c in zip(names, (start, *finals))}


def _figures(name: str, checkpoint: Checkpoint, candidates: Candidates) -> Evaluation:
    """Return what raw weights give: as their run has it, else evaluated now."""
    known = checkpoint.manifest["metrics"].get(RAW)
    # Not all of them in a run of an earlier version.
    if known is not None and known.keys() == {f.name for f in fields(Evaluation)}:
        return Evaluation(**known)
    candidates.load(checkpoint.read(MODEL_FILE), name, recomputes_statistics=False)
    return candidates.evaluate_loaded(name)


def _facts(
    config: Config, start: Checkpoint, finals: Sequence[Checkpoint], figures: Figures
) -> dict[str, Any]:
    """Return what the manifest says of the mean; the figures are none without evaluation."""
    raw, alone = finals[_RAW_WORKER].manifest, config.of_workers
    assert alone is not None
    served, winner, best = {}, None, {}
    if figures:
        served = {RAW: figures[worker_name(_RAW_WORKER)], SWAP: figures[SWAP]}
        winner = choose(served, _select(config))
        step = start.step + int(raw["step"])
        best = {"step": step, "average": winner, **served[winner].as_dict()}
    return {
        "epoch": int(start.manifest["epoch"]) + int(raw["epoch"]),
        "averages": [SWAP],
        "metrics": {name: evaluation.as_dict() for name, evaluation in served.items()},
        "winner": winner,
        "best": best,
        "snapshots": [],
        "config": config.name,
        "config_digest": config.digest(),
        "config_values": config.values(),
        "seed": config.seed,
        "identity": identity(alone),
        "data": raw["data"],
        "steps_per_epoch": raw["steps_per_epoch"],
        "phase_1": weights_facts(start),
        "workers": [weights_facts(final) for final in finals],
        "figures": {name: evaluation.as_dict() for name, evaluation in figures.items()},
    }


def _record(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of the mean, nothing without evaluation."""
    if not facts["metrics"]:
        return {}
    at = {"step": facts["best"]["step"], "epoch": facts["epoch"], "split": "eval"}
    on = "validation" if "validation" in facts["data"] else "test"
    return {**at, "on": on, "average": SWAP, **facts["metrics"][SWAP]}


def _select(config: Config) -> str:
    # An average of the config is one of each run alone.
    return RAW if config.select == RAW else "best"


def _link(store: CheckpointStore, checkpoint: Checkpoint) -> None:
    store.link(FINAL, checkpoint.step)
    if checkpoint.manifest.get("winner") is None:
        store.unlink(BEST)
    else:
        store.link(BEST, checkpoint.step)
