"""Images in a folder, one sub-folder a class: in memory where small, else read when needed."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Optional, Sequence, Tuple, Union, get_args

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from ..progress import track
from .archives import open_folder, require_folder_name, require_mode
from .dataset import ArrayDataset, Kind, array_digest, scale_fault
from .download import Downloader
from .picture import IMAGE_SUFFIXES, ResizeMode, known_suffixes, read_image
from .samples import OWN_SIZE, SampleDataset

logger = logging.getLogger(__name__)

# Decoded images that take at most this many bytes are kept in memory.
MAX_BYTES_IN_MEMORY = 512 << 20
_NUM_NAMED = 3
# Sub-folders of these names alone are parts, each with the classes in it.
_PARTS = frozenset(("train", "training", "val", "valid", "validation", "eval", "test", "testing"))
_SCALE = 127.5
_RESIZE_MODES = get_args(ResizeMode)


@dataclass(frozen=True)
class ImageFolder:
    """Ask for the images of a folder that holds one sub-folder a class, named as the class.

    Images may lie deeper in the sub-folder. Classes are counted in the order of their names;
    names that begin with a dot are passed over. A pixel x is fed to the model as (x - mean) / std.

    Args:
        mode: train or test; which part of the folder, where there is a split.
        dataset_dir: the folder.
        image_size: rows and columns to scale each image to (bilinear), or one number for both;
            None keeps each image's own, which then are read when needed, for transforms.
        channels: 3 for colour, 1 for grey.
        split: share of each class's images that is for training, the rest is for testing; None
            takes all of the folder for either mode, so that each mode has a folder of its own.
        split_seed: another one splits differently.
        resize: what becomes of other proportions: stretch gives them up, crop keeps what fits of
            the middle, pad keeps the whole, with black beside it.
        mean: in units of pixels, 0 to 255; one number, or one for each channel.
        std: likewise; the two defaults bring pixels to [-1, 1].

    Raises:
        ValueError: an argument is out of range.
    """

    mode: Literal["train", "test"]
    dataset_dir: str
    image_size: Optional[Union[int, Tuple[int, int]]] = None
    channels: Literal[1, 3] = 3
    split: Optional[float] = None
    split_seed: int = 0
    resize: ResizeMode = "stretch"
    mean: Union[float, Tuple[float, ...]] = _SCALE
    std: Union[float, Tuple[float, ...]] = _SCALE

    kind: ClassVar[Kind] = "image_folder"
    title: ClassVar[str] = "an image folder"

    def __post_init__(self) -> None:
        require_folder_name(self.dataset_dir)
        require_mode(self.mode)
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"image_size must be 1 or more, got {self.image_size}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {self.channels}")
        if self.split is not None and not 0 < self.split < 1:
            raise ValueError(f"split must be above 0 and below 1, got {self.split}")
        if not 0 <= self.split_seed < 2**32:
            raise ValueError(f"split_seed must be in [0, {2**32 - 1}], got {self.split_seed}")
        if self.resize not in _RESIZE_MODES:
            raise ValueError(f"resize must be {', '.join(_RESIZE_MODES)}, got {self.resize!r}")
        if self.resize != "stretch" and self.size is None:
            raise ValueError(f"resize is {self.resize}, and there is no image_size to resize to")
        fault = scale_fault(self.mean, self.std, self.channels)
        if fault is not None:
            raise ValueError(fault)
        stds = self.std if isinstance(self.std, tuple) else (self.std,)
        # What others write for pixels from 0 to 1, such as 0.229.
        if min(stds) < 1:
            raise ValueError(
                f"std must be 1 or more, in units of pixels from 0 to 255 (0.5 of 1 is 127.5), "
                f"got {self.std}"
            )

    @property
    def size(self) -> Optional[tuple[int, int]]:
        """Return rows and columns, None where each image keeps its own."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else size

    def load(self, downloader: Downloader) -> Union[ArrayDataset, SampleDataset]:
        """Return what is asked for, in memory where it is small; nothing is downloaded.

        Raises:
            DataError: no such folder, no classes, a class without images, or, of images that
                are read into memory, one that cannot be read.
        """
        return load_image_folder(self)


class ImageFiles:
    """Read images from files, by index: uint8 [C, H, W] and the class.

    Args:
        paths: the files.
        labels: their classes.
        request: says how.
    """

    def __init__(self, paths: list[Path], labels: list[int], request: ImageFolder) -> None:
        self._paths, self.labels = paths, labels
        self._how = (request.size, request.channels, request.resize)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.uint8], int]:
        """Return one image and its class.

        Raises:
            DataError: the file cannot be read; names it.
        """
        return read_image(self._paths[index], *self._how), self.labels[index]


