"""The digits that come with ppema, so that everything runs without MNIST and without a network.

They are 1,797 images of 8x8 pixels from "Optical Recognition of Handwritten Digits" by
E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, CC BY 4.0, DOI 10.24432/C50P49.
They are not MNIST, and a figure reached on them says nothing about MNIST.

What is done to them, so that MNIST's models and configs fit:

- Size: scaled to 20x20 (bilinear) and centred in 28x28, as MNIST's digits are; grey 0-16 becomes
  0-255. The arithmetic is in integers, so every machine gets the same bytes.
- Split: of each class every fifth image, by its place in the file, is for evaluation: 355 of
  1,797; the other 1,442 are for training. The 13 writers are in both parts, which makes it easier
  than MNIST, whose writers are not.
- Training images come five times: as they are, and moved by one pixel up, down, left and right.
  1,442 images would be 23 steps an epoch, too few for configs made for 60,000. Evaluation
  images come once, unmoved.

LeNet as in configs/lenet_mnist.yml (5 epochs, 565 steps): EMA top-1 98.6 to 99.7 % over five
seeds, in 11 s on two CPU cores. Without the moved copies it is 96.1 %; with all eight neighbours
it is no better, and takes 20 s.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .archives import require_mode
from .dataset import ArrayDataset, Kind, Mode, array_digest
from .download import Downloader

_FILE = Path(__file__).with_name("digits.npz")
_NUM_LEVELS = 16
_DIGIT_SIZE = 20
_IMAGE_SIZE = 28
_EVAL_EVERY = 5
# (down, right) in pixels; the four pixels around the digit leave room for them.
_SHIFTS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Digits:
    """Ask for the embedded digits, 7,210 images to train on or 355 to test with.

    Args:
        mode: which part.

    Raises:
        ValueError: mode is neither train nor test.
    """

    mode: Literal["train", "test"]

    kind: ClassVar[Kind] = "digits"
    title: ClassVar[str] = "the embedded digits"

    def __post_init__(self) -> None:
        require_mode(self.mode)

    def load(self, downloader: Downloader) -> ArrayDataset:
        """Return what is asked for; nothing is ever downloaded."""
        return load_digits(self.mode)


def load_digits(mode: Mode) -> ArrayDataset:
    """Return one part of the digits as uint8 images [N, 1, 28, 28].

    Raises:
        DataError: digits.npz, a part of the package, is missing or damaged.
    """
    small, classes = _read()
    is_test = eval_split(classes)
    is_wanted = is_test if mode == "test" else ~is_test
    shifts = _SHIFTS if mode == "train" else _SHIFTS[:1]
    digits = resize(small[is_wanted], _DIGIT_SIZE)
    images = np.concatenate([place(digits, down, right) for down, right in shifts])[:, np.newaxis]
    labels = np.tile(classes[is_wanted].astype(np.int64), len(shifts))
    num_digits = int(is_wanted.sum())
    copies = f"{num_digits:,} images" + (f" in {len(shifts)} positions" if len(shifts) > 1 else "")
    return ArrayDataset(
        images=images,
        labels=labels,
        class_names=tuple("0123456789"),
        mean=127.5,
        std=127.5,
        source=f"the embedded UCI digits ({mode}: {copies}, 8x8 scaled to 28x28), NOT MNIST",
        kind="digits",
        digest=array_digest(images, labels),
        originals=np.tile(np.arange(num_digits), len(shifts)),
    )


def eval_split(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return which images are for evaluation: of each class every fifth, by place in the file.

    Every fifth of all would not do: the file begins 0 1 2 … 9 0 1 2 …, and that picks 4s and 9s.
    """
    is_eval = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        is_eval[np.flatnonzero(labels == label)[_EVAL_EVERY - 1 :: _EVAL_EVERY]] = True
    return is_eval


def resize(images: Pixels, size: int) -> Pixels:
    """Return images [N, n, n] of 0-16 as [N, size, size] of 0-255, bilinear, rounded half up.

    Source: output pixel i lies at (i + 0.5) * n / size - 0.5, kept within the image.
    """
    old_size = images.shape[1]
    # Positions in units of 1 / (2 * size) of an old pixel, where they are whole numbers.
    unit = 2 * size
    positions = (2 * np.arange(size) + 1) * old_size - size
    positions = positions.clip(0, (old_size - 1) * unit)
    left = np.minimum(positions // unit, old_size - 2)
    right_weight = positions - left * unit
    weights = np.zeros((size, old_size), dtype=np.int64)
    weights[np.arange(size), left] = unit - right_weight
    weights[np.arange(size), left + 1] = right_weight
    sums: npt.NDArray[np.int64] = weights @ images.astype(np.int64) @ weights.T
    full = _NUM_LEVELS * unit * unit
    return ((2 * 255 * sums + full) // (2 * full)).astype(np.uint8)


def place(digits: Pixels, down: int, right: int) -> Pixels:
    """Return digits [N, n, n] in the middle of black images [N, 28, 28], moved by whole pixels."""
    size = digits.shape[1]
    margin = (_IMAGE_SIZE - size) // 2
    rows = slice(margin + down, margin + down + size)
    columns = slice(margin + right, margin + right + size)
    images = np.zeros((len(digits), _IMAGE_SIZE, _IMAGE_SIZE), dtype=np.uint8)
    images[:, rows, columns] = digits
    return images


def _read() -> tuple[Pixels, Pixels]:
    """Return images uint8 [1797, 8, 8], 0 to 16, and labels uint8 [1797]."""
    try:
        # Opened here: np.load leaves a file that it cannot read open.
        with open(_FILE, "rb") as file, np.load(file, allow_pickle=False) as archive:
            images: Pixels = archive["images"]
            labels: Pixels = archive["labels"]
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{_FILE}: {reason}; install ppema anew") from None
    return images, labels
