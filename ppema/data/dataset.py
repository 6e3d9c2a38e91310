"""What every dataset becomes: images and labels in memory, and where they come from."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal, Optional

import numpy as np
import numpy.typing as npt

from ..errors import DataError

Kind = Literal["mnist", "digits"]
Mode = Literal["train", "test"]


# eq=False: comparing arrays gives arrays, `digest` is what tells two datasets apart.
@dataclass(frozen=True, eq=False)
class ArrayDataset:
    """Labelled images in memory; a pixel x is fed to the model as (x - mean) / std.

    Args:
        images: uint8 [N, C, H, W].
        labels: int64 [N], indices into `class_names`.
        class_names: one name a class.
        mean: in units of the stored pixels, 0 to 255.
        std: likewise.
        source: what the data is and where it was found, for people.
        kind: which data it is, for programs: a run is only resumed on its own kind.
        digest: `array_digest` of images and labels.

    Raises:
        DataError: the parts do not fit each other.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    mean: float
    std: float
    source: str
    kind: Kind
    digest: str

    def __post_init__(self) -> None:
        fault = self._find_fault()
        if fault is not None:
            raise DataError(f"{self.source}: {fault}")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def _find_fault(self) -> Optional[str]:
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.ndim != 4:
            return f"images are {images.dtype} {list(images.shape)}, expected uint8 [N, C, H, W]"
        if labels.dtype != np.int64 or labels.ndim != 1:
            return f"labels are {labels.dtype} {list(labels.shape)}, expected int64 [N]"
        if images.size == 0:
            return f"images are empty, {list(images.shape)}"
        if len(labels) != len(images):
            return f"{len(labels)} labels for {len(images)} images"
        wrong = np.flatnonzero((labels < 0) | (labels >= len(self.class_names)))
        if len(wrong):
            return (
                f"label {labels[wrong[0]]} at sample {wrong[0]}; "
                f"classes are 0-{len(self.class_names) - 1}"
            )
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            return f"mean {self.mean} and std {self.std} must be finite, std above 0"
        return None


def array_digest(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> str:
    """Return the sha256, in hex, over the bytes and the shapes of both arrays.

    The same on every platform: labels are hashed in little-endian order.
    """
    digest = hashlib.sha256(f"uint8{images.shape} int64{labels.shape}".encode())
    digest.update(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    return digest.hexdigest()
