"""Archives of the data sets that have a name: where they lie, and how they are fetched."""

from __future__ import annotations

import os
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Optional, Sequence

from ..errors import ConfigError, DataError, StorageError
from ..nearby import near_path
from ..progress import ProgressLine
from .dataset import Kind
from .download import Downloader, MirrorsFailedError
from .transfer import SCHEMES

MIRRORS_VARIABLE = "PPEMA_MIRRORS"
# What is said of a damaged file that ppema may fetch again by itself.
FETCHED_ANEW = "delete the file, and it is downloaded anew"


class NotWithinReachError(DataError):
    """The data are in none of the places where ppema may look by itself."""


@dataclass(frozen=True)
class ArchiveRequest:
    """Ask for one part of a data set that lies in archives; the base of those that have a name.

    Raises:
        ValueError: dataset_dir is empty, or mode is neither train nor test.
    """

    mode: Literal["train", "test"]
    dataset_dir: Optional[str] = None

    kind: ClassVar[Kind]
    # As people say it.
    title: ClassVar[str]

    def __post_init__(self) -> None:
        require_folder_name(self.dataset_dir)
        require_mode(self.mode)


@dataclass(frozen=True)
class Archive:
    """One archive as the mirrors serve it; `name` is without the .gz."""

    name: str
    num_bytes: int
    md5: str


def require_mode(mode: str) -> None:
    """Raise ValueError unless `mode` is train or test."""
    if mode not in ("train", "test"):
        raise ValueError(f"mode must be train or test, got {mode!r}")


def require_folder_name(dataset_dir: Optional[str]) -> None:
    """Raise ValueError where the name of a folder is given and empty."""
    if dataset_dir is not None and not dataset_dir.strip():
        raise ValueError(f"dataset_dir must name a folder, got {dataset_dir!r}")


def open_folder(dataset_dir: str) -> Path:
    """Return the folder that the user gave, `~` understood.

    Raises:
        DataError: there is no such folder.
    """
    folder = Path(os.path.expanduser(dataset_dir))
    if os.path.isfile(folder):
        raise DataError(f"dataset_dir {folder}: is a file; name the folder that it is in")
    if not os.path.isdir(folder):
        raise DataError(
            f"dataset_dir {folder}: no such folder{near_path(folder, only_folders=True)}"
        )
    return folder


def paddle_cache(name: str) -> Path:
    """Return the folder in which Paddle, too, keeps the data set `name`."""
    return Path(os.path.expanduser("~")) / ".cache/paddle/dataset" / name


def mirror_addresses(known: Sequence[str]) -> list[str]:
    """Return the addresses to download from, each with a slash at its end.

    Args:
        known: those of the data set, where PPEMA_MIRRORS is not set.

    Raises:
        ConfigError: PPEMA_MIRRORS holds something else than http(s) addresses.
    """
    text = os.environ.get(MIRRORS_VARIABLE)
    if text is None:
        return list(known)
    addresses = [address.strip() for address in text.split(",") if address.strip()]
    for address in addresses:
        if not _is_web_address(address):
            raise ConfigError(
                f"{MIRRORS_VARIABLE}: a mirror must begin with http:// or https://, got {address!r}"
            )
    return [address.rstrip("/") + "/" for address in addresses]


def locate(folder: Path, archive: Archive) -> Optional[Path]:
    """Return where an archive lies in a folder, gzipped or not; None where it does not."""
    for name in (f"{archive.name}.gz", archive.name):
        # Not Path.is_file, which raises where the folder may not be searched.
        if os.path.isfile(folder / name):
            return folder / name
    return None


def missing(folder: Path, archives: Sequence[Archive]) -> list[Archive]:
    """Return the archives that a folder lacks."""
    return [archive for archive in archives if locate(folder, archive) is None]


def fetch(
    folder: Path, archives: Sequence[Archive], known: Sequence[str], downloader: Downloader
) -> None:
    """Download archives into a folder, from the mirrors in turn.

    Raises:
        NotWithinReachError: no mirror has one of them, or the folder cannot be written.
        ConfigError: PPEMA_MIRRORS holds something else than http(s) addresses.
    """
    addresses = mirror_addresses(known) if archives else []
    for archive in archives:
        name = f"{archive.name}.gz"
        try:
            with ProgressLine(name) as line:
                downloader.download(
                    [address + name for address in addresses],
                    folder / name,
                    archive.md5,
                    archive.num_bytes,
                    line.show_bytes,
                )
        except (MirrorsFailedError, StorageError) as error:
            raise NotWithinReachError(f"{folder} lacks {in_words(archives)}; {error}") from None


def in_words(archives: Sequence[Archive]) -> str:
    """Return the names of archives as the mirrors serve them."""
    return " and ".join(f"{archive.name}.gz" for archive in archives)


def _is_web_address(address: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(address)
    except ValueError:
        return False
    return parts.scheme in SCHEMES and bool(parts.hostname)
