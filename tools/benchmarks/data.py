"""The archives that every contender reads: MNIST's own, or the embedded digits in their form."""

from __future__ import annotations

import contextlib
import gzip
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

import numpy as np

from ppema.data.digits import load_digits
from ppema.errors import DataError

from .settings import Settings

_NAMES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
# Hundreds: Paddle's reader takes no other number.
_NUM_IMAGES = {"train": 60_000, "test": 10_000}
_NUM_IMAGES_QUICK = {"train": 600, "test": 300}
# The least compression: what it takes to unpack is what MNIST's own archives take.
_LEVEL = 1


@dataclass(frozen=True)
class Archives:
    """A folder with the four archives, gzipped, and what they hold."""

    folder: Path
    source: str

    def paths(self, mode: str) -> tuple[str, str]:
        """Return the archives of images and of labels."""
        images, labels = _NAMES[mode]
        return str(self.folder / images), str(self.folder / labels)


@contextlib.contextmanager
def open_archives(settings: Settings) -> Iterator[Archives]:
    """Yield the archives of `dataset_dir`, or of digits as many as MNIST has.

    Raises:
        DataError: the folder lacks one; gzipped, as Paddle's own dataset reads no other.
    """
    if settings.dataset_dir is not None:
        folder = settings.dataset_dir.absolute()
        for names in _NAMES.values():
            for name in names:
                if not (folder / name).is_file():
                    raise DataError(f"dataset_dir {settings.dataset_dir}: lacks {name}")
        yield Archives(folder, "the archives of --dataset_dir")
        return
    with tempfile.TemporaryDirectory() as name:
        counts = _NUM_IMAGES_QUICK if settings.is_quick else _NUM_IMAGES
        for mode in ("train", "test"):
            _write(Path(name), mode, counts[mode])
        source = f"the embedded digits, repeated to {counts['train']:,} and {counts['test']:,}"
        yield Archives(Path(name), f"{source} images, NOT MNIST (see --dataset_dir)")


def _write(folder: Path, mode: Any, count: int) -> None:
    digits = load_digits(mode)
    index = np.arange(count) % len(digits)
    images, labels = (folder / name for name in _NAMES[mode])
    header = struct.pack(">4i", 2051, count, 28, 28)
    images.write_bytes(gzip.compress(header + digits.images[index].tobytes(), _LEVEL))
    header = struct.pack(">2i", 2049, count)
    labels.write_bytes(gzip.compress(header + digits.labels[index].astype("u1").tobytes(), _LEVEL))
