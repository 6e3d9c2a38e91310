"""Where a model does not take the images of the data: which it would take, and what made these."""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from typing import Any, Iterator, Sequence

import paddle

from ..config import Config, Named
from ..models import IN_CHANNELS, first_convolution

# Arguments of data sets that decide what the images are.
_KEYS = ("image_size", "channels")
# As data sets and networks are made for.
_SIZES = (28, 32, 64, 96, 128, 224, 299)


class EmptyOutputError(Exception):
    """A layer makes nothing of an image, which is too small for it."""


@contextmanager
def no_empty_outputs(model: Any) -> Iterator[None]:
    """Raise EmptyOutputError where a layer gives an empty tensor.

    Pooled or flattened, one gives numbers again, and a network would train on nothing.
    """

    def look(layer: Any, inputs: Any, output: Any) -> None:
        if paddle.is_tensor(output) and output.size == 0:
            raise EmptyOutputError(f"{type(layer).__name__} makes nothing of images so small")

    hooks = [layer.register_forward_post_hook(look) for layer in model.sublayers()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def what_fits(named: Named, model: Any, image: Any) -> tuple[str, str]:
    """Return the key to change, and in words which images the model takes.

    Both are empty where neither the number of channels nor the size is at fault.
    """
    if len(image.shape) != 4:
        return "", ""
    found = first_convolution(model)
    channels = image.shape[1]
    if found is not None and found[1]._in_channels != channels:
        takes = f"takes images of {_channels(found[1]._in_channels)}, and the data have {channels}"
        if IN_CHANNELS in inspect.signature(named.cls).parameters:
            return IN_CHANNELS, f"{takes}; set Model.{IN_CHANNELS}: {channels}"
        return "", f"{takes}; change one of them"
    rows, columns = image.shape[2:]
    for size in _SIZES:
        if (size, size) != (rows, columns) and _takes(model, [1, channels, size, size]):
            return "", f"does not take images of {rows}x{columns}; it takes {size}x{size}"
    return "", ""


def _takes(model: Any, shape: list[int]) -> bool:
    try:
        with no_empty_outputs(model):
            return len(model(paddle.zeros(shape)).shape) == 2
    # Whatever it raises, it is no answer.
    except Exception:
        return False


def _channels(number: int) -> str:
    return f"{number} channel" if number == 1 else f"{number} channels"


def said_of_images(config: Config, part: str, shape: Sequence[int]) -> str:
    """Return what the images are, and which keys make them so.

    Args:
        config: of the run.
        part: Train or Eval.
        shape: channels, rows, columns.
    """
    named, transforms = f"{part}Dataset", f"{part}Reader.transforms"
    dataset: Named = getattr(config, named)
    parameters = inspect.signature(dataset.cls).parameters
    keys = [f"{named}.{key}" for key in _KEYS if key in parameters]
    images = f"the images are [{','.join(map(str, shape))}]"
    if getattr(config, f"{part}Reader").transforms:
        return f"{images} by {' and '.join([*keys, transforms])}"
    if keys:
        return f"{images} by {' and '.join(keys)}"
    return f"{images}; {transforms} can make others of them, by Resize and Grayscale"
