"""Forms of two layers that are faster on a CPU and give Paddle's bits; made for Paddle 3.3.1.

Paddle adds the bias of a convolution as [1, C, 1, 1], a broadcast that its CPU kernel takes
slowly; as [C, 1, 1] it is 11 times faster. The backward pass of `max_pool2d` looks for the
maximum again, unless the forward pass kept its place (`return_mask=True`).
tests/test_fast_cpu.py compares the bits; benchmark before this file is carried to another Paddle.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from types import MethodType
from typing import Any, Callable, Iterator, Optional, Sequence

import numpy as np
import paddle
from paddle import nn

# Where a window of Paddle's max pooling begins to compare, in float64 too.
_LOWEST = float(np.finfo(np.float32).min)
# The integers that show the bits of a number, and what infinity is among them.
_BIT_TYPES: dict[Any, tuple[Any, Any, int]] = {
    paddle.float32: (np.uint32, np.int32, 0x7F80_0000),
    paddle.float64: (np.uint64, np.int64, 0x7FF0_0000_0000_0000),
}


class FastLayers:
    """The layers of a model that have a fast form, for use around its forward and backward.

    Only layers that are exactly `nn.Conv2D` or `nn.MaxPool2D` and whose bits are known to stay
    the same: NCHW, zero padding, and for pooling numbers for padding and no window outside the
    image. The others stay as they are; so do all of them while Paddle's device is a GPU, and in
    a model of which `paddle.jit.to_static` has made a program or will at its first call.

    Args:
        model: a paddle.nn.Layer; layers it is given later stay as they are.
        is_enabled: without it, no layer takes its fast form.
    """

    def __init__(self, model: Any, is_enabled: bool = True) -> None:
        self._model = model
        is_enabled = is_enabled and paddle.get_device() == "cpu"
        layers = model.sublayers(include_self=True) if is_enabled else []
        if not all(map(_has_plain_forward, layers)):
            layers = []
        self._layers = [layer for layer in layers if type(layer) in (nn.Conv2D, nn.MaxPool2D)]

    def __len__(self) -> int:
        """Return how many layers take their fast form."""
        return len(self._forwards())

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let the layers take their fast forms inside the `with` block.

        Outside of it nothing of the model tells of them, so that copies and exports are Paddle's
        own. A thread that comes in between gets one form or the other, and the same bits.
        """
        forwards = self._forwards()
        try:
            for layer, forward in forwards:
                # Past Layer.__setattr__, which takes 20 times as long.
                layer.__dict__["forward"] = MethodType(forward, layer)
            yield
        finally:
            for layer, _ in forwards:
                layer.__dict__.pop("forward", None)

    def _forwards(self) -> list[tuple[Any, Callable[..., Any]]]:
        """Return the layers that can take a fast form as they are now, and that form."""
        found: list[tuple[Any, Callable[..., Any]]] = []
        if not _has_plain_forward(self._model):
            return found
        for layer in self._layers:
            forward = _fast_forward(layer)
            # One set on the layer itself is the user's own, or of a block around this one.
            if forward is not None and "forward" not in layer.__dict__:
                found.append((layer, forward))
        return found


class _WithoutBias:
    """A convolution as it is, but for its bias; taking that from the layer is not thread-safe."""

    bias = None

    def __init__(self, layer: Any) -> None:
        self._wrapped_layer = layer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped_layer, name)


def _has_plain_forward(layer: Any) -> bool:
    # What paddle.jit.to_static leaves is an object, and its tracer takes no forward but Paddle's.
    return inspect.ismethod(layer.forward)


def _fast_forward(layer: Any) -> Optional[Callable[..., Any]]:
    if type(layer) is nn.Conv2D:
        is_plain = layer._data_format == "NCHW" and layer._padding_mode == "zeros"
        return _convolve if is_plain and layer.bias is not None else None
    return _pool if _has_no_outer_window(layer) else None


def _convolve(layer: Any, *args: Any, **kwargs: Any) -> Any:
    if not paddle.in_dynamic_mode():
        return nn.Conv2D.forward(layer, *args, **kwargs)
    output = nn.Conv2D.forward(_WithoutBias(layer), *args, **kwargs)
    # In place, as no backward pass reads a convolution's output; a large batch saves its memory.
    return output.add_(layer.bias.reshape([-1, 1, 1]))


def _pool(layer: Any, x: Any) -> Any:
    # Without a backward pass, the mask costs time and gains nothing.
    needs_mask = paddle.in_dynamic_mode() and not x.stop_gradient and paddle.is_grad_enabled()
    if not (needs_mask and x.ndim == 4 and _is_ordinary(x)):
        return nn.MaxPool2D.forward(layer, x)
    output, _ = nn.functional.max_pool2d(
        x, layer.ksize, layer.stride, layer.padding, ceil_mode=layer.ceil_mode, return_mask=True
    )
    return output


def _has_no_outer_window(layer: Any) -> bool:
    """Tell whether every window of a pooling layer holds a pixel, whatever the image's size.

    One that holds none has the place -1 in the mask, and Paddle's backward pass would write
    there, outside the gradient.
    """
    if layer.data_format != "NCHW" or layer.return_mask:
        return False
    sizes = _pair(layer.ksize)
    strides = sizes if layer.stride is None else _pair(layer.stride)
    paddings = _pair(layer.padding)
    if sizes is None or strides is None or paddings is None:
        return False
    return all(
        size >= stride + padding if layer.ceil_mode else size > padding
        for size, stride, padding in zip(sizes, strides, paddings)
    )


def _is_ordinary(x: Any) -> bool:
    """Tell whether pooling with a mask gives the same bits for these values.

    NaN and -0.0 are taken in another order; a window with nothing above the lowest float32 has
    the place -1, like one outside the image.
    """
    if x.dtype not in _BIT_TYPES or not x.place.is_cpu_place() or x.size == 0:
        return False
    values = np.from_dlpack(x.detach())
    unsigned, signed, infinity = _BIT_TYPES[x.dtype]
    # All that has a sign, and NaN, is above infinity there: one read for what ReLU gives.
    if values.view(unsigned).max() <= infinity:
        return True
    # -0.0 is the least of the signed integers.
    return bool(values.min() > _LOWEST and values.view(signed).min() > np.iinfo(signed).min)


def _pair(value: Any) -> Optional[tuple[int, int]]:
    """Return height and width from a number or two, None for what else Paddle takes."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, Sequence) and len(value) == 2 and all(isinstance(v, int) for v in value):
        return value[0], value[1]
    return None
