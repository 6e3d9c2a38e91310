"""What `paddle.vision.transforms` has by name, and how each is called so that it is right.

Paddle has three ways to transform, chosen by what is handed in, which give three results: for
NumPy arrays by OpenCV, which need not be installed and takes colours for BGR; for pictures of
Pillow's; and for tensors, float32 only. Here an image is a picture of Pillow's, until a transform
makes an array or a tensor of it, and a tensor from then on. What Paddle 3.3.1 gets wrong on that
way is put right, each at its place below.
"""

from __future__ import annotations

import numbers
from typing import Any, Callable

import numpy as np

from .picture import is_picture, to_array, to_picture


def paddle_transforms() -> dict[str, Callable[..., Any]]:
    """Return the transforms that the installed Paddle has, by name.

    All but Compose, which takes other transforms and is what a list of them means here.
    """
    from paddle.vision import transforms

    return {
        name: cls
        for name, cls in vars(transforms).items()
        if isinstance(cls, type)
        and issubclass(cls, transforms.BaseTransform)
        and cls is not transforms.BaseTransform
    }


def adapted(transform: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what is called with a picture, an array or a tensor in place of a transform."""
    import paddle
    from paddle.vision import transforms as of_paddle

    call = transform
    if isinstance(transform, of_paddle.Normalize):
        call = _normalizing(transform)
    elif isinstance(transform, of_paddle.RandomErasing):
        call = _erasing(transform)
    elif isinstance(transform, of_paddle.BaseTransform) and hasattr(transform, "fill"):
        call = _filling(transform, also_tensors=isinstance(transform, of_paddle.RandomAffine))
    takes_bytes = not isinstance(transform, of_paddle.BaseTransform) or isinstance(
        transform, (of_paddle.Normalize, of_paddle.Transpose)
    )

    def apply(value: Any) -> Any:
        if is_picture(value):
            return call(value)
        tensor = paddle.to_tensor(value) if isinstance(value, np.ndarray) else value
        if tensor.dtype == paddle.uint8 and not takes_bytes:
            raise ValueError("takes a picture or float32; put it before what makes an array")
        return call(tensor)

    return apply


def _normalizing(transform: Any) -> Callable[[Any], Any]:
    """Give Normalize the layout that it asks for, and one number for each channel that there is.

    Paddle subtracts the mean of [C, 1, 1] from a picture's [H, W, C], and makes three channels of a
    grey image where the mean is one number.
    """
    given = {"mean": list(transform.mean), "std": list(transform.std)}

    def normalize(value: Any) -> Any:
        if transform.data_format != "CHW":
            raise ValueError("data_format must be CHW")
        if transform.to_rgb:
            raise ValueError("to_rgb must be false: it mirrors [C, H, W], and colours are RGB here")
        value = to_array(value) if is_picture(value) else value.astype("float32")
        for name, values in given.items():
            few = values[:1] if len(set(values)) == 1 else values
            values = few * value.shape[0] if len(few) == 1 else few
            if len(values) != value.shape[0]:
                raise ValueError(f"{name} has {len(values)} numbers for {value.shape[0]} channels")
            setattr(transform, name, values)
        return transform(value)

    return normalize


def _erasing(transform: Any) -> Callable[[Any], Any]:
    """Give RandomErasing a picture as an array [H, W, C]: Paddle takes no grey picture."""

    def erase(value: Any) -> Any:
        if not is_picture(value):
            return transform(value)
        rows = transform(np.ascontiguousarray(np.moveaxis(to_array(value), 0, -1)))
        return to_picture(np.moveaxis(rows, -1, 0))

    return erase


def _filling(transform: Any, also_tensors: bool) -> Callable[[Any], Any]:
    """Fill all channels where `fill` is one number.

    Paddle fills the red one alone (Pad, RandomCrop), or always three (RandomRotation and alike).
    """
    fill = transform.fill

    def call(value: Any) -> Any:
        if isinstance(fill, numbers.Number) and (is_picture(value) or also_tensors):
            channels = len(value.getbands()) if is_picture(value) else value.shape[0]
            transform.fill = (fill,) * channels
        else:
            transform.fill = fill
        return transform(value)

    return call
