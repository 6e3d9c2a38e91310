"""What every file of a run needs: to be there whole, to be known by digest, to be explained."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import Callable

from ..errors import StorageError


class NotRegularError(OSError):
    """A pipe, a socket or a device stands where a file should be."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file that takes the place of `path` once it is whole and on the disk.

    `write` gets another path, in the same folder, and waits until the disk has what it wrote.

    Raises:
        OSError: the disk refused; `path` is what it was.
    """
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        write(temporary)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Write `content` to `path`, in a folder that is made where it is missing.

    Raises:
        StorageError: the disk refused; `path` is what it was.
    """

    def write(target: Path) -> None:
        with open(target, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    try:
        make_folder(path.parent)
        write_atomically(path, write)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {reason(error)}") from error


def make_folder(folder: Path) -> list[Path]:
    """Make a folder and those above it; return those that were not there, the innermost first.

    What is saved in it later is lost in a power cut where the disk does not know its name.

    Raises:
        OSError: the disk refused.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in made:
        sync_folder(path.parent)
    return made


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in `folder`."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's contents.

    Raises:
        OSError: the disk refused, or it is no regular file.
    """
    digest = hashlib.sha256()
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        # A pipe would be waited for, and a device has no end.
        raise NotRegularError(errno.EINVAL, "is no regular file", str(path))
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def reason(error: OSError) -> str:
    """Return why the disk refused, in words."""
    if error.errno == errno.ENOSPC:
        return "no space left"
    return (error.strerror or str(error)).lower()
