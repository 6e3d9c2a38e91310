"""Runs that make one together: their names, their mean, and their figures in one record."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional, Sequence

from ..averaging.soup import combine_states
from ..checkpoint import FINAL, Checkpoint, CheckpointStore
from ..checkpoint.files import replace_file
from ..errors import CheckpointError
from ..progress import track
from .evaluate import RAW
from .goal import AccuracyGoal
from .record import METRICS, read_records
from .resume import is_open
from .run_state import MODEL_FILE, STATE_FILE

# The folders of the runs, in that of the whole.
PHASE_1 = "phase_1"
# The name of the workers' mean.
SWAP = "swap"


def worker_name(worker: int) -> str:
    """Return the name of a worker, counted from 0, and of its folder."""
    return f"worker_{worker}"


def is_worker_name(name: str) -> bool:
    """Tell whether a folder is named as those of workers are."""
    return re.fullmatch(r"worker_\d+", name) is not None


def find_ended(folder: Path) -> Optional[Checkpoint]:
    """Return the last checkpoint of a run that came to its end, None where it has not yet.

    Raises:
        CheckpointError: all checkpoints are damaged.
    """
    newest = CheckpointStore(folder, keep=1).newest()
    if newest is None or not newest.manifest.get("is_run_end") or is_open(newest):
        return None
    return newest


def find_final(folder: Path) -> Checkpoint:
    """Return what a finished run ends with.

    Raises:
        CheckpointError: it is not finished, or the manifest is damaged.
    """
    checkpoint = CheckpointStore(folder, keep=1).linked(FINAL)
    if checkpoint is None:
        raise CheckpointError(f"{folder}: is not finished; continue it with -r auto")
    return checkpoint


def weights_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what the manifest of a run says of the raw weights of another."""
    files = checkpoint.manifest["files"]
    if MODEL_FILE not in files:
        raise CheckpointError(f"{checkpoint.path}: has no {MODEL_FILE}")
    return {"step": checkpoint.step, "sha256": files[MODEL_FILE]["sha256"]}


def training_accuracy(checkpoint: Checkpoint) -> float:
    """Return the training accuracy of the epoch with which a run up to a goal ended.

    Raises:
        CheckpointError: the run had no goal, or its state is damaged.
    """
    try:
        state = checkpoint.read(STATE_FILE)["hooks"][AccuracyGoal.name]
        return int(state["num_correct"]) / int(state["num_images"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        fault = f"{checkpoint.path / STATE_FILE}: does not say how many images were right"
        raise CheckpointError(fault) from None


def mean_weights(finals: Sequence[Checkpoint]) -> dict[str, Any]:
    """Return the equal-weight mean of the raw weights of some checkpoints, read one by one.

    Raises:
        CheckpointError: a file is damaged, or does not fit the first.
    """
    states = ((str(c.path), c.read(MODEL_FILE)) for c in track(finals, len(finals), "averaging"))
    try:
        return combine_states(states, [1.0] * len(finals))
    except ValueError as error:
        raise CheckpointError(str(error)) from None


def join_records(folder: Path, start: Checkpoint, workers: int, last: Mapping[str, Any]) -> None:
    """Write the record of the whole: phase 1, then worker 0 as what goes on from it.

    The other workers are there by their raw weights, under their names. Steps and epochs of a
    worker count on from those of phase 1. `last` is the record of the mean, or nothing.

    Raises:
        StorageError: the disk refused; the record is what it was.
    """
    records = list(read_records(folder / PHASE_1 / METRICS))
    offsets = {"step": start.step, "epoch": int(start.manifest["epoch"])}
    for worker in range(workers):
        for record in _told_apart(folder, worker):
            moved = {key: record[key] + offset for key, offset in offsets.items()}
            records.append({**record, **moved})
    records += [dict(last)] if last else []
    text = "".join(f"{json.dumps(record)}\n" for record in records)
    replace_file(folder / METRICS, text.encode())


def _told_apart(folder: Path, worker: int) -> Iterator[dict[str, Any]]:
    name = worker_name(worker)
    for record in read_records(folder / name / METRICS):
        if worker == 0:
            yield record
        elif record["split"] == "eval" and record["average"] == RAW:
            yield {**record, "average": name}
