"""Which keys of a config decide what the images are, said where a model takes others."""

from __future__ import annotations

import inspect
from typing import Sequence

from ..config import Config, Named

_KEYS = ("image_size", "channels")


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
