"""A run's folder: made, locked, logged into, and gone again where nothing came of the run."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Optional

from ..checkpoint.files import make_folder, reason
from ..errors import FolderInUseError, StorageError
from ..run_lock import LOCK, RunLock

LOG = "train.log"
CONFIG = "config.yml"


@contextmanager
def open_run_folder(folder: Path, held: Optional[RunLock] = None) -> Iterator[None]:
    """Hold the folder for this process for the length of a `with` block.

    `held` is the lock of a process that holds it already.

    Raises:
        FolderInUseError: another process trains in it, or just cleared it away.
        StorageError: it cannot be made or written.
    """
    try:
        made = make_folder(folder)
        lock = RunLock(folder) if held is None else held
    except OSError as error:
        if _was_cleared(error):
            raise FolderInUseError(
                f"{folder} was being cleared by another process; try again"
            ) from None
        raise StorageError(f"{folder}: cannot be written: {error.strerror or error}") from None
    try:
        yield
    finally:
        _remove_unused(folder, made)
        lock.release()


def _remove_unused(folder: Path, made: list[Path]) -> None:
    """Remove the folders that this run made where nothing but the lock came to be in them."""
    if made and all(entry.name == LOCK for entry in folder.iterdir()):
        (folder / LOCK).unlink()
        for path in made:
            try:
                path.rmdir()
            except OSError:
                # Other runs are in it, one perhaps since this moment.
                break


def _was_cleared(error: OSError) -> bool:
    """Tell whether a folder went away while it was being made."""
    if isinstance(error, FileExistsError):
        return not os.path.exists(error.filename) or os.path.isdir(error.filename)
    return isinstance(error, FileNotFoundError)


class _StrictFileHandler(logging.FileHandler):
    """A log file whose disk may refuse: the run ends with that, not with a page of tracebacks."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Raise what went wrong."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise StorageError(f"{self.baseFilename}: {reason(error)}") from error
        raise


class LateLogFile(logging.Handler):
    """Keep log records until the log file may be opened, so that its first lines are in it."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self._kept.append(record)

    def open(self, path: Path) -> None:
        """Append what was kept to `path`, and all that follows.

        Raises:
            StorageError: it is a link, which may lead to any file, or a pipe or the like.
        """
        if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
            raise StorageError(f"{path}: is no regular file; take it away")
        file = _StrictFileHandler(path, encoding="utf-8")
        file.setFormatter(self.formatter)
        logger = logging.getLogger("ppema")
        logger.removeHandler(self)
        logger.addHandler(file)
        for record in self._kept:
            file.handle(record)
        self._kept = []
