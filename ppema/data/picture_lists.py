"""The pictures that a command line names: some files, a folder's, or those of a list."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Sequence

from ..errors import DataError
from ..nearby import near_path
from .picture import IMAGE_SUFFIXES
from .preprocess import ARRAY_SUFFIX

# A list of names is read whole.
_MAX_LIST_BYTES = 64 << 20


@dataclass(frozen=True)
class NamedPicture:
    """A file, and the name that what is made of it gets: relative, one for each file."""

    path: Path
    name: PurePosixPath


def pictures_of_files(paths: Sequence[str]) -> list[NamedPicture]:
    """Return files by name, each as often as it is named; no file is opened."""
    found: list[NamedPicture] = []
    used: set[PurePosixPath] = set()
    for path in map(Path, paths):
        name, number = PurePosixPath(path.name or "picture"), 1
        while name in used:
            number += 1
            name = PurePosixPath(f"{path.stem}_{number}{path.suffix}")
        used.add(name)
        found.append(NamedPicture(path, name))
    return found


def pictures_of_folder(folder: str) -> tuple[list[NamedPicture], list[Path]]:
    """Return the pictures below a folder in the order of their names, and what else lies there.

    Which is which is told by the files' endings; names that begin with a dot are passed over.

    Raises:
        DataError: no such folder, it may not be read, or it holds no picture.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        near = near_path(folder, only_folders=True)
        raise DataError(f"{folder}: {'is no folder' if root.exists() else f'no such folder{near}'}")
    pictures: list[NamedPicture] = []
    others: list[Path] = []
    try:
        for parent, folders, names in os.walk(root, onerror=_raise):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(name for name in names if not name.startswith(".")):
                path = Path(parent, name)
                if path.suffix.lower() in {*IMAGE_SUFFIXES, ARRAY_SUFFIX}:
                    relative = PurePosixPath(path.relative_to(root).as_posix())
                    pictures.append(NamedPicture(path, relative))
                else:
                    others.append(path)
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from None
    if not pictures:
        known = " ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"{folder}: holds no pictures ({known})")
    return pictures, others


def pictures_of_list(list_file: str) -> list[NamedPicture]:
    """Return the files that a text names, one a line, as seen from the current folder.

    Raises:
        DataError: it cannot be read, is no UTF-8 text, or names no file.
    """
    path = Path(list_file)
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{list_file}: is no file")
        with open(path, "rb") as file:
            content = file.read(_MAX_LIST_BYTES + 1)
        if len(content) > _MAX_LIST_BYTES:
            raise DataError(f"{list_file}: is larger than {_MAX_LIST_BYTES >> 20} MiB")
        lines = content.decode("utf-8-sig").splitlines()
    except OSError as error:
        near = near_path(list_file) if isinstance(error, FileNotFoundError) else ""
        raise DataError(f"{list_file}: {error.strerror}{near}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{list_file}: not UTF-8 (byte {error.start})") from None
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise DataError(f"{list_file}: names no file; expected one a line")
    nul = next((number for number, line in enumerate(lines, 1) if "\0" in line), None)
    if nul is not None:
        raise DataError(f"{list_file}:{nul}: NUL is in no file's name")
    return pictures_of_files(names)


def _raise(error: OSError) -> None:
    # os.walk would pass over a folder that it may not read.
    raise error
