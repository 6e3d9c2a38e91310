"""CIFAR-10 and CIFAR-100: in the user's folder, in Paddle's cache, or from the mirrors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Mapping, Optional, Union

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .archives import (
    FETCHED_ANEW,
    Archive,
    ArchiveRequest,
    fetch,
    locate,
    missing,
    open_folder,
    paddle_cache,
)
from .batch_pickle import ForbiddenImportError, StoredPixels, as_text, read_batch
from .dataset import ArrayDataset, Kind, array_digest
from .download import Downloader
from .members import find_members, read_members

_MIRRORS = ("https://dataset.bj.bcebos.com/cifar/", "https://www.cs.toronto.edu/~kriz/")
_IMAGE_SHAPE = (3, 32, 32)


class Cifar10(ArchiveRequest):
    """Ask for CIFAR-10, 50,000 colour images of 32x32 in ten classes to train on, 10,000 to test.

    Args:
        mode: which part.
        dataset_dir: the folder that holds cifar-10-python.tar.gz, or cifar-10-batches-py as
            unpacked from it; None looks in Paddle's cache, then on the mirrors.

    Raises:
        ValueError: dataset_dir is empty, or mode is neither train nor test.
    Source: A. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html.
    """

    kind: ClassVar[Kind] = "cifar10"
    title: ClassVar[str] = "CIFAR-10"

    def load(self, downloader: Downloader) -> ArrayDataset:
        """Return what is asked for; errors as of `load_cifar`."""
        return load_cifar(self, downloader)


class Cifar100(ArchiveRequest):
    """Ask for CIFAR-100, images as CIFAR-10's in 100 classes; the fine labels are taken.

    Args:
        mode: which part.
        dataset_dir: the folder that holds cifar-100-python.tar.gz, or cifar-100-python as
            unpacked from it; None looks in Paddle's cache, then on the mirrors.

    Raises:
        ValueError: dataset_dir is empty, or mode is neither train nor test.
    Source: A. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html.
    """

    kind: ClassVar[Kind] = "cifar100"
    title: ClassVar[str] = "CIFAR-100"

    def load(self, downloader: Downloader) -> ArrayDataset:
        """Return what is asked for; errors as of `load_cifar`."""
        return load_cifar(self, downloader)


@dataclass(frozen=True)
class _Layout:
    """What an archive holds: members of each part and their md5, and under which keys."""

    archive: Archive
    folder: str
    parts: Mapping[str, Mapping[str, str]]
    meta: str
    labels_key: str
    names_key: str
    num_classes: int
    # Of the training images, in units of the pixels.
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


_LAYOUTS: Mapping[str, _Layout] = {
    "cifar10": _Layout(
        Archive("cifar-10-python.tar", 170498071, "c58f30108f718f92721af3b95e74349a"),
        "cifar-10-batches-py",
        {
            "train": {
                "data_batch_1": "c99cafc152244af753f735de768cd75f",
                "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                "data_batch_4": "634d18415352ddfa80567beed471001a",
                "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            },
            "test": {"test_batch": "40351d587109b95175f43aff81a1287e"},
        },
        meta="batches.meta",
        labels_key="labels",
        names_key="label_names",
        num_classes=10,
        mean=(125.307, 122.95, 113.865),
        std=(62.993, 62.089, 66.705),
    ),
    "cifar100": _Layout(
        Archive("cifar-100-python.tar", 169001437, "eb9058c3a382ffc7106e4002c42a8d85"),
        "cifar-100-python",
        {
            "train": {"train": "16019d7e3df5f24257cddd939b257f8d"},
            "test": {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        },
        meta="meta",
        labels_key="fine_labels",
        names_key="fine_label_names",
        num_classes=100,
        mean=(129.304, 124.07, 112.434),
        std=(68.17, 65.392, 70.418),
    ),
}


def load_cifar(
    request: Union[Cifar10, Cifar100], downloader: Optional[Downloader] = None
) -> ArrayDataset:
    """Return the part of CIFAR that is asked for, read and checked.

    Raises:
        DataError: dataset_dir lacks it, or it is damaged.
        NotWithinReachError: it is neither in the cache nor to be had from the mirrors.
        ConfigError: PPEMA_MIRRORS holds something else than http(s) addresses.
    """
    layout = _LAYOUTS[request.kind]
    path = _find(request, layout, downloader)
    try:
        return _read(request, layout, path)
    except DataError as error:
        if request.dataset_dir is not None or path.is_dir():
            raise
        raise DataError(f"{error}; {FETCHED_ANEW}") from None


def _find(request: ArchiveRequest, layout: _Layout, downloader: Optional[Downloader]) -> Path:
    """Return the archive, or the folder that was unpacked from it."""
    if request.dataset_dir is None:
        folder = paddle_cache("cifar")
        if not (folder / layout.folder).is_dir():
            fetch(folder, missing(folder, [layout.archive]), _MIRRORS, downloader or Downloader())
    else:
        folder = open_folder(request.dataset_dir)
    for unpacked in (folder / layout.folder, folder):
        if (unpacked / next(iter(layout.parts[request.mode]))).is_file():
            return unpacked
    archive = locate(folder, layout.archive)
    if archive is None:
        raise DataError(
            f"dataset_dir {folder} lacks {layout.archive.name}.gz, and {layout.folder} as unpacked "
            "from it"
        )
    return archive


def _read(request: ArchiveRequest, layout: _Layout, path: Path) -> ArrayDataset:
    sums = layout.parts[request.mode]
    names = [*sums, layout.meta]
    members = (
        find_members(path, names) if path.is_dir() else read_members(path, layout.folder, names)
    )
    class_names = _class_names(f"{path}: {layout.meta}", members[layout.meta], layout)
    batches = [_read_part(f"{path}: {name}", members[name], layout) for name in sums]
    images = np.concatenate([pixels for pixels, _ in batches]).reshape(-1, *_IMAGE_SHAPE)
    labels = np.concatenate([classes for _, classes in batches])
    title = request.title
    if any(_md5(members[name]) != md5 for name, md5 in sums.items()):
        title = f"data in {title}'s format, but not {title}'s:"
    return ArrayDataset(
        images=images,
        labels=labels,
        class_names=class_names,
        mean=layout.mean,
        std=layout.std,
        source=f"{title} {request.mode} ({len(images):,} images) from {path}",
        kind=request.kind,
        digest=array_digest(images, labels),
    )


def _read_part(
    name: str, content: bytes, layout: _Layout
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the pixels uint8 [N, 3072] and the labels int64 [N] of one batch."""
    table = _read_table(name, content)
    pixels = _pixels(name, table.get("data"))
    found = table.get(layout.labels_key)
    # bool is an int to Python.
    if not isinstance(found, list) or not all(type(label) is int for label in found):
        raise DataError(f"{name}: '{layout.labels_key}' is no list of whole numbers")
    if len(found) != len(pixels):
        raise DataError(f"{name}: {len(found)} labels for {len(pixels)} images")
    for index, label in enumerate(found):
        if not 0 <= label < layout.num_classes:
            raise DataError(
                f"{name}: label {label} at sample {index}; classes are 0-{layout.num_classes - 1}"
            )
    return pixels, np.array(found, dtype=np.int64)


