"""The manifest of a checkpoint: what its files are, their digests, and its own."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any, Mapping, Union

from ..errors import CheckpointError, StorageError
from .files import NotRegularError, reason, sync_folder

MANIFEST = "manifest.json"
_FORMAT = 1
# Thousands of snapshots take a few; a sparse file may claim any size.
_MAX_BYTES = 64 << 20
# What every reader of a manifest relies on; see engine/hooks.py for the rest.
_MANIFEST_KEYS = {"step": int, "files": dict}
_FILE_KEYS = {"size", "sha256"}
# Asking again would not help; a block that cannot be read (EIO) is lost as a flipped bit is.
_LOST = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO)


class OtherFormatError(CheckpointError):
    """The manifest is whole, and of another ppema."""


def render(manifest: Mapping[str, Any]) -> str:
    """Return the manifest as its file has it: the facts, and last the digest of them."""
    facts = {key: value for key, value in manifest.items() if key != "digest"}
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps({**facts, "digest": digest}, indent=1, ensure_ascii=False) + "\n"


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest as the last file of a checkpoint, and wait until the disk has them all.

    Raises:
        OSError: the disk refused.
    """
    with open(folder / MANIFEST, "w", encoding="utf-8") as file:
        file.write(render({"format": _FORMAT, **facts}))
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the facts that a manifest holds, its digest compared.

    Raises:
        CheckpointError: it is missing, damaged, or (OtherFormatError) of another format.
        StorageError: the disk refuses to read it.
    """
    try:
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            # A pipe would never end, nor would a device.
            raise CheckpointError(f"{path}: is not a file")
        with open(path, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise CheckpointError(f"{path}: is larger than {_MAX_BYTES >> 20} MiB")
        text = content.decode()
        manifest: dict[str, Any] = json.loads(text)
        # Compared as text too, so that a change outside the values is noticed as well.
        is_whole = isinstance(manifest, dict) and text == render(manifest)
    except OSError as error:
        raise missing_or_refused(path, error) from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: is damaged") from None
    if not is_whole:
        raise CheckpointError(f"{path}: checksum differs")
    if manifest.get("format") != _FORMAT:
        found = str(manifest.get("format"))[:20]
        raise OtherFormatError(f"{path}: format {found}, this ppema reads {_FORMAT}")
    for key, kind in _MANIFEST_KEYS.items():
        if not isinstance(manifest.get(key), kind):
            raise CheckpointError(f"{path}: has no {key}")
    for name, facts in manifest["files"].items():
        if not _is_file_name(name) or not isinstance(facts, dict) or not set(facts) >= _FILE_KEYS:
            raise CheckpointError(f"{path}: has no size and checksum of a file {name[:50]!r}")
    if not _is_list_of_text(manifest.get("replaces", [])):
        raise CheckpointError(f"{path}: replaces no list of checkpoints")
    return manifest


def _is_file_name(name: str) -> bool:
    return Path(name).name == name and "\0" not in name and len(os.fsencode(name)) < 256


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def missing_or_refused(path: Path, error: OSError) -> Union[CheckpointError, StorageError]:
    """Tell a file that is not there, or not all there, from a disk that refuses to read it."""
    if error.errno in _LOST or isinstance(error, NotRegularError):
        return CheckpointError(f"{path}: {error.strerror or error}")
    return StorageError(f"{path}: {reason(error)}")
