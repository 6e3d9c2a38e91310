"""BatchNorm statistics: which layers keep them, and how to compute them anew for given weights."""

from __future__ import annotations

import inspect
import random
from contextlib import contextmanager
from typing import Any, Iterable, Iterator, Mapping, Optional

import numpy as np
import paddle

from . import ranks
from .place import at_place, parse_place
from .swap import is_any_exchanged


def batch_norm_layers(model: Any) -> list[Any]:
    """Return the layers of a model that keep running statistics, `_mean` and `_variance`."""
    kinds = (paddle.nn.layer.norm._BatchNormBase, paddle.nn.BatchNorm)
    return [layer for layer in model.sublayers(include_self=True) if isinstance(layer, kinds)]


def batch_norm_statistics(model: Any) -> set[int]:
    """Return the ids of a model's running statistics.

    Paddle lists them as parameters with `stop_gradient`, like frozen weights; the layer they
    belong to is what tells them apart.
    """
    return {
        id(statistic)
        for layer in batch_norm_layers(model)
        for statistic in (layer._mean, layer._variance)
    }


def synchronize_buffers(model: Any) -> None:
    """Give a model the same buffers on all ranks; nothing else moves, and all must call it.

    BN statistics become their mean over the ranks, which leaves the mean of all that follows what
    it would have been; other buffers become those of the first rank.
    """
    ranks.all_reduce_mean(
        [tensor for layer in batch_norm_layers(model) for tensor in (layer._mean, layer._variance)]
    )
    ranks.broadcast_tensors([buffer for _, buffer in model.named_buffers()], source=0)


def update_bn(
    loader: Iterable[Any], model: Any, device: Optional[str] = None, over_ranks: bool = False
) -> None:
    """Compute the BN statistics of a model anew, as the mean over the batches of one pass.

    An average that is applied has a method of its own for this, `recompute_statistics`.

    Each batch counts the same, whatever its size, as in PyTorch. A layer that is called several
    times for a batch counts each call. Layers with `use_global_stats` keep what they have, and
    a model without BN is not run at all. Mode and momentum of every layer, buffers of the
    model's own, and the generators of random numbers, are put back whatever happens; where the
    pass raises, so are the statistics.

    Args:
        loader: yields a tensor or array; a tuple or list that begins with the input; or a dict,
            passed by keyword where `forward` names its keys, else as it is.
        model: a paddle.nn.Layer.
        device: move each batch there first: cpu, gpu, gpu:N; None leaves it where it is.
        over_ranks: the loader of each process of `paddle.distributed` has a share of the batches,
            and the mean is over all of them; every process must call it.

    Raises:
        ArgumentError: an unknown place.
        RuntimeError: an average is applied to the model; its statistics, or those of the live
            model, would be lost.
        ValueError: the loader yields nothing, or dicts of which the model takes no key.
    Source: https://pytorch.org/docs/stable/optim.html, torch.optim.swa_utils.update_bn.
    """
    if is_any_exchanged(model.parameters()):
        raise RuntimeError(
            "an average is applied to the model; call restore() first, and then "
            'recompute_statistics(loader) of an average with buffers="recompute"'
        )
    compute_statistics(loader, model, parse_place(device), over_ranks)


def compute_statistics(
    loader: Iterable[Any], model: Any, place: Any = None, over_ranks: bool = False
) -> None:
    """Do what `update_bn` does, also for a model that holds an average."""
    layers = [layer for layer in batch_norm_layers(model) if not layer._use_global_stats]
    if not layers:
        return
    num_batches = 0
    with paddle.no_grad(), _kept(model), _cumulative(layers) as calls:
        model.train()
        for batch in loader:
            _call(model, batch, place)
            num_batches += 1
        if over_ranks:
            num_batches = _combine(layers, calls, num_batches)
        if num_batches == 0:
            raise ValueError("update_bn needs at least one batch, the loader yielded none")


@contextmanager
def _kept(model: Any) -> Iterator[None]:
    """Put back modes, buffers of the model's own, and random numbers, whatever happens.

    The generators are Paddle's, NumPy's and Python's: a forward pass may draw from any.
    """
    modes = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    # A forward pass in train mode may count into a buffer, or put another tensor in its place.
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    generators, of_numpy = paddle.get_rng_state(), np.random.get_state()
    of_python = random.getstate()
    try:
        yield
    finally:
        for layer, was_training in modes:
            layer.training = was_training
        for name, buffer in model.named_buffers():
            if name in buffers:
                buffer.copy_(buffers[name], True)
        paddle.set_rng_state(generators)
        np.random.set_state(of_numpy)
        random.setstate(of_python)


def _combine(layers: list[Any], calls: dict[int, int], num_batches: int) -> int:
    """Make the statistics the mean over the calls of all ranks; return the batches of all."""
    total, *counts = map(int, ranks.sum_of([num_batches, *(calls[id(la)] for la in layers)]))
    for layer, count in zip(layers, counts):
        for statistic in (layer._mean, layer._variance):
            # Of a layer that was not called here they are 0.
            statistic.scale_(calls[id(layer)] / max(count, 1))
        calls[id(layer)] = count
    ranks.all_reduce_sum([s for layer in layers for s in (layer._mean, layer._variance)])
    return total


@contextmanager
def _cumulative(layers: list[Any]) -> Iterator[dict[int, int]]:
    """Make BN layers average over all calls from here on; put momenta back.

    Gives the calls of each layer, by its id, which count up.
    """
    momenta = [(layer, layer._momentum) for layer in layers]
    statistics = [
        (layer, tensor, tensor.clone())
        for layer in layers
        for tensor in (layer._mean, layer._variance)
    ]
    calls = dict.fromkeys(map(id, layers), 0)

    def count_call(layer: Any, _: Any) -> None:
        calls[id(layer)] += 1
        # Paddle's momentum is the share that stays: 0 at the first call, so nothing is left of
        # the old statistics.
        layer._momentum = 1.0 - 1.0 / calls[id(layer)]

    hooks = [layer.register_forward_pre_hook(count_call) for layer in layers]
    try:
        for _, tensor, _ in statistics:
            # 0 * NaN is NaN: statistics that are broken would survive the momentum of 0.
            tensor.zero_()
        yield calls
    except BaseException:
        # Of a pass that broke off no layer keeps anything.
        calls.update(dict.fromkeys(calls, 0))
        raise
    finally:
        for hook in hooks:
            hook.remove()
        for layer, momentum in momenta:
            layer._momentum = momentum
        for layer, tensor, kept in statistics:
            if not calls[id(layer)]:
                tensor.copy_(kept, True)


def _call(model: Any, batch: Any, place: Any) -> None:
    if isinstance(batch, Mapping):
        moved = {key: _to_tensor(value, place) for key, value in batch.items()}
        names = set(inspect.signature(model.forward).parameters)
        wanted = {key: value for key, value in moved.items() if key in names}
        if wanted:
            model(**wanted)
            return
        try:
            model(moved)
        # Whatever a forward raises that does not take the dict.
        except Exception as error:
            takes, has = ", ".join(sorted(names)), ", ".join(map(str, batch))
            raise ValueError(
                f"the model's forward takes {takes}, and a batch of the loader has {has}"
            ) from error
        return
    first = batch[0] if isinstance(batch, (tuple, list)) else batch
    model(_to_tensor(first, place))


def _to_tensor(value: Any, place: Any) -> Any:
    if isinstance(value, np.ndarray):
        return paddle.to_tensor(value, place=place)
    return at_place(value, place) if paddle.is_tensor(value) else value