def _pixels(name: str, stored: Any) -> npt.NDArray[np.uint8]:
    if not isinstance(stored, StoredPixels):
        raise DataError(f"{name}: 'data' is no array")
    try:
        pixels = stored.to_array()
    except ValueError as error:
        raise DataError(f"{name}: 'data' is damaged ({error})") from None
    size = int(np.prod(_IMAGE_SHAPE))
    if len(pixels) == 0 or pixels.shape[1] != size:
        raise DataError(f"{name}: 'data' is {list(pixels.shape)}, expected [N, {size}]")
    return pixels


def _class_names(name: str, content: bytes, layout: _Layout) -> tuple[str, ...]:
    found = _read_table(name, content).get(layout.names_key)
    try:
        names = tuple(as_text(item) for item in found) if isinstance(found, list) else ()
    except ValueError:
        names = ()
    if len(names) != layout.num_classes:
        raise DataError(f"{name}: '{layout.names_key}' is no list of {layout.num_classes} names")
    return names


def _read_table(name: str, content: bytes) -> dict[str, Any]:
    try:
        return read_batch(content)
    except ForbiddenImportError as error:
        raise DataError(f"{name} asks to import {error}, which no data may") from None
    except ValueError as error:
        raise DataError(f"{name}: is no batch of images ({error})") from None


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
