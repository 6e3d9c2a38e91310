"""Transforms of `paddle.vision.transforms`, and a user's own, one after the other on an image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Mapping, NamedTuple, Optional, Sequence, Union

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .dataset import ArrayDataset, Scale, scale_fault
from .paddle_transforms import adapted
from .picture import MODES, is_picture, to_array, to_picture
from .samples import OWN_SIZE, SampleDataset, described, read_sample, reason_of
from .seeding import kept_generators, seed_sample

# Samples that are tried before training, spread over the data.
_NUM_TRIED = 8
_RANK = 3
_SIZE_HINT = (
    "; the transforms must make one size, such as {{name: Resize, size: [{rows}, {columns}]}} "
    "(of one number it makes the shorter side alone)"
)


class TransformFault(DataError):
    """A transform fails, or gives no image; `path` is where the config names it."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(text)
        self.path = path


class Step(NamedTuple):
    """One transform: where the config names it, the name, the object called, its arguments."""

    path: str
    name: str
    transform: Callable[[Any], Any]
    arguments: Mapping[str, Any] = {}


class Transforms:
    """Apply transforms to an image, in turn; their randomness is the global generators'.

    The first is given a picture of Pillow's, grey or RGB, and so are the others until one of them
    gives an array or a tensor, which must be [C, H, W]. From there on they are given tensors.

    Args:
        steps: at least one.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = tuple(steps)
        self._calls = [(step, adapted(step.transform)) for step in steps]

    def __call__(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """Return uint8 or float32 [C, H, W].

        Args:
            image: uint8 [C, H, W].

        Raises:
            TransformFault: a transform fails, or what it gives is no image; names it.
            ValueError: the image has neither 1 channel nor 3.
        """
        value = to_picture(image)
        for step, call in self._calls:
            try:
                found = call(value)
            except KeyboardInterrupt:
                raise
            # It may be the user's own, and Paddle's raise what they meet.
            except BaseException as error:
                text = f"{_label(step)} on {_described(value)}: {reason_of(error)}"
                raise TransformFault(step.path, text) from None
            fault = _fault_of(found)
            if fault is not None:
                raise TransformFault(step.path, f"{_label(step)} gives {fault}")
            value = found
        return to_array(value) if is_picture(value) else _to_numpy(value)


class TransformedSamples:
    """Samples of a dataset, transformed.

    Args:
        dataset: the images and labels.
        transforms: what is done to the image.
    """

    def __init__(self, dataset: Union[ArrayDataset, SampleDataset], transforms: Transforms) -> None:
        self.dataset, self.transforms = dataset, transforms
        self._samples = (
            _ImagesInMemory(dataset) if isinstance(dataset, ArrayDataset) else dataset.samples
        )

    def __getitem__(self, index: int) -> tuple[npt.NDArray[Any], int]:
        """Return image (uint8 or float32 [C, H, W]) and label.

        Raises:
            DataError: the sample cannot be read; TransformFault where a transform is at fault.
        """
        image, label = read_sample(self.dataset.source, self._samples, index)
        where = f"{self.dataset.source}: sample {self.dataset.number_of(index)}"
        if image.dtype != np.uint8 or image.shape[0] not in MODES:
            raise DataError(
                f"{where}: image is {described(image)}; transforms need uint8 of 1 channel or 3"
            )
        try:
            return self.transforms(image), label
        except TransformFault as fault:
            raise TransformFault(fault.path, f"{where}: {fault}") from None


class _ImagesInMemory:
    def __init__(self, dataset: ArrayDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.uint8], int]:
        dataset = self._dataset
        return dataset.images[dataset.number_of(index)], int(dataset.labels[index])


def transform_samples(
    dataset: Union[ArrayDataset, SampleDataset], transforms: Transforms
) -> SampleDataset:
    """Return a dataset whose images are those of another one, transformed when they are read.

    What it is called, its classes and its digest stay. A few samples, of all parts of the data, are
    tried, so that what does not fit is said before training.

    Raises:
        DataError: a sample cannot be read, their sizes differ, or `mean` and `std` do not fit;
            TransformFault where a transform is at fault.
    """
    tried = np.linspace(0, len(dataset) - 1, _NUM_TRIED).astype(int).tolist()
    transformed = TransformedSamples(_with_its_sizes(dataset, tried), transforms)
    with kept_generators():
        seed_sample(0, 0, 0)
        image, _ = transformed[0]
        # A mean is for pixels; floats are fed as they are, of however many channels.
        scale = (dataset.mean, dataset.std) if image.dtype == np.uint8 else (0.0, 1.0)
        fault = scale_fault(*scale, num_channels=image.shape[0])
        if fault is not None:
            raise DataError(
                f"{dataset.source}: {fault}; let the transforms end with one that makes floats, "
                "such as {name: Normalize, mean: 127.5, std: 127.5}"
            )
        result = SampleDataset(
            samples=transformed,
            num_samples=len(dataset),
            image_shape=image.shape,
            image_dtype=image.dtype,
            class_names=dataset.class_names,
            mean=scale[0],
            std=scale[1],
            source=dataset.source,
            kind=dataset.kind,
            digest=dataset.digest,
            resize=dataset.resize,
            hint_on_sizes=_SIZE_HINT.format(rows=image.shape[1], columns=image.shape[2]),
            rows=dataset.rows,
            is_validation=dataset.is_validation,
        )
        for index in tried:
            seed_sample(0, 0, index)
            result.read(index)
    return result


def _with_its_sizes(
    dataset: Union[ArrayDataset, SampleDataset], tried: Sequence[int]
) -> Union[ArrayDataset, SampleDataset]:
    """Return a user's data with OWN_SIZE as their size where the images tried are of several."""
    if isinstance(dataset, ArrayDataset) or dataset.kind != "user":
        return dataset
    with kept_generators():
        shapes = {read_sample(dataset.source, dataset.samples, index)[0].shape for index in tried}
    if len(shapes) == 1:
        return dataset
    return replace(dataset, image_shape=(dataset.image_shape[0], *OWN_SIZE))


def prepare_image(
    image: npt.NDArray[np.uint8], transforms: Optional[Transforms], scale: Scale
) -> npt.NDArray[np.float32]:
    """Return what the model is fed for one decoded image, float32 [C, H, W].

    The same bits as in a batch of the evaluation, where the transforms draw no random numbers.

    Args:
        image: uint8 [C, H, W], as `picture.read_image` gives it.
        transforms: those of EvalReader, None where there are none.
        scale: of the dataset's `mean` and `std`.
    """
    return scale.fed(image if transforms is None else transforms(image))


def _to_numpy(value: Any) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = value if isinstance(value, np.ndarray) else value.numpy()
    return array


def _fault_of(value: Any) -> Optional[str]:
    """Return what is wrong with what a transform gave, None where it is an image."""
    if is_picture(value):
        if value.mode in MODES.values():
            return None
        return f"a picture of mode {value.mode}; L (grey) or RGB is needed"
    shape = list(getattr(value, "shape", []))
    if len(shape) != _RANK or not (isinstance(value, np.ndarray) or hasattr(value, "numpy")):
        return f"{described(value)}; a picture of Pillow's, an array or a tensor is needed"
    # More channels than colours have are the user's affair, but not these.
    if shape[0] not in MODES and (shape[1] in MODES or shape[2] in MODES):
        return f"{shape}; [C, H, W] is needed"
    return None


def _described(value: Any) -> str:
    if is_picture(value):
        return f"a picture of {value.height}x{value.width} ({value.mode})"
    return f"{value.dtype} {list(value.shape)}"


def _label(step: Step) -> str:
    return f"{step.path} ({step.name})"
