"""A `ModelEMA` that PaddleDetection's trainer takes in place of its own.

In `ppdet/engine/trainer.py`, `from ppema.integrations.paddledetection import ModelEMA` takes the
place of `from ppdet.optimizer import ModelEMA`; configs and checkpoints stay as they are.
"""

from __future__ import annotations

import glob
import logging
from typing import Any, Iterable, Mapping, Optional

import paddle

from ..averaging import ArgumentError, ExponentialMovingAverage
from ..averaging.batch_norm import batch_norm_statistics
from ..averaging.decay import DEFAULT_DECAY, ScheduleName

logger = logging.getLogger(__name__)

_SCHEDULES: dict[str, ScheduleName] = {
    "threshold": "threshold",
    "normal": "constant",
    "exponential": "exponential",
}


class ModelEMA:
    """Average a detector's weights: the constructor and the calls are PaddleDetection's.

    Every weight seen counts with its share, divided by the sum of all shares, whatever the decay
    type: weights that do not change are returned as they are, at every step and after a resume.

    Args:
        model: a paddle.nn.Layer; pretrained weights may still be loaded before the first update.
        decay: the limit of the decay, in [0, 1).
        ema_decay_type: threshold: min(decay, (1+step)/(10+step)); normal: decay; exponential:
            decay*(1-exp(-(step+1)/2000)).
        cycle_epoch: begin anew at the first update after so many snapshots, a snapshot being an
            update or more and then `apply`; 0 or less never does. Their trainer takes one every
            `snapshot_epoch` epochs.
        ema_black_list: parts of names; weights with one in their name are the live ones.
        ema_filter_no_grad: True leaves weights that are frozen now at their live values for good;
            otherwise they are averaged from when they are unfrozen on.

    Raises:
        ArgumentError: an argument out of range.
        ValueError: the black list leaves nothing to average.
    Source: ppdet/optimizer/ema.py of https://github.com/PaddlePaddle/PaddleDetection.
    """

    def __init__(
        self,
        model: Any,
        decay: float = DEFAULT_DECAY,
        ema_decay_type: str = "threshold",
        cycle_epoch: int = -1,
        ema_black_list: Optional[Iterable[str]] = None,
        ema_filter_no_grad: bool = False,
    ) -> None:
        if ema_decay_type not in _SCHEDULES:
            raise ArgumentError("ema_decay_type", f"one of {', '.join(_SCHEDULES)}", ema_decay_type)
        if isinstance(cycle_epoch, bool) or not isinstance(cycle_epoch, int):
            raise ArgumentError("cycle_epoch", "a whole number", cycle_epoch)
        if isinstance(ema_black_list, str):
            raise ArgumentError("ema_black_list", "a list of parts of names", ema_black_list)
        left_out = _names_with(model, ema_black_list or ())
        if ema_filter_no_grad:
            left_out |= _frozen_names(model)
        self._cycle_epoch = cycle_epoch
        self._average = ExponentialMovingAverage(
            model,
            decay,
            schedule=_SCHEDULES[ema_decay_type],
            debias=True,
            exclude=[glob.escape(name) for name in sorted(left_out & _averaged_names(model))],
        )
        self.epoch = 0
        self._is_empty, self._is_read = True, False

    @property
    def average(self) -> ExponentialMovingAverage:
        """Return the average of ppema that does the work, for its diagnostics."""
        return self._average

    @property
    def step(self) -> int:
        """Return how many updates the average has seen since it began, or began anew."""
        return self._average.num_updates

    @property
    def state_dict(self) -> dict[str, Any]:
        """Return what `apply` returns, without counting as a snapshot."""
        if self._is_empty:
            # Weights may have been loaded since.
            self._average.register()
        return self._average.averaged_state_dict()

    def update(self, model: Any = None) -> None:
        """Fold the current weights in; call it after each step of the optimizer.

        Raises:
            FloatingPointError: a weight is NaN or infinite; the average stays what it was.
            ValueError: `model` holds other weights than the model that is averaged.
        """
        if model is not None and _ids(model) != _ids(self._average.model):
            raise ValueError(
                "update() takes the model that this ModelEMA was made with, or nothing"
            )
        if self._is_read and self.epoch == self._cycle_epoch:
            self.reset()
        self._average.update()
        self._is_empty = self._is_read = False

    def apply(self) -> dict[str, Any]:
        """Return copies of the model's state with the averages in it, for `model.set_dict`.

        Before the first update they are the model's own weights. The average itself stays.
        """
        if not (self._is_empty or self._is_read):
            self.epoch += 1
            self._is_read = True
        return self.state_dict

    def resume(self, state_dict: Mapping[str, Any], step: int = 0) -> None:
        """Continue from what `apply` returned at this step; nothing changes where it does not fit.

        Raises:
            ArgumentError: step is not a whole number from 0.
            ValueError: names or shapes that do not fit; the text has all of them.
        """
        self._average.continue_from(state_dict, step)
        self._is_empty = self._is_read = False
        self.epoch = 0
        if self._cycle_epoch > 0:
            logger.warning(
                "the checkpoint does not say how far a cycle of cycle_epoch %d had come; "
                "a new one begins, from the average loaded",
                self._cycle_epoch,
            )

    def reset(self) -> None:
        """Begin anew: what was averaged is forgotten, from the next update on."""
        self._average.register()
        self.epoch = 0
        self._is_empty, self._is_read = True, False


def _names_with(model: Any, parts: Iterable[str]) -> set[str]:
    """Return the names of a model's state that contain one of these parts."""
    names = list(model.state_dict())
    found: set[str] = set()
    for part in parts:
        matches = {name for name in names if part in name}
        if not matches:
            logger.warning("ema_black_list: no name in the model contains %r", part)
        found |= matches
    return found


def _frozen_names(model: Any) -> set[str]:
    statistics = batch_norm_statistics(model)
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.stop_gradient and id(parameter) not in statistics
    }


def _averaged_names(model: Any) -> set[str]:
    """Return the names that may be excluded: buffers are live as it is."""
    parameters = _ids(model)
    return {
        name
        for name, tensor in model.state_dict(use_hook=False).items()
        if id(tensor) in parameters and paddle.is_floating_point(tensor)
    }


def _ids(model: Any) -> set[int]:
    # A wrapper such as DataParallel has the parameters of what it wraps.
    return {id(parameter) for parameter in model.parameters()}
