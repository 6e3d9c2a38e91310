"""The processes of `paddle.distributed` that train together, here called ranks as there.

What one rank calls, all must call, in the same order. A process alone needs no other: each call
gives back what it was given, at once.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, Iterator, Sequence

import numpy as np
import paddle
import paddle.distributed as dist

from .place import at_place
from .views import flat_view, is_viewable

# Up to about so many bytes, a message each way between two ranks is quicker than gloo's all-reduce,
# whose many messages wait for each other.
_FEW_BYTES = 500_000
# What the launcher tells each process before Paddle is there.
_LOCAL_SIZE = "PADDLE_LOCAL_SIZE"


class _State:
    """Whether this process acts for itself at the moment, though it is one of several."""

    is_alone = False


def num_ranks() -> int:
    """Return how many processes train together; 1 before `init_parallel_env`."""
    if _State.is_alone or not dist.is_initialized():
        return 1
    return int(dist.get_world_size())


def rank() -> int:
    """Return the number of this process among them, from 0."""
    return int(dist.get_rank()) if num_ranks() > 1 else 0


def is_first() -> bool:
    """Tell whether this is the process that logs and saves."""
    return rank() == 0


def num_ranks_here() -> int:
    """Return how many processes the launcher started on this machine, which share its cores."""
    text = os.environ.get(_LOCAL_SIZE, "")
    return int(text) if text.isdecimal() and int(text) > 0 else 1


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Have this process act for itself for the length of a `with` block, whatever others do."""
    was_alone, _State.is_alone = _State.is_alone, True
    try:
        yield
    finally:
        _State.is_alone = was_alone


def all_reduce_sum(tensors: Sequence[Any]) -> None:
    """Replace each tensor, of any shape and place, by its sum over all ranks: the same bits on all.

    Those of a dtype are sent together: many small messages take longer than one.
    """
    _all_reduce(tensors, 1.0)


def all_reduce_mean(tensors: Sequence[Any]) -> None:
    """Replace each floating-point tensor by its mean over all ranks."""
    _all_reduce(tensors, 1.0 / num_ranks())


def sum_of(values: Sequence[float]) -> list[float]:
    """Return the sum of each number over all ranks, in float64."""
    return _reduced(values, dist.ReduceOp.SUM)


def largest_of(values: Sequence[float]) -> list[float]:
    """Return the largest of each number over all ranks, in float64."""
    return _reduced(values, dist.ReduceOp.MAX)


def gather(value: Any) -> list[Any]:
    """Return what each rank gave, in their order: any object that can be pickled."""
    if num_ranks() == 1:
        return [value]
    values: list[Any] = []
    dist.all_gather_object(values, value)
    return values


def broadcast(value: Any) -> Any:
    """Return what the first rank gave; what the others give is not looked at."""
    if num_ranks() == 1:
        return value
    values = [value if is_first() else None]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def broadcast_tensors(tensors: Sequence[Any], source: int) -> None:
    """Give tensors, of any shape and place, the values that they have on the rank `source`.

    Those of a dtype are sent together.
    """
    if num_ranks() == 1:
        return
    is_source = rank() == source
    with paddle.no_grad():
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors if tensor.size):
            alike = [tensor for tensor in tensors if tensor.dtype == dtype and tensor.size]
            if is_source:
                flat = _flat_to_send(alike)
            else:
                flat = paddle.empty([sum(tensor.size for tensor in alike)], dtype)
            # Of complex numbers gloo knows nothing, and ends the process.
            sent = paddle.as_real(flat) if flat.is_complex() else flat
            dist.broadcast(sent, src=source)
            if not is_source:
                flat = paddle.as_complex(sent) if flat.is_complex() else sent
                received = paddle.split(flat, [tensor.size for tensor in alike])
                for tensor, values in zip(alike, received):
                    tensor.copy_(values.reshape(tensor.shape), True)


def barrier() -> None:
    """Wait until all ranks are here."""
    if num_ranks() > 1:
        dist.barrier()


def _flat_to_send(tensors: Sequence[Any]) -> Any:
    flat = paddle.concat([tensor.detach().reshape([-1]) for tensor in tensors])
    # NCCL sends from a GPU only, where an average need not lie.
    return at_place(flat, paddle.framework._current_expected_place())


def _all_reduce(tensors: Sequence[Any], scale: float) -> None:
    """Replace each tensor by its sum over all ranks, scaled."""
    if num_ranks() == 1:
        return
    filled = [tensor for tensor in tensors if 0 not in tensor.shape]
    # NCCL sends from a GPU only, wherever the tensors lie.
    is_sent_from_host = paddle.get_device() == "cpu"
    with paddle.no_grad():
        for dtype in dict.fromkeys(tensor.dtype for tensor in filled):
            alike = [tensor for tensor in filled if tensor.dtype == dtype]
            if is_sent_from_host and all(map(is_viewable, alike)):
                _all_reduce_views(alike, scale)
            else:
                _all_reduce_tensors(alike, scale)


def _all_reduce_views(tensors: Sequence[Any], scale: float) -> None:
    # By NumPy: Paddle's operations on ten small tensors take as long as the message.
    views = [flat_view(tensor) for tensor in tensors]
    sent = paddle.empty([sum(map(len, views))], tensors[0].dtype)
    whole = flat_view(sent)
    np.concatenate(views, out=whole)
    if num_ranks() == 2 and whole.nbytes <= _FEW_BYTES:
        other = paddle.empty(sent.shape, sent.dtype)
        for source in (0, 1):
            dist.broadcast(sent if source == rank() else other, src=source)
        # a + b and b + a are the same bits.
        np.add(whole, flat_view(other), whole)
    else:
        dist.all_reduce(sent)
    if scale != 1.0:
        np.multiply(whole, whole.dtype.type(scale), whole)
    start = 0
    for view in views:
        view[:] = whole[start : start + len(view)]
        start += len(view)


def _all_reduce_tensors(tensors: Sequence[Any], scale: float) -> None:
    sent = _flat_to_send(tensors)
    dist.all_reduce(sent)
    if scale != 1.0:
        sent.scale_(scale)
    received = paddle.split(sent, [tensor.size for tensor in tensors])
    for tensor, total in zip(tensors, received):
        tensor.copy_(total.reshape(tensor.shape), True)


def _reduced(values: Sequence[float], operation: Any) -> list[float]:
    if num_ranks() == 1:
        return list(values)
    tensor = paddle.to_tensor(list(values), dtype="float64")
    dist.all_reduce(tensor, op=operation)
    return [float(value) for value in tensor.numpy()]
