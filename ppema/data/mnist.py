"""MNIST and FashionMNIST: looked for in the user's folder, in Paddle's cache, on the mirrors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Mapping, Optional, Union

import numpy as np

from ..errors import DataError
from .archives import (
    FETCHED_ANEW,
    Archive,
    ArchiveRequest,
    NotWithinReachError,
    fetch,
    in_words,
    locate,
    mirror_addresses,
    missing,
    open_folder,
    paddle_cache,
)
from .dataset import ArrayDataset, Kind, Mode, array_digest
from .download import Downloader
from .idx import read_idx_pair

__all__ = ["MNIST", "FashionMNIST", "NotWithinReachError", "find_mnist", "load_mnist"]

_Archive = Archive
_Pair = tuple[Archive, Archive]

_MIRRORS = (
    "https://dataset.bj.bcebos.com/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_FASHION_MIRRORS = (
    "https://dataset.bj.bcebos.com/fashion_mnist/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
_IMAGE_SIZE = (28, 28)


class MNIST(ArchiveRequest):
    """Ask for MNIST, 60,000 images of handwritten digits to train on or 10,000 to test with.

    Args:
        mode: which part.
        dataset_dir: the folder that holds the archives, gzipped or not; None looks in Paddle's
            cache and, for what is missing there, on the mirrors.

    Raises:
        ValueError: dataset_dir is empty, or mode is neither train nor test.
    Source: Y. LeCun, C. Cortes, C. Burges, http://yann.lecun.com/exdb/mnist/, CC BY-SA 3.0.
    """

    kind: ClassVar[Kind] = "mnist"
    title: ClassVar[str] = "MNIST"

    def load(self, downloader: Downloader) -> ArrayDataset:
        """Return what is asked for; errors as of `load_mnist`."""
        return load_mnist(self, downloader)


class FashionMNIST(ArchiveRequest):
    """Ask for FashionMNIST, MNIST's format and size with ten kinds of clothes in place of digits.

    Args:
        mode: which part.
        dataset_dir: as for MNIST; the archives have MNIST's names.

    Raises:
        ValueError: dataset_dir is empty, or mode is neither train nor test.
    Source: H. Xiao, K. Rasul, R. Vollgraf, https://github.com/zalandoresearch/fashion-mnist, MIT.
    """

    kind: ClassVar[Kind] = "fashion_mnist"
    title: ClassVar[str] = "FashionMNIST"

    def load(self, downloader: Downloader) -> ArrayDataset:
        """Return what is asked for; errors as of `load_mnist`."""
        return load_mnist(self, downloader)


@dataclass(frozen=True)
class MnistFiles:
    """Where the two archives of one part lie."""

    images: Path
    labels: Path


# Images, then labels.
_ARCHIVES: Mapping[str, _Pair] = {
    "train": (
        _Archive("train-images-idx3-ubyte", 9912422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        _Archive("train-labels-idx1-ubyte", 28881, "d53e105ee54ea40749a09fcbcd1e9432"),
    ),
    "test": (
        _Archive("t10k-images-idx3-ubyte", 1648877, "9fb629c4189551a2d022fa330f9573f3"),
        _Archive("t10k-labels-idx1-ubyte", 4542, "ec29112dd5afa0611ce80d1b7f02629c"),
    ),
}
_FASHION_ARCHIVES: Mapping[str, _Pair] = {
    "train": (
        _Archive("train-images-idx3-ubyte", 26421880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        _Archive("train-labels-idx1-ubyte", 29515, "25c81989df183df01b3e8a0aad5dffbe"),
    ),
    "test": (
        _Archive("t10k-images-idx3-ubyte", 4422102, "bef4ecab320f06d8554ea6380940ec79"),
        _Archive("t10k-labels-idx1-ubyte", 5148, "bb300cfdad3c16e7a12a480ee83cd310"),
    ),
}
# `array_digest` of the original archives: other data may come in the same format.
_ORIGINAL_DIGESTS: Mapping[str, str] = {
    "train": "9f429f7bf7fb31fa6fc987192ed5140e483e7f2f0b11843cd7e98ef137e8730a",
    "test": "30986be1f43463a3a0905a30e081cf6ce525928a842b0e025d909e89d2f583e1",
}
_CLASS_NAMES: Mapping[str, tuple[str, ...]] = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}


def find_mnist(
    dataset_dir: Optional[str], mode: Mode, downloader: Optional[Downloader] = None
) -> MnistFiles:
    """Return where the archives of MNIST's `mode` lie, after fetching those that are missing.

    Args:
        dataset_dir: the only folder to look in; None for Paddle's cache and the mirrors.
        mode: which part.
        downloader: shared between calls, it asks a mirror that does not answer only once.

    Raises:
        DataError: dataset_dir is given and lacks an archive.
        NotWithinReachError: an archive is neither in the cache nor to be had from the mirrors.
        ConfigError: PPEMA_MIRRORS holds something else than http(s) addresses.
    """
    return _find(MNIST(mode, dataset_dir), downloader)


def load_mnist(
    request: Union[MNIST, FashionMNIST], downloader: Optional[Downloader] = None
) -> ArrayDataset:
    """Return the part of MNIST or FashionMNIST that is asked for, read and checked.

    Raises:
        DataError: an archive is damaged, or as `find_mnist`.
    """
    files = _find(request, downloader)
    try:
        pixels, classes = read_idx_pair(files.images, files.labels, _IMAGE_SIZE)
    except DataError as error:
        if request.dataset_dir is not None:
            raise
        raise DataError(f"{error}; {FETCHED_ANEW}") from None
    images, labels = pixels[:, np.newaxis], classes.astype(np.int64)
    digest = array_digest(images, labels)
    return ArrayDataset(
        images=images,
        labels=labels,
        class_names=_CLASS_NAMES[request.kind],
        mean=127.5,
        std=127.5,
        source=f"{_name(request, files, digest)} {request.mode} ({len(images):,} images) "
        f"from {files.images.parent}",
        kind=request.kind,
        digest=digest,
    )


def cache_folder() -> Path:
    """Return the folder in which Paddle, too, keeps MNIST."""
    return paddle_cache("mnist")


def mirrors() -> list[str]:
    """Return the addresses to download MNIST from; errors as of `mirror_addresses`."""
    return mirror_addresses(_MIRRORS)


def _find(request: ArchiveRequest, downloader: Optional[Downloader]) -> MnistFiles:
    archives = _archives_of(request)
    if request.dataset_dir is None:
        is_mnist = request.kind == "mnist"
        folder = cache_folder() if is_mnist else paddle_cache("fashion-mnist")
        known = _MIRRORS if is_mnist else _FASHION_MIRRORS
        name = f"{folder}"
        fetch(folder, missing(folder, archives), known, downloader or Downloader())
    else:
        folder = open_folder(request.dataset_dir)
        name = f"dataset_dir {folder}"
    images, labels = (locate(folder, archive) for archive in archives)
    if images is None or labels is None:
        raise DataError(f"{name} lacks {in_words(missing(folder, archives))}")
    return MnistFiles(images, labels)


def _archives_of(request: ArchiveRequest) -> _Pair:
    return (_ARCHIVES if request.kind == "mnist" else _FASHION_ARCHIVES)[request.mode]


def _name(request: ArchiveRequest, files: MnistFiles, digest: str) -> str:
    """Return the data set's name, or that these are other data in its format."""
    if request.kind == "mnist":
        if digest == _ORIGINAL_DIGESTS[request.mode]:
            return "MNIST"
        return "data in MNIST's format, but not MNIST's:"
    sums = [
        hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        for path in (files.images, files.labels)
    ]
    if sums == [archive.md5 for archive in _archives_of(request)]:
        return "FashionMNIST"
    # Of the unpacked archives no sum is published, so nothing more can be said.
    return "data in FashionMNIST's format:"
