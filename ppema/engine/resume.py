"""Where a run starts: at nothing, or at which checkpoint, by what its folder holds."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Collection, Mapping, Optional

from ..checkpoint import BEST, FINAL, Checkpoint, CheckpointStore
from ..errors import CheckpointError, ConfigError
from ..nearby import near_path
from .old_records import keep_records, put_back_records
from .record import METRICS
from .run_folder import LOG

logger = logging.getLogger(__name__)

# What may be another one than the checkpoint's, where the user says so, and what then happens.
ACCEPTABLE: Mapping[str, str] = {
    "model": "goes on where all of its weights fit",
    "optimizer": "goes on, with the state of the optimizer begun anew",
    "schedule": "goes on, with this schedule as it stands after so many steps",
    "data": "goes on with them, from the start of the epoch",
}


def find_start(
    store: CheckpointStore, resume: Optional[str], overwrite: bool
) -> Optional[Checkpoint]:
    """Return the checkpoint to continue from, or None to start.

    `resume` is what `-r` says: auto, a run folder or a checkpoint. Nothing is deleted here.

    Raises:
        ConfigError: going on would write over checkpoints, and `overwrite` does not allow it.
        CheckpointError: nothing usable where `resume` points.
    """
    store.put_back()
    steps = store.steps()
    if resume is None:
        if steps and not overwrite:
            raise ConfigError(
                f"{store.folder} holds a checkpoint (step {steps[0]}); continue it with -r auto, "
                "or start again with --overwrite"
            )
        return None
    if resume == "auto" or Path(resume).resolve() == store.folder.resolve():
        checkpoint = store.newest()
        if checkpoint is None:
            logger.info("no checkpoint in %s; starting", store.folder)
        return checkpoint
    checkpoint = find_checkpoint(Path(resume))
    is_own = is_of(checkpoint, store)
    newer = [step for step in steps if not is_own or step > checkpoint.step]
    if newer and not overwrite:
        raise ConfigError(
            f"{store.folder} holds newer checkpoints (step {newer[0]}) than {resume}; continue "
            "them with -r auto, or drop them with --overwrite"
        )
    return checkpoint


def find_checkpoint(path: Path) -> Checkpoint:
    """Return the whole checkpoint at `path`: itself, or the newest of a run folder.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such run folder or checkpoint{near_path(path)}")
    if not path.is_dir():
        raise CheckpointError(f"{path}: is a file; a run folder or a checkpoint is needed")
    if (path / "manifest.json").exists():
        checkpoint = Checkpoint(path.resolve())
        checkpoint.verify()
        return checkpoint
    newest = CheckpointStore(path, keep=1).newest()
    if newest is None:
        raise CheckpointError(f"{path}: holds no checkpoint")
    return newest


def is_finished(checkpoint: Checkpoint, num_epochs: int) -> bool:
    """Tell whether a run of `num_epochs` ended with this checkpoint, or before it."""
    epoch = int(checkpoint.manifest["epoch"])
    is_epoch_done = checkpoint.manifest["is_epoch_end"] and not is_open(checkpoint)
    return epoch > num_epochs or (epoch == num_epochs and is_epoch_done)


def is_open(checkpoint: Checkpoint) -> bool:
    """Tell whether a signal came before what follows the step, its evaluation perhaps, was done."""
    # A checkpoint of an earlier version does not say.
    return bool(checkpoint.manifest.get("is_open", False))


def finish(store: CheckpointStore, checkpoint: Checkpoint, num_epochs: int) -> None:
    """Make the folder that of a finished run, and say so.

    Raises:
        ConfigError: the checkpoint is of another folder, and this run is not finished.
    """
    epoch = int(checkpoint.manifest["epoch"])
    if not is_of(checkpoint, store):
        raise ConfigError(
            f"{checkpoint.path} is of epoch {epoch} already, and the config says epoch: "
            f"{num_epochs}; set a larger epoch to train on from it"
        )
    prepare_folder(store, checkpoint, is_done=True)
    asked = "" if epoch == num_epochs else f"; the config says epoch: {num_epochs}"
    logger.info("%s is finished (epoch %d%s)", store.folder, epoch, asked)


def changed_parts(
    saved: Mapping[str, Any], current: Mapping[str, Any], accepted: Collection[str]
) -> set[str]:
    """Return which of model, optimizer and schedule are others; refuse what is not accepted.

    Raises:
        CheckpointError: one of them differs; the text names both, and the way out.
    """
    changed = {part for part, wanted in current.items() if saved.get(part) != wanted}
    for part, wanted in current.items():
        if part in changed and part not in accepted:
            raise CheckpointError(
                f"the checkpoint was made with {saved.get(part) or 'no ' + part}, the config says "
                f"{wanted or 'no ' + part}; --accept {part} {ACCEPTABLE[part]}"
            )
    return changed


def changed_data(saved: Mapping[str, Any], current: Mapping[str, Any]) -> set[str]:
    """Return `data` where a run goes on with other images, `best` where its figures are of others.

    Both are what a manifest says of the data.
    """
    changed = {"data"} if saved["train"]["digest"] != current["train"]["digest"] else set()
    return changed | ({"best"} if _deciding_digest(saved) != _deciding_digest(current) else set())


def _deciding_digest(facts: Mapping[str, Any]) -> Any:
    """Return the digest of what weights were chosen by: the validation data, where there are."""
    return facts.get("validation", facts["eval"])["digest"]


def is_of(checkpoint: Checkpoint, store: CheckpointStore) -> bool:
    """Tell whether the checkpoint is one of this run's own folder."""
    return checkpoint.path.parent.resolve() == store.folder.resolve()


def prepare_folder(store: CheckpointStore, start: Optional[Checkpoint], is_done: bool) -> None:
    """Make the folder ready to go on from `start`, or to start anew without one.

    Checkpoints after `start` go once the next is saved. Links that a crash left behind or ahead
    are put back to what the checkpoint says; `model_final` is only there once a run `is_done`.
    """
    store.clear_leftovers()
    put_back_records(store)
    if start is None or not is_of(start, store):
        store.replace_after(-1)
        keep_records(store, METRICS, LOG)
        # The figures and words of another run would stand among those of this one.
        for name in (METRICS, LOG):
            (store.folder / name).unlink(missing_ok=True)
        return
    # One that is open is saved again, with its figures.
    store.replace_after(start.step - 1 if is_open(start) else start.step)
    if start.step < max(store.steps()):
        # Its records are cut after `start`; the log only grows.
        keep_records(store, METRICS)
    best = start.manifest["best"]
    if best and store.path(best["step"]).is_dir():
        store.link(BEST, best["step"])
    if is_done:
        store.link(FINAL, start.step)
    else:
        store.unlink(FINAL)
