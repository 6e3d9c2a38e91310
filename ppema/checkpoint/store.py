"""The checkpoints of one run: directories that appear whole or not at all."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping, Optional, Union

from ..errors import CheckpointError, StorageError
from .files import make_folder, reason, sha256_of, sync_folder
from .manifest import MANIFEST, OtherFormatError, missing_or_refused, read_manifest, write_manifest
from .weight_file import read_weight_file
from .weight_writer import write_weight_file

logger = logging.getLogger(__name__)

BEST = "best_model"
FINAL = "model_final"
_STEP_FOLDER = re.compile(r"step_(\d{9})")
# Of a checkpoint while the one that takes its place is put there.
_ASIDE = ".tmp-aside-"


def is_checkpoint_folder(path: Path) -> bool:
    """Tell whether a folder is named as checkpoints are."""
    return _STEP_FOLDER.fullmatch(path.name) is not None


class Checkpoint:
    """One committed checkpoint: its manifest, and its files once their digests are checked.

    Raises:
        CheckpointError: the manifest is missing, torn, or says another step than the folder.
        StorageError: the disk refuses to read it, which does not mean that it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        manifest = read_manifest(path / MANIFEST)
        match = _STEP_FOLDER.fullmatch(path.name)
        if match and int(match[1]) != manifest["step"]:
            raise CheckpointError(f"{path / MANIFEST}: is of step {manifest['step']}")
        self.manifest: dict[str, Any] = manifest

    @property
    def step(self) -> int:
        """Return the optimizer steps done when it was saved."""
        return int(self.manifest["step"])

    def verify(self) -> None:
        """Compare size and sha256 of every file with the manifest.

        Raises:
            CheckpointError: a file is missing or differs.
        """
        for name in self.manifest["files"]:
            self.verify_file(name)

    def read(self, name: str) -> dict[str, Any]:
        """Return the tensors and values of one of its files.

        Raises:
            CheckpointError: no such file in the manifest, or it differs from its digest.
        """
        self.verify_file(name)
        return read_weight_file(self.path / name)

    def verify_file(self, name: str) -> None:
        """Compare size and sha256 of one file with the manifest.

        Raises:
            CheckpointError: the file is missing, differs, or is not in the manifest.
        """
        facts = self.manifest["files"].get(name)
        if facts is None:
            known = ", ".join(self.manifest["files"])
            raise CheckpointError(f"{self.path}: has no {name}, only {known}")
        file = self.path / name
        try:
            is_same = file.stat().st_size == facts["size"] and sha256_of(file) == facts["sha256"]
        except OSError as error:
            raise missing_or_refused(file, error) from None
        if not is_same:
            raise CheckpointError(f"{file}: checksum differs")


