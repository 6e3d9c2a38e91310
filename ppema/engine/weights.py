"""Which weights a tool is to use: of a run, of a checkpoint, or of a file of its own."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Optional

from ..checkpoint import (
    BEST,
    FINAL,
    Checkpoint,
    CheckpointStore,
    is_checkpoint_folder,
    load_strictly,
    read_weight_file,
)
from ..checkpoint.files import sha256_of
from ..errors import CheckpointError, ConfigError
from ..nearby import near_path
from .evaluate import RAW
from .run_facts import require_served_facts
from .run_state import MODEL_FILE, STALE, average_file

logger = logging.getLogger(__name__)

ALL = "all"


@dataclass(frozen=True)
class Weights:
    """Sets of weights by name, what they are in words, and the manifest of their checkpoint.

    `manifest` is empty for a file that belongs to no checkpoint; `winner` is the name of the set
    that was best when they were saved, None where that was not measured.
    """

    described: str
    names: tuple[str, ...]
    manifest: Mapping[str, Any]
    winner: Optional[str]
    checkpoint: Optional[Checkpoint]
    file: Optional[Path]

    def title(self, name: str) -> str:
        """Return one of the sets in a few words: its name, and its step where that is known."""
        return f"{name} of step {self.manifest['step']}" if self.manifest else name

    def load(self, name: str, model: Any) -> None:
        """Put one of the sets into the model.

        Raises:
            CheckpointError: a file is damaged, or does not fit; the model is untouched then.
        """
        source = str(self.file)
        if self.checkpoint is not None:
            source = f"{self.checkpoint.path.name}/{_file_of(name)}"
        load_strictly(model, self.read(name), source)

    def read(self, name: str) -> Mapping[str, Any]:
        """Return one of the sets, by structured name.

        Raises:
            CheckpointError: a file is damaged.
        """
        if self.checkpoint is None:
            assert self.file is not None
            return read_weight_file(self.file)
        return self.checkpoint.read(_file_of(name))

    def choose(self, select: str) -> str:
        """Return the set to use where one is wanted and none is named: the winner.

        Where nothing was evaluated, it is the one that `select` names, else the only average.

        Raises:
            ConfigError: there are several, and nothing says which is better.
        """
        for name in (self.winner, select):
            if name in self.names:
                return str(name)
        averages = [name for name in self.names if name != RAW] or [RAW]
        if len(averages) > 1:
            raise ConfigError(
                "nothing was evaluated, so no winner is known; choose one of "
                f"{', '.join(self.names)} with --average"
            )
        return averages[0]

    def digest(self, name: str) -> dict[str, str]:
        """Return the name and the sha256 of the file that holds one of the sets."""
        if self.checkpoint is None:
            assert self.file is not None
            return {"file": self.file.name, "sha256": sha256_of(self.file)}
        file = _file_of(name)
        return {"file": file, "sha256": self.manifest["files"][file]["sha256"]}


def find_weights(weights: Optional[str], run_folder: Path, average: str) -> Weights:
    """Return the weights that `-o weights=` names, else the best of the run's own folder.

    Args:
        weights: a run folder, a checkpoint, or any .pdparams; None for `run_folder`.
        run_folder: the folder of the run that the config describes.
        average: raw, the name of an average, or all.

    Raises:
        CheckpointError: nothing is there, it is damaged, or BN statistics are missing.
        ConfigError: there is no average of this name.
    """
    path = Path(weights) if weights is not None else run_folder
    if weights is not None and not (weights and path.exists()):
        raise CheckpointError(
            f"{weights!r}: no such run folder, checkpoint or weight file{near_path(path)}"
        )
    if path.is_file():
        return _find_in_file(path, average)
    if (path / "manifest.json").exists():
        checkpoint, why = Checkpoint(path.resolve()), "as named"
    else:
        checkpoint, why = _find_in_run(path)
    require_served_facts(checkpoint)
    available = (RAW, *checkpoint.manifest["averages"])
    if average != ALL and average not in available:
        raise ConfigError(f"--average {average}: {checkpoint.path} has {', '.join(available)}")
    names = available if average == ALL else (average,)
    faults = {name: fault for name in names if (fault := _stale_fault(checkpoint, _file_of(name)))}
    for fault in faults.values():
        if average != ALL:
            raise CheckpointError(fault)
        logger.warning("%s; it is left out", fault)
    names = tuple(name for name in names if name not in faults)
    where = f"{checkpoint.path.parent.name}/{checkpoint.path.name}"
    described = (
        f"{', '.join(names)} of {where}, step {checkpoint.step}, "
        f"epoch {checkpoint.manifest['epoch']} ({why})"
    )
    winner = checkpoint.manifest["winner"]
    return Weights(described, names, checkpoint.manifest, winner, checkpoint, None)


def _file_of(name: str) -> str:
    return MODEL_FILE if name == RAW else average_file(name)


def _stale_fault(checkpoint: Checkpoint, file: str) -> Optional[str]:
    """Say what is wrong with an average that was saved without BN statistics of its own."""
    if checkpoint.manifest["files"].get(file, {}).get("role") != STALE:
        return None
    return (
        f"{checkpoint.path.name}/{file}: its BatchNorm statistics are of earlier weights, as the "
        "run was stopped before they were computed; continue it with -r auto"
    )


def _find_in_run(folder: Path) -> tuple[Checkpoint, str]:
    store = CheckpointStore(folder, keep=1)
    for link, why in ((BEST, "the run's best"), (FINAL, "the run's last; it has no best")):
        checkpoint = store.linked(link)
        if checkpoint is not None:
            return checkpoint, why
    newest = store.newest()
    if newest is None:
        raise CheckpointError(
            f"{folder}: holds no checkpoint; train first, or name one with -o weights=…"
        )
    return newest, "the newest; the run is not finished and has no best"


def _find_in_file(path: Path, average: str) -> Weights:
    if average != ALL:
        raise ConfigError(f"--average {average}: {path} is a single file, not a checkpoint")
    checkpoint = _checkpoint_around(path)
    if checkpoint is None:
        return Weights(str(path), (path.stem,), {}, None, None, path)
    checkpoint.verify_file(path.name)
    fault = _stale_fault(checkpoint, path.name)
    if fault is not None:
        raise CheckpointError(fault)
    described = f"{path}, step {checkpoint.step}"
    return Weights(described, (path.stem,), checkpoint.manifest, None, None, path)


def _checkpoint_around(path: Path) -> Optional[Checkpoint]:
    """Return the checkpoint that a file is of, None where it merely lies beside some manifest."""
    try:
        checkpoint = Checkpoint(path.parent.resolve())
    except CheckpointError:
        if is_checkpoint_folder(path.parent.resolve()):
            raise
        return None
    return checkpoint if path.name in checkpoint.manifest["files"] else None
