"""A Layer that holds the average of another: call it, evaluate it, save it like any model."""

from __future__ import annotations

import copy
from typing import Any, Callable, Optional

import paddle

from .batch_norm import batch_norm_statistics
from .decay import resolve_decay
from .finite import is_finite
from .fit import describe_misfit
from .place import at_place, parse_place
from .swap import is_any_exchanged

AverageFunction = Callable[[Any, Any, int], Any]

_NARROW = (paddle.float16, paddle.bfloat16)


class AveragedModel(paddle.nn.Layer):
    """Hold the equal-weight mean of a model's weights, or any average of your own.

    The copy is in eval mode, without gradients, and in float32 where the model is narrower: an
    average in half precision stops moving. Its state has the names `module.<name>`, and
    `n_averaged` [] int64.

    Args:
        model: a paddle.nn.Layer; weights under weight_norm or spectral_norm, and tied weights,
            are copied as such.
        device: where the copy lies: cpu, gpu, gpu:N; None means where the model lies.
        avg_fn: called with the averaged tensor, the model's and the number of updates averaged
            so far, returns the new average; None computes ``avg + (p - avg) / (n + 1)``.
        use_buffers: average buffers of floats too, BN statistics among them; else they are
            copied, as integer buffers and frozen weights always are.

    Raises:
        ArgumentError: an unknown place.
        TypeError: the model is no Layer, or holds something that Python cannot copy.
    Source: torch.optim.swa_utils.AveragedModel, https://pytorch.org/docs/stable/optim.html.
    """

    def __init__(
        self,
        model: Any,
        device: Optional[str] = None,
        avg_fn: Optional[AverageFunction] = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        place = parse_place(device)
        self.module = _copy_model(model)
        self.module.eval()
        if any(parameter.dtype in _NARROW for parameter in self.module.parameters()):
            self.module.to(dtype="float32")
        if place is not None:
            self.module.to(device)
        for parameter in self.module.parameters():
            parameter.stop_gradient = True
        self.register_buffer("n_averaged", paddle.zeros([], "int64"))
        self._avg_fn, self._use_buffers = avg_fn, use_buffers

    def forward(self, *inputs: Any, **named_inputs: Any) -> Any:
        """Return what the averaged model gives for these inputs."""
        return self.module(*inputs, **named_inputs)

    def update_parameters(self, model: Any) -> None:
        """Fold the model's current weights in; the first call copies them.

        Raises:
            FloatingPointError: a weight is NaN or infinite; the average stays what it was.
            RuntimeError: an average is applied to the model at the moment.
            ValueError: the model's tensors are not those of the copy.
        """
        if is_any_exchanged(model.parameters()):
            raise RuntimeError(
                "update_parameters() needs the raw weights, but an average is applied; call its "
                "restore() first"
            )
        current, averaged = _tensors(model), _tensors(self.module)
        misfit = describe_misfit(_shapes(averaged), _shapes(current))
        if misfit:
            raise ValueError(f"the model is not the one that is averaged: {misfit}")
        for name, live in current.items():
            if live.is_floating_point() and not is_finite(live):
                raise FloatingPointError(f"{name} holds NaN or Inf; the average stays what it was")
        statistics = batch_norm_statistics(model)
        parameters = {id(parameter) for parameter in model.parameters()}
        num_averaged = int(self.n_averaged)
        with paddle.no_grad():
            for name, average in averaged.items():
                live = current[name]
                is_buffer = id(live) in statistics or id(live) not in parameters
                is_moving = self._use_buffers if is_buffer else not live.stop_gradient
                converted = at_place(live.detach().astype(average.dtype), average.place)
                if num_averaged == 0 or not is_moving or not average.is_floating_point():
                    average.copy_(converted, True)
                elif self._avg_fn is not None:
                    average.copy_(self._avg_fn(average, converted, num_averaged), True)
                else:
                    average.add_((converted - average) * (1.0 / (num_averaged + 1)))
            self.n_averaged += 1


class ExponentialMovingAverageModel(AveragedModel):
    """Hold the exponential moving average of a model's weights and buffers.

    Args:
        model: see AveragedModel.
        decay: the share of the old average that each update keeps, in [0, 1).
        device: see AveragedModel.

    Raises:
        ArgumentError: decay is out of range, or an unknown place.
        TypeError: the model is no Layer, or holds something that Python cannot copy.
    """

    def __init__(self, model: Any, decay: float, device: Optional[str] = None) -> None:
        weight = 1.0 - resolve_decay(decay, None)
        super().__init__(
            model,
            device,
            avg_fn=lambda averaged, current, _: averaged + (current - averaged) * weight,
            use_buffers=True,
        )


def _copy_model(model: Any) -> Any:
    if not isinstance(model, paddle.nn.Layer):
        raise TypeError(f"model must be a paddle.nn.Layer, got {type(model).__name__}")
    # weight_norm and spectral_norm leave a computed weight on the layer, which Paddle refuses to
    # copy; the copy computes its own at the next forward.
    computed = {
        id(value): value.detach().clone()
        for layer in model.sublayers(include_self=True)
        for value in vars(layer).values()
        if paddle.is_tensor(value) and not value.is_leaf
    }
    try:
        return copy.deepcopy(model, computed)
    # Whatever a user's layer holds may refuse in its own way.
    except Exception as error:
        raise TypeError(
            f"{type(model).__name__} cannot be copied ({str(error).splitlines()[0]}); "
            "ExponentialMovingAverage and its kin need no copy of the model"
        ) from error


def _tensors(model: Any) -> dict[str, Any]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


class _Shape:
    """A tensor's shape without its dtype, which may be narrower in the model than in the copy."""

    dtype = "any"

    def __init__(self, tensor: Any) -> None:
        self.shape = tensor.shape


def _shapes(tensors: dict[str, Any]) -> dict[str, _Shape]:
    return {name: _Shape(tensor) for name, tensor in tensors.items()}
