"""What test_two_ranks.py looks at: run by the launcher on two ranks, each writes what it saw.

A case is a function of this file or of shards.py: it returns arrays by name, which are saved as
`<case>/<name>`.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import numpy as np
import paddle
import paddle.distributed as dist
import shards
from paddle.distributed import fleet
from shards import KINDS, arrays_of, errors_of, make_model, move_weights, run_kind

import ppema
from ppema.averaging import ranks
from ppema.averaging.batch_norm import synchronize_buffers


class TwoNorms(paddle.nn.Layer):
    """The second BN is called only for images of a positive sum."""

    def __init__(self):
        super().__init__()
        self.first, self.second = paddle.nn.BatchNorm1D(3), paddle.nn.BatchNorm1D(3)

    def forward(self, image):
        normed = self.first(image)
        return self.second(image) if float(image.sum()) > 0 else normed


def case_update_bn(folder):
    """BN statistics over shards against one pass over all; `signs` is of each batch its sum's."""
    found = {}
    generator = np.random.default_rng(5)
    shares = {"uneven": [3, 2], "none": [0, 4], "one_calls": [2, 3]}
    for name, counts in shares.items():
        # Of "one_calls" only rank 1 has images of a positive sum.
        signs = [r if name == "one_calls" else 1 for r in (0, 1) for _ in range(counts[r])]
        batches = [
            paddle.to_tensor(
                (generator.uniform(0.5, 2, size=(4, 3)) * (1 if sign else -1)).astype("float32")
            )
            for sign in signs
        ]
        alone, shared = make_model(TwoNorms), make_model(TwoNorms)
        ppema.update_bn(batches, alone)
        own = batches[: counts[0]] if ranks.is_first() else batches[counts[0] :]
        ppema.update_bn(own, shared, over_ranks=True)
        found.update(arrays_of(alone.state_dict(), f"{name}/wanted/"))
        found.update(arrays_of(shared.state_dict(), f"{name}/found/"))
    found["errors"] = errors_of(
        ValueError, lambda: ppema.update_bn([], make_model(TwoNorms), over_ranks=True)
    )
    return found


def case_synchronize_buffers(folder):
    model = make_model()
    move_weights(model, 3, ranks.rank())
    with paddle.no_grad():
        model.num_batches += 5 + ranks.rank()
        model.head.bias.add_(paddle.full([10], ranks.rank(), "float32"))
    found = arrays_of(model.state_dict(), "before/")
    synchronize_buffers(model)
    return {**found, **arrays_of(model.state_dict(), "after/")}


def case_all_reduce_statistics(folder):
    """One average is reduced half way as well, the other at the end alone."""
    model = make_model()
    twice, once = KINDS["ema"](model), KINDS["ema"](model)
    found = {}
    for step in range(6):
        move_weights(model, step, ranks.rank())
        ppema.update_all([twice, once])
        if step == 2:
            found.update(arrays_of(twice.state_dict()["shadow"], "before/"))
            twice.all_reduce_statistics()
            found.update(arrays_of(twice.state_dict()["shadow"], "after/"))
    for name, average in (("twice", twice), ("once", once)):
        average.all_reduce_statistics()
        found.update(arrays_of(average.averaged_state_dict(), f"{name}/"))
    return found


def case_ranks(folder):
    rank = ranks.rank()
    found = {
        "gather": ranks.gather({"rank": rank}) == [{"rank": 0}, {"rank": 1}],
        "broadcast": ranks.broadcast(f"of {rank}") == "of 0",
        "sum_of": ranks.sum_of([rank + 1.0, 0.5]) == [3.0, 1.0],
        "largest_of": ranks.largest_of([rank, -rank]) == [1.0, 0.0],
        "first": ranks.is_first() == (rank == 0) and ranks.num_ranks() == 2,
        "here": ranks.num_ranks_here() == 2,
    }
    tensors = [paddle.full([2, 2], rank), paddle.full([], rank, "float64"), paddle.zeros([0])]
    ranks.broadcast_tensors(tensors, 1)
    found["broadcast_tensors"] = [float(t.sum()) for t in tensors] == [4.0, 1.0, 0.0]
    with ranks.alone():
        # Without the other rank: this would wait for ever.
        if rank == 1:
            found["alone"] = ranks.num_ranks() == 1 and ranks.is_first() and ranks.gather(5) == [5]
    found["alone_after"] = ranks.num_ranks() == 2
    return found


class SmallNet(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.first, self.last = paddle.nn.Linear(6, 8), paddle.nn.Linear(8, 1)

    def forward(self, image):
        return self.last(paddle.tanh(self.first(image)))


def case_fleet(folder):
    """A loop of one's own on fleet's model and optimizer, two batches a step."""
    model, alone = make_model(SmallNet), make_model(SmallNet)
    plain = paddle.optimizer.Adam(0.01, parameters=alone.parameters())
    parallel = fleet.distributed_model(model)
    optimizer = fleet.distributed_optimizer(
        paddle.optimizer.Adam(0.01, parameters=model.parameters())
    )
    by_hand, attached, twin = (KINDS["ema"](m) for m in (model, model, alone))
    sharded = ppema.ShardedAverage(KINDS["ema"](model))
    attached.attach(optimizer)
    sharded.local.attach(optimizer)
    images = np.random.default_rng(2).normal(size=(5, 2, 2, 4, 6)).astype("float32")
    for step in images:
        # [batch, rank, image, feature]
        with parallel.no_sync():
            (parallel(paddle.to_tensor(step[0, ranks.rank()])) ** 2).mean().backward()
        (parallel(paddle.to_tensor(step[1, ranks.rank()])) ** 2).mean().backward()
        optimizer.step()
        optimizer.clear_grad()
        by_hand.update()
        for batch in step:
            (alone(paddle.to_tensor(batch.reshape(8, 6))) ** 2).mean().backward()
        plain.step()
        plain.clear_grad()
        twin.update()
    return {
        **arrays_of(twin.averaged_state_dict(), "wanted/"),
        **arrays_of(by_hand.averaged_state_dict(), "by_hand/"),
        **arrays_of(attached.averaged_state_dict(), "attached/"),
        **arrays_of(sharded.averaged_state_dict(), "sharded/"),
        "num_updates": [attached.num_updates, sharded.local.num_updates],
    }


def main():
    folder = Path(sys.argv[1])
    fleet.init(is_collective=True)
    cases = {kind: functools.partial(run_kind, kind) for kind in KINDS}
    for name, function in {**vars(shards), **globals()}.items():
        if name.startswith("case_"):
            cases[name[5:]] = functools.partial(function, folder)
    found = {}
    for case, run in cases.items():
        for name, array in run().items():
            found[f"{case}/{name}"] = np.array(array)
    np.savez(folder / f"rank{dist.get_rank()}.npz", **found)


if __name__ == "__main__":
    main()
