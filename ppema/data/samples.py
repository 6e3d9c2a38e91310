"""Data that are read sample by sample: a map-style dataset, and what each sample must be."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import Any, ClassVar, Optional, Sequence

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, DataError
from .dataset import Kind, PerChannel, scale_fault
from .download import Downloader
from .picture import ResizeMode
from .seeding import kept_generators, seed_sample

logger = logging.getLogger(__name__)

_DTYPES = (np.dtype(np.uint8), np.dtype(np.float32))
_RANK = 3
# Rows and columns of a dataset each of whose images has a size of its own.
OWN_SIZE = (-1, -1)


# eq=False: `digest` is what tells two datasets apart.
@dataclass(frozen=True, eq=False)
class SampleDataset:
    """Labelled images that are read one by one, all of one shape and dtype.

    Args:
        samples: `samples[index]` is an image and a label.
        num_samples: how many there are.
        image_shape: channels, rows, columns; OWN_SIZE stands for rows and columns where each image
            has its own, and no batch can be made until transforms have made them one size.
        image_dtype: uint8, then a pixel x is fed to the model as (x - mean) / std; or float32,
            then it is fed as it is.
        class_names: one name a class, None where they are not known.
        mean: in units of the stored pixels, 0 to 255; one number, or one for each channel.
        std: likewise.
        source: what the data is and where it was found, for people.
        kind: which data it is, for programs: a run is only resumed on its own kind.
        digest: what is compared when a run goes on; weaker than one over all pixels, which
            would mean to read them all.
        resize: how a picture came to its size, for pictures that come later.
        hint_on_sizes: what is said after an image of another size, on how to avoid it.
        rows: int64 [num_samples], which of the whole data these are, as errors number them; None
            for all.
        is_validation: whether these were kept out of the training data.

    Raises:
        DataError: the parts do not fit each other.
    """

    samples: Any
    num_samples: int
    image_shape: tuple[int, ...]
    image_dtype: npt.DTypeLike
    class_names: Optional[tuple[str, ...]]
    mean: PerChannel
    std: PerChannel
    source: str
    kind: Kind
    digest: str
    resize: ResizeMode = "stretch"
    hint_on_sizes: str = ""
    rows: Optional[npt.NDArray[np.int64]] = None
    is_validation: bool = False

    def __post_init__(self) -> None:
        fault = scale_fault(self.mean, self.std, num_channels=self.image_shape[0])
        if fault is not None:
            raise DataError(f"{self.source}: {fault}")

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.num_samples

    @property
    def has_one_size(self) -> bool:
        """Return whether all images are of one size."""
        return self.image_shape[1:] != OWN_SIZE

    def number_of(self, index: int) -> int:
        """Return which sample of the whole data it is."""
        return index if self.rows is None else int(self.rows[index])

    def read(self, index: int) -> tuple[npt.NDArray[Any], int]:
        """Return image and label of one sample.

        Raises:
            DataError: the dataset fails, or the sample is not like the others; names the sample.
        """
        image, label = read_sample(self.source, self.samples, index)
        if image.shape != self.image_shape or image.dtype != self.image_dtype:
            hint = self.hint_on_sizes if image.shape[1:] != self.image_shape[1:] else ""
            raise DataError(
                f"{self.source}: sample {self.number_of(index)}: image is {described(image)}, "
                "sample 0's is "
                f"{np.dtype(self.image_dtype)} {list(self.image_shape)}{hint}"
            )
        if self.class_names is not None and label >= len(self.class_names):
            raise DataError(
                f"{self.source}: label {label} at sample {self.number_of(index)}; "
                f"classes are 0-{len(self.class_names) - 1}"
            )
        return image, label


class UserSamples:
    """Ask for the data of a class that is not ppema's: a map-style `paddle.io.Dataset`, or alike.

    Its samples are pairs of image and label. An image is a uint8 or float32 array or a Paddle
    tensor [C, H, W]; bytes are scaled to [-1, 1], floats are taken as they are. A label is a whole
    number from 0 on. An attribute `class_names`, where there is one, names the classes.

    Raises:
        ConfigError: the object has no samples to ask for by index.
    """

    kind: ClassVar[Kind] = "user"

    def __init__(self, samples: Any) -> None:
        cls = type(samples)
        self.title = f"{cls.__module__}.{cls.__qualname__}"
        if not (hasattr(cls, "__getitem__") and hasattr(cls, "__len__")):
            raise ConfigError(f"{self.title}: a dataset needs __getitem__ and __len__")
        self._samples = samples

    def load(self, downloader: Downloader) -> SampleDataset:
        """Return the dataset, after a look at its first sample; nothing is downloaded.

        Raises:
            DataError: it is empty, or its length or first sample is not what it must be.
        """
        num_samples = self._count()
        with kept_generators():
            seed_sample(0, 0, 0)
            image, label = read_sample(self.title, self._samples, 0)
            seed_sample(0, 0, 0)
            again, _ = read_sample(self.title, self._samples, 0)
        identity = f"{self.title} {num_samples} {image.dtype} {image.shape} {label}".encode()
        if image.tobytes() == again.tobytes():
            identity += image.tobytes()
        else:
            logger.warning(
                "%s: sample 0 differs from one reading to the next; randomness that is not drawn "
                "from random, numpy.random or paddle makes a run that cannot be repeated",
                self.title,
            )
        return SampleDataset(
            samples=self._samples,
            num_samples=num_samples,
            image_shape=image.shape,
            image_dtype=image.dtype,
            class_names=_class_names(self.title, self._samples),
            mean=127.5,
            std=127.5,
            source=f"{self.title} ({num_samples:,} samples)",
            kind=self.kind,
            digest=hashlib.sha256(identity).hexdigest(),
        )

    def _count(self) -> int:
        try:
            num_samples = len(self._samples)
        # The class is the user's own and may fail in any way; Paddle's IterableDataset does.
        except Exception as error:
            raise DataError(f"{self.title}: has no length: {reason_of(error)}") from None
        if num_samples < 1:
            raise DataError(f"{self.title}: is empty")
        return num_samples


def read_sample(source: str, samples: Any, index: int) -> tuple[npt.NDArray[Any], int]:
    """Return image (uint8 or float32 [C, H, W]) and label of one sample, whatever form they had.

    Raises:
        DataError: the dataset fails, or this is no image or no label; names the sample.
    """
    where = f"{source}: sample {index}"
    try:
        sample = samples[index]
    except DataError:
        raise
    except KeyboardInterrupt:
        raise
    # The class is the user's own and may fail in any way; an exit would end a worker silently.
    except BaseException as error:
        raise DataError(f"{where}: {reason_of(error)}") from None
    if not isinstance(sample, (tuple, list)) or len(sample) != 2:
        raise DataError(f"{where}: is {described(sample)}, expected a pair of image and label")
    image, label = (_to_array(value) for value in sample)
    is_image = isinstance(image, np.ndarray) and image.dtype in _DTYPES and image.ndim == _RANK
    if not is_image or image.size == 0:
        raise DataError(
            f"{where}: image is {described(image)}, expected uint8 or float32 [C, H, W]"
        )
    return image, _to_label(where, label)


def _to_array(value: Any) -> Any:
    """Return a tensor's values as an array; anything else as it is."""
    is_tensor = hasattr(value, "numpy") and hasattr(value, "stop_gradient")
    return value.numpy() if is_tensor else value


def _to_label(where: str, label: Any) -> int:
    array = np.asarray(label)
    # An array of one is how Paddle's own datasets give their labels.
    if array.dtype.kind not in "iu" or array.size != 1 or array.ndim > 1:
        raise DataError(f"{where}: label is {described(label)}, expected a whole number")
    # Also -100, which Paddle's cross entropy would leave out without a word.
    if int(array.item()) < 0:
        raise DataError(f"{where}: label {array.item()}; classes are counted from 0")
    return int(array.item())


def _class_names(title: str, samples: Any) -> Optional[tuple[str, ...]]:
    names = getattr(samples, "class_names", None)
    if names is None:
        return None
    is_list = isinstance(names, Sequence) and not isinstance(names, str)
    if not is_list or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{title}: class_names is {described(names)}, expected a list of texts")
    return tuple(names)


def described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, (bool, int, float)):
        return repr(value)
    return f"a {type(value).__name__}"


def reason_of(error: BaseException) -> str:
    """Return an error on one line."""
    try:
        text = str(error)
    # An error of the user's own class may not even be able to say what it is.
    except Exception:
        text = ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
