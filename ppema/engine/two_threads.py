"""Work on the batches of an evaluation in two threads, where that cannot change a figure.

Paddle's eager kernels use one core of a CPU, and leave the interpreter to others while they run.
"""

from __future__ import annotations

import os
from collections import deque
from functools import partial
from types import MethodType
from typing import Any, Callable, Iterable

import paddle

from ..averaging.helper_thread import HelperThread, Job
from ..averaging.kernels import num_own_cores

# Where the layers are that hold nothing but weights, and whose eval mode writes to none of them.
_PLAIN_MODULES = frozenset(
    {
        *(
            f"paddle.nn.layer.{name}"
            for name in ("activation", "common", "container", "conv", "loss", "norm", "pooling")
        ),
        # The sequences that Paddle's networks are made of.
        "paddle.vision.ops",
    }
)
_PLAIN_MODELS = ("paddle.vision.models.", "ppema.models")
# One at work and one waiting, so that the helper never waits for the caller's own batch to end.
_HANDED_OVER = 2
# These keep a state or draw random numbers in eval mode too: the order of the batches counts.
_EXCEPT = (paddle.nn.SpectralNorm, paddle.nn.FractionalMaxPool2D, paddle.nn.FractionalMaxPool3D)

_HELPER = HelperThread()


def can_take_two_threads(*layers: Any) -> bool:
    """Tell whether batches can pass through these layers at once without a trace of each other.

    True on a CPU with two free cores, for layers of Paddle's and ours without hooks; a user's class
    may well leave something in `self` that belongs to one batch.
    """
    has_two_cores = hasattr(os, "sched_getaffinity") and num_own_cores() > 1
    # Paddle sets this to 1 at its import, unless the user wants more cores for each kernel.
    is_one_core_used = os.environ.get("OMP_NUM_THREADS") == "1"
    if not (has_two_cores and is_one_core_used and paddle.get_device() == "cpu"):
        return False
    return all(
        isinstance(layer, paddle.nn.Layer)
        and all(_is_plain(each) for each in layer.sublayers(include_self=True))
        for layer in layers
    )


def map_in_two_threads(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """Return the results of a function without gradients, in the order of the items.

    The caller's thread takes the items, since a reader may fork and set signal handlers, and
    works on what the helper has no time for. Up to two calls run at once, and each holds the
    activations of its batch.
    """
    results: list[Any] = []
    handed_over: deque[Job] = deque()
    try:
        for item in items:
            while handed_over and handed_over[0].is_done:
                # Raises here what the helper met, and not after all the other batches.
                handed_over.popleft().result()
            if len(handed_over) < _HANDED_OVER:
                handed_over.append(_HELPER.submit(partial(_call, function, item)))
                results.append(handed_over[-1])
            else:
                results.append(_call(function, item))
    finally:
        # What the caller does next must not meet a batch that still runs.
        _HELPER.drain()
    return [result.result() if isinstance(result, Job) else result for result in results]


def _call(function: Callable[[Any], Any], item: Any) -> Any:
    # Both are of a thread, and a new one has Paddle's defaults.
    paddle.set_device("cpu")
    with paddle.no_grad():
        return function(item)


def _is_plain(layer: Any) -> bool:
    module = type(layer).__module__
    is_known = module in _PLAIN_MODULES or module.startswith(_PLAIN_MODELS)
    if not is_known or isinstance(layer, _EXCEPT):
        return False
    forward = layer.__dict__.get("forward")
    # The fast forms are set on the layer; anything else there is the user's.
    is_own = forward is None or (
        isinstance(forward, MethodType) and forward.__module__.startswith("ppema.fast_cpu")
    )
    return is_own and not (layer._forward_pre_hooks or layer._forward_post_hooks)