class CheckpointStore:
    """Save, find and prune the checkpoints in a run's folder.

    Args:
        folder: the run's folder; it need not exist before the first save.
        keep: how many of the newest checkpoints stay; the targets of links stay beside them.
    """

    def __init__(self, folder: Union[str, Path], keep: int) -> None:
        self.folder = Path(folder)
        self._keep = keep
        self._replaced: set[int] = set()
        # Those saved or looked through by this process.
        self._known_whole: set[int] = set()

    def steps(self) -> list[int]:
        """Return the steps of all checkpoint folders, newest first, damaged ones included."""
        if not self.folder.is_dir():
            return []
        matches = (_STEP_FOLDER.fullmatch(entry.name) for entry in self.folder.iterdir())
        return sorted((int(match[1]) for match in matches if match), reverse=True)

    def path(self, step: int) -> Path:
        """Return the folder of the checkpoint of `step`."""
        return self.folder / f"step_{step:09d}"

    def newest(self) -> Optional[Checkpoint]:
        """Return the newest whole checkpoint, or None where there never was one.

        One that a later save has replaced, and was killed before it deleted it, comes last.

        Raises:
            CheckpointError: there are checkpoints, and all are damaged; or one newer than all
                whole ones is of another format.
        """
        steps = self._replaced_last(self.steps())
        faults = []
        for step in steps:
            try:
                checkpoint = Checkpoint(self.path(step))
                checkpoint.verify()
            except OtherFormatError:
                # Nothing is wrong with it; passed over, it would be deleted after the next save.
                raise
            except CheckpointError as error:
                faults.append(str(error))
                continue
            for fault in faults:
                logger.warning("%s; using %s", fault, checkpoint.path.name)
            return checkpoint
        if steps:
            raise CheckpointError(
                f"no usable checkpoint in {self.folder} ({len(steps)} damaged): {faults[0]}"
            )
        return None

    def digests(self) -> list[str]:
        """Return the digests of all manifests, newest first, but of those that were replaced."""
        digests, replaces = self._read_manifests(self.steps())
        return [digest for digest in digests.values() if digest not in replaces]

    def linked(self, link: str) -> Optional[Checkpoint]:
        """Return the checkpoint that `best_model` or `model_final` names, None without it.

        Raises:
            CheckpointError: its manifest is damaged.
        """
        path = self.folder / link
        return Checkpoint(path.resolve()) if path.is_dir() else None

    def save(
        self,
        step: int,
        files: Mapping[str, tuple[str, Callable[[], Any]]],
        facts: Mapping[str, Any],
    ) -> Path:
        """Commit a checkpoint: `files` maps a name to its role and the maker of its contents.

        The contents are made one after another, so that only one is in memory at a time.
        A whole checkpoint of the same step is left as it is. What `replace_after` named goes once
        the new one is there.

        Raises:
            StorageError: the disk refused; the checkpoints before it still stand.
        """
        target = self.path(step)
        try:
            if step not in self._replaced and self._is_whole(target):
                return target
            make_folder(self.folder)
            temporary = self.folder / f".tmp-{target.name}"
            remove(temporary)
            temporary.mkdir()
            entries = {}
            for name, (role, make_contents) in files.items():
                # The digest is of what was to be written, so it tells a disk that wrote else.
                written = write_weight_file(temporary / name, make_contents())
                entries[name] = {"role": role, "size": written.size, "sha256": written.sha256}
            replaces = self._digests_of(self._replaced)
            facts = {**facts, "replaces": replaces} if replaces else facts
            write_manifest(temporary, {"step": step, **facts, "files": entries})
            self._put_in_place(temporary, target)
            self._known_whole.add(step)
            self._drop_replaced(step)
        except OSError as error:
            raise self._storage_error(step, error) from error
        return target

    def link(self, link: str, step: int) -> None:
        """Point `best_model` or `model_final` at a checkpoint; the old link stays until then.

        Raises:
            StorageError: the disk refused.
        """
        temporary = self.folder / f".tmp-{link}"
        try:
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(self.path(step).name)
            os.replace(temporary, self.folder / link)
            sync_folder(self.folder)
        except OSError as error:
            raise StorageError(f"cannot write {self.folder / link}: {reason(error)}") from error

    def prune(self) -> None:
        """Delete all but the newest whole checkpoints and those that a link names."""
        linked = {(self.folder / link).resolve().name for link in (BEST, FINAL)}
        num_whole = 0
        for step in self.steps():
            if num_whole >= self._keep:
                if self.path(step).name not in linked:
                    remove(self.path(step))
            # Damaged ones are not counted: what stands must be of use.
            elif step in self._known_whole or self._is_whole(self.path(step)):
                self._known_whole.add(step)
                num_whole += 1

    def replace_after(self, step: int) -> None:
        """Delete the checkpoints newer than `step` as soon as the next one is saved, not before."""
        self._replaced = {newer for newer in self.steps() if newer > step}

    def put_back(self) -> None:
        """Give a checkpoint its name again where the save that was to replace it was killed.

        Raises:
            CheckpointError: a folder stands where `best_model` or `model_final` is to be.
        """
        for link in (BEST, FINAL):
            path = self.folder / link
            # Pruning spares what links name, and would not know what this is a copy of.
            if path.is_dir() and not path.is_symlink():
                raise CheckpointError(
                    f"{path}: is a folder where a link belongs, as copying without links makes; "
                    "the checkpoint itself is a step_ folder; delete this one"
                )
        if self.folder.is_dir():
            for aside in self.folder.glob(f"{_ASIDE}*"):
                target = self.folder / aside.name[len(_ASIDE) :]
                if not os.path.lexists(target):
                    os.rename(aside, target)
                    logger.warning("%s was not replaced in the end; it stands again", target)

    def unlink(self, link: str) -> None:
        """Take `best_model` or `model_final` away, where it is there."""
        (self.folder / link).unlink(missing_ok=True)

    def clear_leftovers(self) -> None:
        """Delete what a save that was interrupted left behind."""
        if self.folder.is_dir():
            for entry in self.folder.glob(".tmp-*"):
                remove(entry)

    def _put_in_place(self, temporary: Path, target: Path) -> None:
        aside = self.folder / f"{_ASIDE}{target.name}"
        if os.path.lexists(target):
            # Deleted only once the new one has its name for certain.
            remove(aside)
            os.rename(target, aside)
        os.rename(temporary, target)
        sync_folder(self.folder)
        remove(aside)

    def _digests_of(self, steps: Iterable[int]) -> list[str]:
        digests = []
        for step in sorted(steps):
            with contextlib.suppress(CheckpointError):
                digests.append(Checkpoint(self.path(step)).manifest["digest"])
        return digests

    def _replaced_last(self, steps: list[int]) -> list[int]:
        """Return steps newest first, but after them those that another one's manifest replaces."""
        digests, replaces = self._read_manifests(steps)
        return sorted(steps, key=lambda step: (digests.get(step) not in replaces, step))[::-1]

    def _read_manifests(self, steps: list[int]) -> tuple[dict[int, str], set[str]]:
        """Return the digest of each manifest, and the digests that these say they replace."""
        digests, replaces = {}, set()
        for step in steps:
            with contextlib.suppress(CheckpointError, StorageError):
                manifest = Checkpoint(self.path(step)).manifest
                digests[step] = manifest["digest"]
                replaces.update(manifest.get("replaces", []))
        return digests, replaces

    def _drop_replaced(self, saved: int) -> None:
        for step in self._replaced - {saved}:
            remove(self.path(step))
        if self._replaced:
            for link in (BEST, FINAL):
                # Links into what was replaced, even where a step of the same number took its place.
                named = (self.folder / link).resolve().name
                if named in {self.path(step).name for step in self._replaced}:
                    self.unlink(link)
        self._replaced = set()

    def _is_whole(self, path: Path) -> bool:
        if not path.is_dir():
            return False
        try:
            Checkpoint(path).verify()
        # What the disk refuses to read is of no more use than what is damaged.
        except (CheckpointError, StorageError):
            return False
        return True

    def _storage_error(self, step: int, error: OSError) -> StorageError:
        # A disk that refused the save may refuse this as well; the next start clears it then.
        with contextlib.suppress(OSError):
            remove(self.folder / f".tmp-{self.path(step).name}")
            self.put_back()
        # Its own name may stand where the disk did not confirm it; that is not relied on.
        kept = [other for other in self.steps() if other != step]
        rest = f"; step {kept[0]} kept" if kept else "; nothing was saved before"
        return StorageError(f"cannot save step {step}: {reason(error)}{rest}")


def remove(path: Path) -> None:
    """Delete a file, a link or a folder; of a folder nothing is left in half under its name.

    Raises:
        OSError: the disk refused.
    """
    if path.is_dir() and not path.is_symlink():
        # Renamed first: a crash must not leave half of what still looks like a checkpoint.
        doomed = path.with_name(f".tmp-removed-{path.name.lstrip('.')}")
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
