"""From a picture to what the model is fed: by the same steps as in the run's evaluation."""

from __future__ import annotations

import io
import math
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Optional, Union, get_args

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .dataset import ArrayDataset, PerChannel, Scale, scale_fault
from .picture import MODES, ResizeMode, read_image
from .samples import OWN_SIZE, SampleDataset
from .seeding import kept_generators, seed_sample
from .stored_transforms import describe_transforms, make_stored_transforms, own_transforms
from .transforms import TransformedSamples, TransformFault, Transforms, prepare_image

# A file's path, its bytes, or the array that would have been decoded from them.
Picture = Union[Path, bytes, npt.NDArray[Any]]

ARRAY_SUFFIX = ".npy"
_DTYPES = ("uint8", "float32")
# Of one picture: a gigabyte as floats.
_MOST_VALUES = 2**28
_KEYS = frozenset({"shape", "dtype", "resize", "mean", "std"})
# Of data that are decoded to what they are fed as; manifests of before have neither.
_KEYS_OF_TRANSFORMS = frozenset({"decoded_shape", "transforms"})
_RESIZE_MODES = get_args(ResizeMode)
# Transforms draw from the generators of the process, and Paddle's keep state in a call.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Preprocess:
    """Turn a picture into the float32 [C, H, W] that evaluation of the run's data fed the model.

    A picture is decoded (grey where its channels are 1), turned upright and brought to its size;
    then the transforms are done, and a pixel x becomes (x - mean) / std, while floats that a
    transform made are fed as they are. An array of `decoded_shape` and `dtype` is taken as decoded.
    Where the run's data are float32, nobody but their own code knows how a picture becomes one, so
    they are taken as arrays only. A transform that draws random numbers draws the same ones for
    each picture, so that a picture always gets the same answer.

    Args:
        shape: channels, rows, columns of what the model is fed.
        dtype: of what is decoded: uint8, or float32 for data that are fed as they are.
        mean: in units of pixels, 0 to 255; one number, or one for each channel.
        std: likewise.
        resize: what becomes of other proportions, as of `picture.fit`.
        decoded_shape: before the transforms, with OWN_SIZE for a picture's own rows and columns;
            None where it is `shape`.
        transforms: of the evaluation's reader, None where there are none.

    Raises:
        ValueError: the parts do not fit each other.
    """

    shape: tuple[int, int, int]
    dtype: str
    mean: PerChannel
    std: PerChannel
    resize: ResizeMode = "stretch"
    decoded_shape: Optional[tuple[int, int, int]] = None
    transforms: Optional[Transforms] = None

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"shape must be channels, rows and columns, got {list(self.shape)}")
        # A file says it, which may be a stranger's.
        for key, shape in (("shape", self.shape), ("decoded_shape", self.decoded)):
            if math.prod(shape) > _MOST_VALUES:
                raise ValueError(f"{key} must be of {_MOST_VALUES:,} values at most, got {shape}")
        if self.dtype not in _DTYPES:
            raise ValueError(f"dtype must be {' or '.join(_DTYPES)}, got {self.dtype}")
        if self.resize not in _RESIZE_MODES:
            raise ValueError(f"resize must be {', '.join(_RESIZE_MODES)}, got {self.resize!r}")
        fault = scale_fault(self.mean, self.std, num_channels=self.shape[0])
        if fault is not None:
            raise ValueError(fault)
        decoded = self.decoded
        if len(decoded) != 3 or (decoded[1:] != OWN_SIZE and min(decoded) < 1):
            raise ValueError(
                f"decoded_shape must be channels, rows and columns (or -1 and -1), got "
                f"{list(decoded)}"
            )
        if self.transforms is None and decoded != self.shape:
            raise ValueError(
                f"shape is {list(self.shape)}, decoded_shape {list(decoded)}, and no transforms "
                "make the one of the other"
            )
        if self.transforms is not None and (self.dtype != "uint8" or decoded[0] not in MODES):
            raise ValueError(
                f"transforms need uint8 of 1 channel or 3, got {self.dtype} {list(decoded)}"
            )

    @staticmethod
    def of(dataset: Union[ArrayDataset, SampleDataset]) -> Preprocess:
        """Return what is done to the images of a dataset before the model sees them.

        Args:
            dataset: as it is read, so with its transforms.
        """
        shape, dtype = _image_of(dataset)
        decoded, transforms = shape, None
        samples = None if isinstance(dataset, ArrayDataset) else dataset.samples
        if isinstance(samples, TransformedSamples):
            (decoded, dtype), transforms = _image_of(samples.dataset), samples.transforms
        mean, std = dataset.mean, dataset.std
        return Preprocess(shape, dtype, mean, std, dataset.resize, decoded, transforms)

    @staticmethod
    def from_dict(facts: Any, transforms: Optional[Transforms] = None) -> Preprocess:
        """Return what `to_dict` gave; lists may stand for tuples.

        Args:
            facts: may be a stranger's; nothing is imported by what they say.
            transforms: those that they tell of, where these are the user's own code.

        Raises:
            ValueError: a key is missing, unknown or of the wrong kind; a transform is not Paddle's,
                or refuses its arguments.
        """
        keys = set(facts) if isinstance(facts, Mapping) else set()
        if keys not in (_KEYS, _KEYS | _KEYS_OF_TRANSFORMS):
            names = ", ".join(sorted(_KEYS | _KEYS_OF_TRANSFORMS))
            raise ValueError(f"preprocessing needs the keys {names} and no others")
        shape = _three("shape", facts["shape"])
        decoded = _three("decoded_shape", facts.get("decoded_shape", facts["shape"]))
        mean, std = (_per_channel(key, facts[key]) for key in ("mean", "std"))
        if transforms is None and facts.get("transforms", []) != []:
            transforms = make_stored_transforms(facts["transforms"])
        dtype, resize = str(facts["dtype"]), facts["resize"]
        return Preprocess(shape, dtype, mean, std, resize, decoded, transforms)

    def to_dict(self) -> dict[str, Any]:
        """Return it in the types of JSON and YAML."""
        return {
            "shape": list(self.shape),
            "dtype": self.dtype,
            "decoded_shape": list(self.decoded),
            "resize": self.resize,
            "transforms": [] if self.transforms is None else describe_transforms(self.transforms),
            "mean": list(self.mean) if isinstance(self.mean, tuple) else self.mean,
            "std": list(self.std) if isinstance(self.std, tuple) else self.std,
        }

    @property
    def decoded(self) -> tuple[int, int, int]:
        """Return the shape that a picture is decoded to, before the transforms."""
        return self.decoded_shape or self.shape

    @property
    def takes_pictures(self) -> bool:
        """Tell whether image files can be decoded for it; if not, it takes arrays only."""
        return self.dtype == "uint8" and self.decoded[0] in MODES

    @property
    def own_transforms(self) -> list[str]:
        """Return the names of the transforms that are no data but a user's code."""
        return own_transforms(self.to_dict()["transforms"])

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
        if not self._is_decoded(picture):
            raise DataError(
                f"{name}: is {picture.dtype} {list(picture.shape)}, this model takes "
                f"{self.dtype} {list(self.decoded)}"
            )
        scale = Scale(self.mean, self.std)
        if self.transforms is None:
            return scale.fed(picture)
        try:
            with _ONE_AT_A_TIME, kept_generators():
                seed_sample(0, 0, 0)
                image = prepare_image(picture, self.transforms, scale)
        except TransformFault as fault:
            raise DataError(f"{name}: {fault}") from None
        if image.shape != self.shape:
            raise DataError(
                f"{name}: the transforms make {list(image.shape)} of {list(picture.shape)}, this "
                f"model takes {list(self.shape)}"
            )
        return image

    def _is_decoded(self, image: npt.NDArray[Any]) -> bool:
        has_own_size = self.decoded[1:] == OWN_SIZE
        is_shape = (
            image.ndim == 3 and image.shape[0] == self.decoded[0] and image.size > 0
            if has_own_size
            else image.shape == self.decoded
        )
        return bool(is_shape and image.dtype == self.dtype)

    def _decode(self, picture: Union[Path, bytes], name: str) -> npt.NDArray[np.uint8]:
        if not self.takes_pictures:
            raise DataError(
                f"{name}: this model was trained on {self.dtype} arrays {list(self.decoded)} that "
                f"its dataset makes; give arrays ({ARRAY_SUFFIX}) of that kind"
            )
        channels, *size = self.decoded
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
        rows_and_columns = None if tuple(size) == OWN_SIZE else (size[0], size[1])
        return read_image(source, rows_and_columns, channels, self.resize)


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


def _image_of(dataset: Union[ArrayDataset, SampleDataset]) -> tuple[tuple[int, int, int], str]:
    """Return shape and dtype of the images of a dataset."""
    if isinstance(dataset, ArrayDataset):
        shape, dtype = dataset.images.shape[1:], "uint8"
    else:
        shape, dtype = dataset.image_shape, np.dtype(dataset.image_dtype).name
    channels, rows, columns = map(int, shape)
    return (channels, rows, columns), dtype


def _three(key: str, shape: Any) -> tuple[int, int, int]:
    if not isinstance(shape, (list, tuple)) or [type(n) for n in shape] != [int] * 3:
        raise ValueError(f"{key} must be three whole numbers, got {shape!r}")
    return (shape[0], shape[1], shape[2])


def _per_channel(key: str, value: Any) -> PerChannel:
    values = value if isinstance(value, (list, tuple)) else [value]
    if not all(type(n) in (int, float) and math.isfinite(n) for n in values):
        raise ValueError(f"{key} must be a number, or one a channel, got {value!r}")
    return tuple(values) if isinstance(value, (list, tuple)) else value
