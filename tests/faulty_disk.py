"""A layer under `open` and `os` that notes every change to a folder, and can refuse any of them."""

from __future__ import annotations

import builtins
import errno
import io
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Change:
    """One change: `kind` is the call, `path` what it was asked to change.

    `other` is the new name of a rename, the target of a symlink, or the bytes of a write.
    """

    kind: str
    path: str
    other: object = None


@dataclass(frozen=True)
class Fault:
    """Refuse the change `number`, counted from 0; with `lasts` all those after it too.

    A `torn` write leaves half of its bytes behind.
    """

    number: int
    errno: int = errno.EIO
    lasts: bool = False
    torn: bool = False


class FaultyDisk:
    """Watch a folder for the length of a `with` block.

    Args:
        folder: changes elsewhere pass unseen.
        fault: the change that the disk refuses, if any.
    """

    def __init__(self, folder, fault=None):
        self._folder, self._fault = os.path.abspath(folder), fault
        self.changes = []
        self._real = {}

    def __enter__(self):
        for name in ("mkdir", "unlink", "rmdir", "open", "rename", "replace", "symlink", "fsync"):
            self._real[name] = getattr(os, name)
            setattr(os, name, getattr(self, f"_{name}"))
        # pathlib before Python 3.10 keeps what `os` had when it was imported; those few changes
        # pass unseen there.
        self._real_open = builtins.open
        builtins.open = io.open = self._open_file
        return self

    def __exit__(self, *_):
        builtins.open = io.open = self._real_open
        for name, function in self._real.items():
            setattr(os, name, function)

    @property
    def has_refused(self):
        """Tell whether the fault came to pass."""
        return self._fault is not None and len(self.changes) > self._fault.number

    def note(self, kind, path, other=None):
        """Note a change, or raise what the disk says to it."""
        fault, number = self._fault, len(self.changes)
        self.changes.append(Change(kind, path, other))
        if fault and (number == fault.number or (fault.lasts and number > fault.number)):
            raise OSError(fault.errno, os.strerror(fault.errno), path)

    def tears(self):
        """Tell whether the write that is being refused leaves a part behind."""
        return self._fault is not None and self._fault.torn

    def _path(self, path, dir_fd=None):
        """Return the absolute path where it is in the folder, None elsewhere."""
        path = os.fspath(path)
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if dir_fd is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path)
        path = os.path.abspath(path)
        is_inside = path == self._folder or path.startswith(self._folder + os.sep)
        return path if is_inside else None

    def _open_file(self, file, mode="r", buffering=-1, encoding=None, *rest, **options):
        path = self._path(file) if isinstance(file, (str, os.PathLike)) else None
        if path is not None and "+" in mode:
            # Of a lock: what is written in it matters to nobody, whether it may be opened does.
            self.note("open", path)
        if path is None or not set(mode) & set("wax") or "+" in mode:
            return self._real_open(file, mode, buffering, encoding, *rest, **options)
        if "a" not in mode or not os.path.exists(path):
            self.note("create", path)
        raw = _WatchedFile(self, path, "ab" if "a" in mode else "wb")
        buffered = io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding or "utf-8")

    def _mkdir(self, path, mode=0o777, *, dir_fd=None):
        # mkdir(exist_ok=True) asks first and looks afterwards.
        if self._path(path, dir_fd) and not os.path.lexists(path):
            self.note("mkdir", self._path(path, dir_fd))
        return self._real["mkdir"](path, mode, dir_fd=dir_fd)

    def _unlink(self, path, *, dir_fd=None):
        found = self._path(path, dir_fd)
        if found and os.path.lexists(found):
            self.note("unlink", found)
        return self._real["unlink"](path, dir_fd=dir_fd)

    def _rmdir(self, path, *, dir_fd=None):
        found = self._path(path, dir_fd)
        if found:
            self.note("rmdir", found)
        return self._real["rmdir"](path, dir_fd=dir_fd)

    def _open(self, path, flags, mode=0o777, *, dir_fd=None):
        found = self._path(path, dir_fd)
        if found and os.path.isdir(found):
            self.note("open", found)
        return self._real["open"](path, flags, mode, dir_fd=dir_fd)

    def _rename(self, source, target, **options):
        if self._path(target):
            self.note("rename", self._path(source), self._path(target))
        return self._real["rename"](source, target, **options)

    def _replace(self, source, target, **options):
        if self._path(target):
            self.note("rename", self._path(source), self._path(target))
        return self._real["replace"](source, target, **options)

    def _symlink(self, source, target, target_is_directory=False, **options):
        if self._path(target):
            self.note("symlink", self._path(target), os.fspath(source))
        return self._real["symlink"](source, target, target_is_directory, **options)

    def _fsync(self, file):
        path = os.readlink(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}")
        if self._path(path):
            self.note("fsync", path)
        return self._real["fsync"](file)


class _WatchedFile(io.FileIO):
    """A file whose every write is a change of its own."""

    def __init__(self, disk, path, mode):
        super().__init__(path, mode)
        self._disk, self._path = disk, path

    def write(self, data):
        data = bytes(data)
        try:
            self._disk.note("write", self._path, data)
        except OSError:
            if self._disk.tears():
                super().write(data[: len(data) // 2])
            raise
        return super().write(data)


def copy_bytes(folder):
    """Return every file and link in a folder, with what it holds."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file():
            found[name] = path.read_bytes()
    return found
