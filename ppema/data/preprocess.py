"""From a picture to what the model is fed: by the same steps as in the run's evaluation."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Union

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .dataset import ArrayDataset, PerChannel, Scale, scale_fault
from .picture import read_image
from .samples import SampleDataset

# A file's path, its bytes, or the array that would have been decoded from them.
Picture = Union[Path, bytes, npt.NDArray[Any]]

ARRAY_SUFFIX = ".npy"
_DTYPES = ("uint8", "float32")
_KEYS = ("shape", "dtype", "resize", "mean", "std")
# How `read_image` brings a picture to its size.
_STRETCH = "stretch"
# What Pillow makes of any picture.
_DECODABLE = (1, 3)


@dataclass(frozen=True)
class Preprocess:
    """Turn a picture into the float32 [C, H, W] that evaluation of the run's data fed the model.

    A picture is decoded (grey where C is 1), turned upright, scaled to H x W whatever its
    proportions, and a pixel x becomes (x - mean) / std. An array of `shape` and `dtype` is taken as
    decoded. Where the run's data are float32, nobody but their own code knows how a picture
    becomes one, so they are taken as arrays only.

    Args:
        shape: channels, rows, columns.
        dtype: uint8, or float32 for data that are fed as they are.
        mean: in units of pixels, 0 to 255; one number, or one for each channel.
        std: likewise.

    Raises:
        ValueError: the parts do not fit each other.
    """

    shape: tuple[int, int, int]
    dtype: str
    mean: PerChannel
    std: PerChannel

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"shape must be channels, rows and columns, got {list(self.shape)}")
        if self.dtype not in _DTYPES:
            raise ValueError(f"dtype must be {' or '.join(_DTYPES)}, got {self.dtype}")
        fault = scale_fault(self.mean, self.std, num_channels=self.shape[0])
        if fault is not None:
            raise ValueError(fault)

    @staticmethod
    def of(dataset: Union[ArrayDataset, SampleDataset]) -> Preprocess:
        """Return what is done to the images of a dataset before the model sees them."""
        if isinstance(dataset, ArrayDataset):
            shape, dtype = dataset.images.shape[1:], "uint8"
        else:
            shape, dtype = dataset.image_shape, np.dtype(dataset.image_dtype).name
        channels, rows, columns = map(int, shape)
        return Preprocess((channels, rows, columns), dtype, dataset.mean, dataset.std)

    @staticmethod
    def from_dict(facts: Any) -> Preprocess:
        """Return what `to_dict` gave; lists may stand for tuples.

        Raises:
            ValueError: a key is missing, unknown or of the wrong kind.
        """
        if not isinstance(facts, Mapping) or set(facts) != set(_KEYS):
            raise ValueError(f"preprocessing needs the keys {', '.join(_KEYS)} and no others")
        shape = facts["shape"]
        if not isinstance(shape, (list, tuple)) or not all(type(n) is int for n in shape):
            raise ValueError(f"shape must be three whole numbers, got {shape!r}")
        if facts["resize"] != _STRETCH:
            raise ValueError(f"resize must be {_STRETCH}, got {facts['resize']!r}")
        mean, std = (_per_channel(key, facts[key]) for key in ("mean", "std"))
        return Preprocess(tuple(shape), str(facts["dtype"]), mean, std)

    def to_dict(self) -> dict[str, Any]:
        """Return it in the types of JSON and YAML."""
        return {
            "shape": list(self.shape),
            "dtype": self.dtype,
            "resize": _STRETCH,
            "mean": list(self.mean) if isinstance(self.mean, tuple) else self.mean,
            "std": list(self.std) if isinstance(self.std, tuple) else self.std,
        }

    @property
    def takes_pictures(self) -> bool:
        """Tell whether image files can be decoded for it; if not, it takes arrays only."""
        return self.dtype == "uint8" and self.shape[0] in _DECODABLE

    def __call__(self, picture: Picture, name: str = "the picture") -> npt.NDArray[np.float32]:
        """Return what the model is fed, float32 [C, H, W].

        Args:
            picture: a file (with the ending .npy, of an array), the bytes of an image file, or an
                array.
            name: of what has no path, for errors.

        Raises:
            DataError: it cannot be read, or is not what this model takes; names it.
        """
        if isinstance(picture, Path):
            name = str(picture)
        if isinstance(picture, Path) and picture.suffix.lower() == ARRAY_SUFFIX:
            picture = read_array(picture)
        if not isinstance(picture, np.ndarray):
            picture = self._decode(picture, name)
        if picture.shape != self.shape or picture.dtype != self.dtype:
            raise DataError(
                f"{name}: is {picture.dtype} {list(picture.shape)}, this model takes "
                f"{self.dtype} {list(self.shape)}"
            )
        image: npt.NDArray[np.float32] = np.array(picture, dtype=np.float32)
        if self.dtype == "uint8":
            Scale(self.mean, self.std).apply(image)
        return image

    def _decode(self, picture: Union[Path, bytes], name: str) -> npt.NDArray[np.uint8]:
        if not self.takes_pictures:
            raise DataError(
                f"{name}: this model was trained on {self.dtype} arrays {list(self.shape)} that "
                f"its dataset makes; give arrays ({ARRAY_SUFFIX}) of that kind"
            )
        channels, rows, columns = self.shape
        source: Any = picture
        try:
            if isinstance(picture, Path) and not picture.is_file():
                raise DataError(f"{name}: {'is no file' if picture.exists() else 'is not there'}")
            is_empty = not picture if isinstance(picture, bytes) else picture.stat().st_size == 0
        except OSError as error:
            raise DataError(f"{name}: {error.strerror}") from None
        if is_empty:
            raise DataError(f"{name}: is empty")
        if isinstance(picture, bytes):
            source = _NamedBytes(picture, name)
        return read_image(source, (rows, columns), channels)


class _NamedBytes(io.BytesIO):
    """The bytes of a picture under the name that an error is to give them."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self._name = name

    def __str__(self) -> str:
        return self._name


def read_array(path: Path) -> npt.NDArray[Any]:
    """Return the array that a file of NumPy's holds; nothing in it is run.

    Raises:
        DataError: there is none, or it is damaged.
    """
    try:
        # Mapped, so that a header that claims more than the file holds takes no memory.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or 'is no array of NumPy'}") from None
    # Of a header that is no Python literal, or of an impossible size.
    except (ValueError, EOFError, SyntaxError, TypeError, OverflowError):
        raise DataError(f"{path}: is no array of NumPy, or is damaged") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{path}: is an archive of NumPy's, not one array")
    return array


def _per_channel(key: str, value: Any) -> PerChannel:
    values = value if isinstance(value, (list, tuple)) else [value]
    if not all(type(n) in (int, float) and math.isfinite(n) for n in values):
        raise ValueError(f"{key} must be a number, or one a channel, got {value!r}")
    return tuple(values) if isinstance(value, (list, tuple)) else value
