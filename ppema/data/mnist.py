"""MNIST: looked for in the user's folder, in Paddle's cache, then fetched from the mirrors."""

from __future__ import annotations

import os
import sys
import urllib.parse
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Mapping, Optional, Sequence

import numpy as np

from ..errors import ConfigError, DataError, StorageError
from .dataset import ArrayDataset, Mode, array_digest
from .download import Downloader, MirrorsFailedError, ProgressLine
from .idx import read_idx_pair
from .transfer import SCHEMES

MIRRORS_VARIABLE = "PPEMA_MIRRORS"

_MIRRORS = (
    "https://dataset.bj.bcebos.com/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_IMAGE_SIZE = (28, 28)
_CLASS_NAMES = tuple("0123456789")


class NotWithinReachError(DataError):
    """MNIST is in none of the places where ppema may look by itself."""


@dataclass(frozen=True)
class MNIST:
    """Ask for MNIST, 60,000 images of handwritten digits to train on or 10,000 to test with.

    Args:
        mode: which part.
        dataset_dir: the folder that holds the archives, gzipped or not; None looks in Paddle's
            cache and, for what is missing there, on the mirrors.

    Raises:
        ValueError: dataset_dir is empty, or mode is neither train nor test.
    Source: Y. LeCun, C. Cortes, C. Burges, http://yann.lecun.com/exdb/mnist/, CC BY-SA 3.0.
    """

    mode: Literal["train", "test"]
    dataset_dir: Optional[str] = None

    def __post_init__(self) -> None:
        if self.dataset_dir is not None and not self.dataset_dir.strip():
            raise ValueError(f"dataset_dir must name a folder, got {self.dataset_dir!r}")
        if self.mode not in _ARCHIVES:
            raise ValueError(f"mode must be train or test, got {self.mode!r}")


@dataclass(frozen=True)
class MnistFiles:
    """Where the two archives of one part lie."""

    images: Path
    labels: Path


@dataclass(frozen=True)
class _Archive:
    """One archive as the mirrors serve it; `name` is without the .gz."""

    name: str
    num_bytes: int
    md5: str


# Images, then labels.
_ARCHIVES: Mapping[str, tuple[_Archive, _Archive]] = {
    "train": (
        _Archive("train-images-idx3-ubyte", 9912422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        _Archive("train-labels-idx1-ubyte", 28881, "d53e105ee54ea40749a09fcbcd1e9432"),
    ),
    "test": (
        _Archive("t10k-images-idx3-ubyte", 1648877, "9fb629c4189551a2d022fa330f9573f3"),
        _Archive("t10k-labels-idx1-ubyte", 4542, "ec29112dd5afa0611ce80d1b7f02629c"),
    ),
}
# `array_digest` of the original archives: other data may come in the same format.
_ORIGINAL_DIGESTS: Mapping[str, str] = {
    "train": "9f429f7bf7fb31fa6fc987192ed5140e483e7f2f0b11843cd7e98ef137e8730a",
    "test": "30986be1f43463a3a0905a30e081cf6ce525928a842b0e025d909e89d2f583e1",
}


def find_mnist(
    dataset_dir: Optional[str], mode: Mode, downloader: Optional[Downloader] = None
) -> MnistFiles:
    """Return where the archives of `mode` lie, after fetching those that are missing.

    Args:
        dataset_dir: the only folder to look in; None for Paddle's cache and the mirrors.
        mode: which part.
        downloader: shared between calls, it asks a mirror that does not answer only once.

    Raises:
        DataError: dataset_dir is given and lacks an archive.
        NotWithinReachError: an archive is neither in the cache nor to be had from the mirrors.
        ConfigError: PPEMA_MIRRORS holds something else than http(s) addresses.
    """
    archives = _ARCHIVES[mode]
    if dataset_dir is None:
        folder, name = cache_folder(), f"{cache_folder()}"
        _fetch(folder, _missing(folder, archives), downloader or Downloader())
    else:
        folder = Path(os.path.expanduser(dataset_dir))
        name = f"dataset_dir {folder}"
        if not os.path.isdir(folder):
            raise DataError(f"{name}: no such folder")
    images, labels = (_locate(folder, archive) for archive in archives)
    if images is None or labels is None:
        raise DataError(f"{name} lacks {_names(_missing(folder, archives))}")
    return MnistFiles(images, labels)


def load_mnist(request: MNIST, downloader: Optional[Downloader] = None) -> ArrayDataset:
    """Return the part of MNIST that is asked for, read and checked.

    Raises:
        DataError: an archive is damaged, or as `find_mnist`.
    """
    files = find_mnist(request.dataset_dir, request.mode, downloader)
    try:
        pixels, classes = read_idx_pair(files.images, files.labels, _IMAGE_SIZE)
    except DataError as error:
        if request.dataset_dir is not None:
            raise
        raise DataError(f"{error}; delete the file, and it is downloaded anew") from None
    images, labels = pixels[:, np.newaxis], classes.astype(np.int64)
    digest = array_digest(images, labels)
    is_original = digest == _ORIGINAL_DIGESTS[request.mode]
    name = "MNIST" if is_original else "data in MNIST's format, but not MNIST's:"
    return ArrayDataset(
        images=images,
        labels=labels,
        class_names=_CLASS_NAMES,
        mean=127.5,
        std=127.5,
        source=f"{name} {request.mode} ({len(images):,} images) from {files.images.parent}",
        kind="mnist",
        digest=digest,
    )


def cache_folder() -> Path:
    """Return the folder in which Paddle, too, keeps MNIST."""
    return Path(os.path.expanduser("~")) / ".cache/paddle/dataset/mnist"


def mirrors() -> list[str]:
    """Return the addresses to download from, each with a slash at its end.

    Raises:
        ConfigError: PPEMA_MIRRORS holds something else than http(s) addresses.
    """
    text = os.environ.get(MIRRORS_VARIABLE)
    if text is None:
        return list(_MIRRORS)
    addresses = [address.strip() for address in text.split(",") if address.strip()]
    for address in addresses:
        if not _is_web_address(address):
            raise ConfigError(
                f"{MIRRORS_VARIABLE}: a mirror must begin with http:// or https://, got {address!r}"
            )
    return [address.rstrip("/") + "/" for address in addresses]


def _is_web_address(address: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(address)
    except ValueError:
        return False
    return parts.scheme in SCHEMES and bool(parts.hostname)


def _locate(folder: Path, archive: _Archive) -> Optional[Path]:
    for name in (f"{archive.name}.gz", archive.name):
        # Not Path.is_file, which raises where the folder may not be searched.
        if os.path.isfile(folder / name):
            return folder / name
    return None


def _missing(folder: Path, archives: Sequence[_Archive]) -> list[_Archive]:
    return [archive for archive in archives if _locate(folder, archive) is None]


def _fetch(folder: Path, archives: Sequence[_Archive], downloader: Downloader) -> None:
    addresses = mirrors() if archives else []
    for archive in archives:
        name = f"{archive.name}.gz"
        try:
            with closing(ProgressLine(sys.stderr, name)) as progress:
                downloader.download(
                    [address + name for address in addresses],
                    folder / name,
                    archive.md5,
                    archive.num_bytes,
                    progress,
                )
        except (MirrorsFailedError, StorageError) as error:
            raise NotWithinReachError(f"{folder} lacks {_names(archives)}; {error}") from None


def _names(archives: Sequence[_Archive]) -> str:
    return " and ".join(f"{archive.name}.gz" for archive in archives)
