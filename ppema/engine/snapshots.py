"""Snapshots of power-function EMAs, taken during a run for averages that are made after it."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Mapping, Optional

from ..averaging import PowerFunctionEMA, ranks
from ..checkpoint.files import reason, sha256_of, write_atomically
from ..checkpoint.weight_file import read_weight_file
from ..checkpoint.weight_writer import write_weight_file
from ..errors import CheckpointError, StorageError
from .trainer import Hook, Trainer

logger = logging.getLogger(__name__)

SNAPSHOTS = "snapshots"
# Of snapshots of an earlier run, until the new one has a checkpoint of its own.
_OLD = ".old-"


@dataclass(frozen=True)
class Snapshot:
    """One snapshot as the manifest lists it.

    Attributes:
        average: the name of the average it is of.
        sigma_rel: that average's width.
        step: the step of the run after which it was taken.
        num_updates: of the average.
        time: the update that its profile ends with: the last that was folded in.
        copied: names in the file that are no averages.
        size, sha256: of the file.
    """

    average: str
    sigma_rel: float
    step: int
    num_updates: int
    time: int
    copied: list[str]
    size: int
    sha256: str

    @property
    def file_name(self) -> str:
        """Return the name of its file in the folder of snapshots."""
        return file_name(self.average, self.step)

    def is_whole(self, path: Path) -> bool:
        """Tell whether a file is this snapshot's, to the byte."""
        try:
            return path.stat().st_size == self.size and sha256_of(path) == self.sha256
        except OSError:
            return False

    def read(self, folder: Path) -> dict[str, Any]:
        """Return its tensors from the folder of snapshots.

        Raises:
            CheckpointError: the file is missing, or not what the manifest lists.
        """
        path = folder / self.file_name
        if not self.is_whole(path):
            found = "checksum differs" if path.exists() else "is missing"
            raise CheckpointError(f"{path}: {found}")
        return read_weight_file(path)


class SnapshotHook(Hook):
    """Write each power-function EMA into the run's folder every so many steps and each epoch.

    A checkpoint lists the snapshots up to its step, so that a resumed run goes on with those and
    takes the later ones anew. Those of an earlier run are deleted only by `commit`.

    Args:
        folder: of the snapshots.
        every: steps from one to the next; None to take none.
    """

    name = "snapshots"

    def __init__(self, folder: Path, every: Optional[int]) -> None:
        self._folder, self._every = folder, every
        self.taken: list[Snapshot] = []

    def before_run(self, trainer: Trainer) -> None:
        """Put aside what the checkpoint does not list; leave out what it lists and is not there."""
        if not ranks.is_first():
            return
        for path in self._folder.glob(".tmp-*"):
            path.unlink()
        self.taken = [s for s in self.taken if not _is_of_another_start(s, trainer.averages)]
        listed = {snapshot.file_name: snapshot for snapshot in self.taken}
        # What else a user keeps there is no snapshot, and stays.
        for path in sorted(self._folder.glob(f"[!.]*_{9 * '[0-9]'}.pdparams")):
            if path.is_dir():
                continue
            if path.name not in listed or not listed[path.name].is_whole(path):
                _put_aside(path)
        for name, snapshot in listed.items():
            path, old = self._folder / name, self._folder / f"{_OLD}{name}"
            if not path.exists() and snapshot.is_whole(old):
                os.replace(old, path)
            if not path.exists():
                logger.warning("%s is missing or damaged; it is left out", path)
                self.taken.remove(snapshot)

    def after_step(self, trainer: Trainer) -> None:
        """Take a snapshot of each power-function EMA where one is due."""
        # At the end of an epoch too: people ask for the averages as of a checkpoint.
        if self._every is None or (trainer.step % self._every and not trainer.is_epoch_end):
            return
        trainer.synchronize()
        if not ranks.is_first():
            return
        # A step that a signal broke off after its snapshots comes twice.
        taken = {snapshot.average for snapshot in self.taken if snapshot.step == trainer.step}
        for name, average in trainer.averages.items():
            if name in taken or not isinstance(average, PowerFunctionEMA):
                continue
            if average.profile_end > 0:
                self.taken.append(self._take(name, average, trainer.step))

    def commit(self) -> None:
        """Delete the snapshots of an earlier run; called once a checkpoint of this one stands."""
        for path in self._folder.glob(f"{_OLD}*"):
            path.unlink()

    def facts(self) -> list[dict[str, Any]]:
        """Return the list for the manifest."""
        return [asdict(snapshot) for snapshot in self.taken]

    def state_dict(self) -> dict[str, Any]:
        """Return the list of those taken."""
        return {"taken": self.facts()}

    def set_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the list back."""
        self.taken = [Snapshot(**entry) for entry in state["taken"]]

    def _take(self, name: str, average: PowerFunctionEMA, step: int) -> Snapshot:
        path = self._folder / file_name(name, step)
        try:
            self._folder.mkdir(exist_ok=True)
            write_atomically(path, lambda target: write_weight_file(target, average.snapshot()))
            return Snapshot(
                average=name,
                sigma_rel=average.sigma_rel,
                step=step,
                num_updates=average.num_updates,
                time=average.profile_end,
                copied=average.copied_names(),
                size=path.stat().st_size,
                sha256=sha256_of(path),
            )
        except OSError as error:
            text = f"cannot save a snapshot of {name} at step {step}: {reason(error)}"
            raise StorageError(text) from error


def _is_of_another_start(snapshot: Snapshot, averages: Mapping[str, Any]) -> bool:
    """Tell whether its average has been started again since: its profile is over other times."""
    average = averages.get(snapshot.average)
    return average is not None and (
        not isinstance(average, PowerFunctionEMA)
        or average.sigma_rel != snapshot.sigma_rel
        or average.num_updates < snapshot.num_updates
    )


def file_name(average: str, step: int) -> str:
    """Return the name of the file of a snapshot in the folder of snapshots."""
    return f"{average}_{step:09d}.pdparams"


def _put_aside(path: Path) -> None:
    """Keep a file for the run it is of, unless an earlier one is kept under its name already."""
    old = path.with_name(f"{_OLD}{path.name}")
    if old.exists():
        path.unlink()
    else:
        os.replace(path, old)
