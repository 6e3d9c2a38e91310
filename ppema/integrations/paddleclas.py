"""An `ExponentialMovingAverage` that PaddleClas's engine takes in place of its own.

In `ppcls/engine/engine.py`, `from ppema.integrations.paddleclas import ExponentialMovingAverage`
takes the place of `from ppcls.utils.ema import ExponentialMovingAverage`; configs and checkpoints
stay as they are.
"""

from __future__ import annotations

from typing import Any

import paddle

from ..averaging import ExponentialMovingAverageModel


class ExponentialMovingAverage:
    """Hold the average of a classifier in a model of its own: the calls are PaddleClas's.

    Weights, BN statistics and other float buffers are averaged with one constant decay, from the
    weights that the model has here. Tied weights move once, integer and boolean buffers are copied
    and keep their dtype, and the average of a model in half precision is float32.

    Args:
        model: a paddle.nn.Layer, which may be wrapped in paddle.DataParallel.
        decay: the share of the old average that each update keeps, in [0, 1).

    Raises:
        ArgumentError: decay is out of range.
        FloatingPointError: a weight is NaN or infinite.
        TypeError: the model is no Layer, or holds something that Python cannot copy.
    Source: ppcls/utils/ema.py of https://github.com/PaddlePaddle/PaddleClas.
    """

    def __init__(self, model: Any, decay: float = 0.9999) -> None:
        self._averaged = ExponentialMovingAverageModel(_unwrapped(model), decay)
        self._decay = decay
        self.set(model)

    @property
    def module(self) -> Any:
        """Return the averaged model: evaluate it, save its state, load one into it."""
        return self._averaged.module

    @property
    def decay(self) -> float:
        """Return the share of the old average that each update keeps."""
        return self._decay

    def update(self, model: Any) -> None:
        """Fold the model's current weights in; call it after each step of the optimizer.

        Raises:
            FloatingPointError: a weight is NaN or infinite; the average stays what it was.
            ValueError: the model's tensors are not those of the average.
        """
        self._averaged.update_parameters(_unwrapped(model))

    def set(self, model: Any) -> None:
        """Begin anew, from the model's current weights.

        Raises:
            FloatingPointError: a weight is NaN or infinite; the average stays what it was.
            ValueError: the model's tensors are not those of the average.
        """
        count = self._averaged.n_averaged
        try:
            # The first of an AveragedModel's updates copies; the others move the average.
            count.zero_()
            self._averaged.update_parameters(_unwrapped(model))
        finally:
            count.fill_(1)


def _unwrapped(model: Any) -> Any:
    return model._layers if isinstance(model, paddle.DataParallel) else model
