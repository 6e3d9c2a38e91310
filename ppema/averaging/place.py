"""Where tensors lie, from the words that users say it in."""

from __future__ import annotations

from typing import Any, Optional

import paddle

from .decay import ArgumentError


def at_place(tensor: Any, place: Any) -> Any:
    """Return the tensor, or a copy of it where it lies elsewhere; None means where it is.

    Paddle's own `to` makes Python show each warning once more, also where nothing moves.
    """
    return tensor if place is None or tensor.place == place else tensor.to(place)


def parse_place(device: Optional[str]) -> Any:
    """Return Paddle's place for cpu, gpu or gpu:N; None for None.

    Raises:
        ArgumentError: another word, or a GPU where Paddle was built without CUDA.
    """
    if device is None:
        return None
    if device == "cpu":
        return paddle.CPUPlace()
    kind, _, index = device.partition(":")
    if kind != "gpu" or not (index or "0").isdigit():
        raise ArgumentError("device", "cpu, gpu or gpu:N", device)
    if not paddle.is_compiled_with_cuda():
        raise ArgumentError("device", "cpu, as this Paddle was built without CUDA", device)
    return paddle.CUDAPlace(int(index or 0))