def load_image_folder(request: ImageFolder) -> Union[ArrayDataset, SampleDataset]:
    """Return the images of a folder; errors as of `ImageFolder.load`."""
    folder = open_folder(request.dataset_dir)
    try:
        class_names, paths, labels = _find_images(folder, request)
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from None
    shape = (request.channels, *(request.size or OWN_SIZE))
    files = ImageFiles(paths, labels, request)
    source = f"{request.mode} images ({len(files):,} in {len(class_names)} classes) from {folder}"
    num_bytes = len(files) * int(np.prod(shape))
    if request.size is None or num_bytes > MAX_BYTES_IN_MEMORY:
        return SampleDataset(
            samples=files,
            num_samples=len(files),
            image_shape=shape,
            image_dtype=np.uint8,
            class_names=class_names,
            mean=request.mean,
            std=request.std,
            source=source,
            kind=request.kind,
            digest=_digest_of_files(folder, paths, class_names, request, shape),
            resize=request.resize,
        )
    logger.info("reading %s images into memory (%.1f MB)", f"{len(files):,}", num_bytes / 1e6)
    images, classes = _read_all(files, shape), np.array(labels, dtype=np.int64)
    digest = hashlib.sha256(repr(class_names).encode())
    digest.update(array_digest(images, classes).encode())
    return ArrayDataset(
        images=images,
        labels=classes,
        class_names=class_names,
        mean=request.mean,
        std=request.std,
        source=source,
        kind=request.kind,
        digest=digest.hexdigest(),
        resize=request.resize,
    )


def _find_images(
    folder: Path, request: ImageFolder
) -> tuple[tuple[str, ...], list[Path], list[int]]:
    """Return the names of the classes, and the image files of the part with their classes."""
    class_names = tuple(
        sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
    )
    _require_classes(folder, class_names)
    paths: list[Path] = []
    labels: list[int] = []
    others: list[Path] = []
    for label, name in enumerate(class_names):
        images, not_images = _files_in(folder / name)
        others += not_images
        if not images:
            raise DataError(f"{folder / name}: has no images; known are {known_suffixes()}")
        if request.split is not None:
            images = _part(images, request, label)
        paths += images
        labels += [label] * len(images)
    _tell_of(others, folder, "files that are no images")
    beside = [Path(e.path) for e in os.scandir(folder) if e.is_file() and _is_image(e.name)]
    _tell_of(sorted(beside), folder, "images beside the classes' folders")
    return class_names, paths, labels


def _require_classes(folder: Path, class_names: Sequence[str]) -> None:
    """Raise DataError where the sub-folders are no classes, because another folder was meant."""
    if not class_names:
        is_class = any(_is_image(name) for name in os.listdir(folder))
        above = folder.absolute().parent
        hint = f"; if it is a class itself, name {above}" if is_class else ""
        raise DataError(
            f"{folder}: has no sub-folders; expected one a class, with its images{hint}"
        )
    if _PARTS.issuperset(name.lower() for name in class_names):
        found = " and ".join(str(folder / name) for name in class_names)
        raise DataError(
            f"{folder}: its sub-folders {', '.join(class_names)} are no classes; set "
            f"TrainDataset.dataset_dir and EvalDataset.dataset_dir to one of them each ({found}), "
            "and split: null"
        )


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")


def _files_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the image files below a folder, in order, and what else lies there."""
    images: list[Path] = []
    others: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            (images if _is_image(name) else others).append(path)
    for path in images:
        if path.stat().st_size == 0:
            raise DataError(f"{path}: is empty")
    return images, others


def _raise(error: OSError) -> None:
    # os.walk would pass over a folder that it may not read.
    raise error


def _part(images: list[Path], request: ImageFolder, label: int) -> list[Path]:
    """Return one class's images for training or for testing, in the folder's order."""
    assert request.split is not None
    if len(images) < 2:
        raise DataError(f"{images[0].parent}: a split needs 2 images or more, found 1")
    # By class, so that each is in both parts, and more images of one leave the others as they are.
    order = np.random.RandomState([request.split_seed, label]).permutation(len(images))
    num_train = min(max(round(request.split * len(images)), 1), len(images) - 1)
    chosen = order[:num_train] if request.mode == "train" else order[num_train:]
    return [images[index] for index in sorted(chosen)]


def _tell_of(others: list[Path], folder: Path, what: str) -> None:
    if not others:
        return
    counts = Counter(path.name for path in others)
    shown = ", ".join(name for name, _ in counts.most_common(_NUM_NAMED))
    more = ", …" if len(counts) > _NUM_NAMED else ""
    logger.warning("%s: %d %s are left out (%s%s)", folder, len(others), what, shown, more)


def _read_all(files: ImageFiles, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    images = np.empty((len(files), *shape), np.uint8)
    name = f"reading {len(files):,} images"
    # Threads gain, since Pillow decodes without Python's lock.
    with ThreadPoolExecutor(_cores()) as pool:
        read = pool.map(files.__getitem__, range(len(files)))
        for index, (image, _) in enumerate(track(read, len(files), name)):
            images[index] = image
    return images


def _cores() -> int:
    return os.cpu_count() or 1


def _digest_of_files(
    folder: Path,
    paths: list[Path],
    class_names: tuple[str, ...],
    request: ImageFolder,
    shape: tuple[int, ...],
) -> str:
    """Return a sha256 over names and sizes of the files: their bytes would have to be read."""
    # A stretched image's digest is what it was before there were other ways.
    how = () if request.resize == "stretch" else (request.resize,)
    digest = hashlib.sha256(repr((class_names, shape, *how)).encode())
    for path in paths:
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
    return digest.hexdigest()
