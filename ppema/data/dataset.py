"""What every dataset becomes: images and labels in memory, and where they come from."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Literal, Optional, Union

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .picture import ResizeMode

Kind = Literal["mnist", "digits", "fashion_mnist", "cifar10", "cifar100", "image_folder", "user"]
Mode = Literal["train", "test"]
# One number for all channels, or one for each.
PerChannel = Union[float, tuple[float, ...]]


# eq=False: comparing arrays gives arrays, `digest` is what tells two datasets apart.
@dataclass(frozen=True, eq=False)
class ArrayDataset:
    """Labelled images in memory; a pixel x is fed to the model as (x - mean) / std.

    Args:
        images: uint8 [N, C, H, W], or with `rows` more than N.
        labels: int64 [N], indices into `class_names`.
        class_names: one name a class.
        mean: in units of the stored pixels, 0 to 255; one number, or one for each channel.
        std: likewise.
        source: what the data is and where it was found, for people.
        kind: which data it is, for programs: a run is only resumed on its own kind.
        digest: `array_digest` of images and labels.
        resize: how a picture came to the size of these, for pictures that come later.
        rows: int64 [N], which of `images` these are; None for all. A part of the data is thus no
            copy of its pixels.
        originals: int64 [N], equal for images that are copies of one another, moved for example;
            None where there are none.
        is_validation: whether these were kept out of the training data.

    Raises:
        DataError: the parts do not fit each other.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    mean: PerChannel
    std: PerChannel
    source: str
    kind: Kind
    digest: str
    resize: ResizeMode = "stretch"
    rows: Optional[npt.NDArray[np.int64]] = None
    originals: Optional[npt.NDArray[np.int64]] = None
    is_validation: bool = False

    def __post_init__(self) -> None:
        fault = self._find_fault()
        if fault is not None:
            raise DataError(f"{self.source}: {fault}")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def number_of(self, index: int) -> int:
        """Return which of `images` it is."""
        return index if self.rows is None else int(self.rows[index])

    def take(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return the pixels of some images, a copy."""
        return self.images.take(samples if self.rows is None else self.rows[samples], axis=0)

    def _find_fault(self) -> Optional[str]:
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.ndim != 4:
            return f"images are {images.dtype} {list(images.shape)}, expected uint8 [N, C, H, W]"
        if labels.dtype != np.int64 or labels.ndim != 1:
            return f"labels are {labels.dtype} {list(labels.shape)}, expected int64 [N]"
        if images.size == 0:
            return f"images are empty, {list(images.shape)}"
        num_images = len(images) if self.rows is None else len(self.rows)
        if len(labels) != num_images:
            return f"{len(labels)} labels for {num_images} images"
        wrong = np.flatnonzero((labels < 0) | (labels >= len(self.class_names)))
        if len(wrong):
            return (
                f"label {labels[wrong[0]]} at sample {wrong[0]}; "
                f"classes are 0-{len(self.class_names) - 1}"
            )
        return scale_fault(self.mean, self.std, num_channels=images.shape[1])


class Scale:
    """Turn pixels x into (x - mean) / std, in place.

    Args:
        mean: one number for all channels, or one for each.
        std: likewise.
    """

    def __init__(self, mean: PerChannel, std: PerChannel) -> None:
        self._mean, self._std = _for_channels(mean), _for_channels(std)

    def apply(self, image: npt.NDArray[np.float32]) -> None:
        """Scale images [N, C, H, W] in place, ten times as fast as with temporaries."""
        image -= self._mean
        image /= self._std

    def fed(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return what the model is fed, a copy: bytes scaled, float32 as it is.

        Args:
            images: uint8 or float32, [N, C, H, W] or [C, H, W].
        """
        copy: npt.NDArray[np.float32] = images.astype(np.float32)
        if images.dtype == np.uint8:
            self.apply(copy)
        return copy


def scale_fault(mean: PerChannel, std: PerChannel, num_channels: int) -> Optional[str]:
    """Return what is wrong with a mean and a standard deviation, None where nothing is."""
    means, stds = _as_tuple(mean), _as_tuple(std)
    if not (all(map(math.isfinite, means + stds)) and min(stds, default=0) > 0):
        return f"mean {mean} and std {std} must be finite, std above 0"
    for values in (mean, std):
        if isinstance(values, tuple) and len(values) != num_channels:
            return f"mean {mean} and std {std} for {num_channels} channels"
    return None


def _as_tuple(value: PerChannel) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _for_channels(value: PerChannel) -> Any:
    if not isinstance(value, tuple):
        # A plain number takes NumPy's fast path, and is what a float32 array is made of.
        return value
    return np.array(value, dtype=np.float32)[:, np.newaxis, np.newaxis]


def array_digest(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> str:
    """Return the sha256, in hex, over the bytes and the shapes of both arrays.

    The same on every platform: labels are hashed in little-endian order.
    """
    digest = hashlib.sha256(f"uint8{images.shape} int64{labels.shape}".encode())
    digest.update(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    return digest.hexdigest()
