"""One process at a time in a run folder; a dead one's lock blocks nobody."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO, Iterator, Optional

from .errors import FolderInUseError

LOCK = ".lock"
WRITER_LOCK = ".writer.lock"


class RunLock:
    """Hold `<folder>/.lock` until `release` or the end of the process, however it ends.

    Raises:
        FolderInUseError: another process holds it; the text names the process.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        # Held open on purpose: closing the file is what releases the lock.
        self._file: Optional[IO[str]] = open(  # noqa: SIM115
            folder / LOCK, "a+", encoding="ascii", errors="replace", opener=_open_itself
        )
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise FolderInUseError(f"{folder} is in use by process {holder}") from None
        if not self._is_current(folder / LOCK):
            # Its holder took the file away in between: a lock on it would keep nobody out.
            self._file.close()
            raise FolderInUseError(f"{folder} was being cleared by another process; try again")
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def _is_current(self, path: Path) -> bool:
        assert self._file is not None
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let others in; a second call does nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _open_itself(path: str, flags: int) -> int:
    # In a folder of a stranger's it may be a link to any file, which would be emptied.
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


@contextlib.contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a `with` block for the folder, which has to be there.

    For what is read and written in a moment: nobody is refused, and who comes later reads later.

    Raises:
        OSError: the folder cannot be written.
    """
    path = folder / WRITER_LOCK
    with open(path, "a", encoding="ascii", opener=_open_itself) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def hold_if_used(folder: Path) -> Iterator[Optional[RunLock]]:
    """Hold a folder that a run has used before, for the length of a `with` block; make nothing.

    Gives None where there is no lock to hold, so that no other process can have it.

    Raises:
        FolderInUseError: another process holds it.
    """
    lock = None
    # What else the disk refuses is for those to say who write.
    with contextlib.suppress(OSError):
        lock = RunLock(folder) if (folder / LOCK).exists() else None
    try:
        yield lock
    finally:
        if lock is not None:
            lock.release()
