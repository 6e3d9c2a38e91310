"""What test_two_ranks.py looks at: run by the launcher on two ranks, each writes what it saw.

Each function below is a case: it returns arrays by name, which are saved as `<case>/<name>`.
"""

from __future__ import annotations

import copy
import functools
import sys
from pathlib import Path

import numpy as np
import paddle
import paddle.distributed as dist
from networks import Oddities
from paddle.distributed import fleet

import ppema
from ppema.averaging import ranks
from ppema.averaging.batch_norm import batch_norm_layers, synchronize_buffers

KINDS = {
    "ema": lambda model: ppema.ExponentialMovingAverage(model, decay=0.9),
    "ema64": lambda model: ppema.ExponentialMovingAverage(
        model, decay=0.9, shadow_dtype="float64", debias=True, update_every=2, exclude=["head.*"]
    ),
    "swa": lambda model: ppema.StochasticWeightAverage(model, 2, 2, buffers="copy"),
    "lawa": lambda model: ppema.LatestWeightAverage(model, 3),
    "power": lambda model: ppema.PowerFunctionEMA(model, 0.1),
}


def make_model(network=Oddities):
    """Return the same model on all ranks, whatever was made before."""
    paddle.seed(7)
    return network()


def move_weights(model, seed, rank):
    """Stand for a step: weights move alike on all ranks, BN statistics differ."""
    shared, own = np.random.default_rng(seed), np.random.default_rng([seed, rank])
    statistics = {id(t) for la in batch_norm_layers(model) for t in (la._mean, la._variance)}
    with paddle.no_grad():
        for parameter in model.parameters():
            generator = own if id(parameter) in statistics else shared
            change = generator.normal(scale=0.1, size=parameter.shape).astype("float32")
            if id(parameter) in statistics or not parameter.stop_gradient:
                parameter.set_value(parameter + paddle.to_tensor(change))


def arrays_of(state, prefix=""):
    """Return the arrays of an average's state or of a model's, by path."""
    arrays = {}
    for key, value in dict(state).items():
        if isinstance(value, dict):
            arrays.update(arrays_of(value, f"{prefix}{key}/"))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for index, item in enumerate(value):
                arrays.update(arrays_of(item, f"{prefix}{key}{index}/"))
        else:
            # A copy: what lies in a tensor's memory moves on.
            arrays[f"{prefix}{key}"] = np.array(value)
    return arrays


def num_weights(average):
    return sum(shadow.average.size for shadow in average._store.shadows)


def run_kind(kind):
    """Step a sharded average and its replicated twin side by side, on one model."""
    model = make_model()
    twin, spread = KINDS[kind](model), KINDS[kind](model)
    sharded = None
    for step in range(7):
        move_weights(model, step, ranks.rank())
        if step == 2:
            # What was averaged until now must stay.
            sharded = ppema.ShardedAverage(spread)
        if step == 4:
            for parameter in model.frozen.parameters():
                parameter.stop_gradient = False
        if step == 5:
            twin.skip()
            spread.skip()
            continue
        twin.update()
        (spread.update if sharded is None else sharded.update)()
    twin.all_reduce_statistics()
    wanted = twin.averaged_state_dict()
    if kind == "swa":
        synchronized = copy.deepcopy(model)
        synchronize_buffers(synchronized)
        for name in ("bn._mean", "bn._variance"):
            wanted[name] = synchronized.state_dict()[name]
    return {
        **arrays_of(wanted, "wanted/"),
        **arrays_of(sharded.averaged_state_dict(), "found/"),
        **arrays_of(twin.state_dict(), "wanted_state/"),
        **arrays_of(sharded.state_dict(), "found_state/"),
        "num_weights": [num_weights(twin), num_weights(sharded.local)],
    }


def errors_of(error, *calls):
    """Return what each call says as it raises."""
    said = []
    for call in calls:
        try:
            call()
        except error as raised:
            said.append(str(raised))
    return said


def case_in_the_model(folder):
    """The whole average in the model, and BN statistics recomputed, against a twin's."""
    model = make_model()
    images = paddle.to_tensor(np.random.default_rng(1).normal(size=(6, 4, 784)).astype("float32"))
    twin, other = KINDS["ema"](model), KINDS["ema"](model)
    anew_twin, anew_other = (
        ppema.ExponentialMovingAverage(model, decay=0.9, buffers="recompute") for _ in range(2)
    )
    sharded, anew = ppema.ShardedAverage(other), ppema.ShardedAverage(anew_other)
    for step in range(3):
        move_weights(model, step, ranks.rank())
        ppema.update_all([twin, anew_twin, sharded.local, anew.local])
    model.eval()
    raw = model(images[0]).numpy()
    found = {"raw": raw, "errors": errors_of(RuntimeError, anew.averaged_state_dict)}
    twin.all_reduce_statistics()
    with sharded.average_parameters():
        found["found"] = model(images[0]).numpy()
        calls = sharded.update, sharded.averaged_state_dict, sharded.state_dict
        found["errors"] += errors_of(RuntimeError, *calls)
    found["raw_after"] = model(images[0]).numpy()
    with twin.average_parameters():
        found["wanted"] = model(images[0]).numpy()
    anew_twin.recompute_statistics(iter(images))
    anew.recompute_statistics(iter(images[ranks.rank() :: 2]), over_ranks=True)
    found["raw_at_the_end"] = model(images[0]).numpy()
    found.update(arrays_of(anew_twin.averaged_state_dict(), "wanted_anew/"))
    found.update(arrays_of(anew.averaged_state_dict(), "found_anew/"))
    return found


def case_from_one(folder):
    """What one process wrote goes on over two, and into one again (the file of rank 0)."""
    model = make_model()
    sharded = ppema.ShardedAverage(KINDS["lawa"](model))
    sharded.set_state_dict(paddle.load(str(folder / "one.pdparams")))
    for step in range(5):
        # BN statistics are alike on both, as there is one of each in the one process.
        move_weights(model, step, 0)
        if step >= 3:
            sharded.update()
    state = sharded.state_dict(everywhere=False)
    if ranks.is_first():
        paddle.save(state, str(folder / "two.pdparams"))
    served = sharded.averaged_state_dict(everywhere=False)
    return {"num_entries": [len(state), len(served)]}


def case_refused(folder):
    """A state that does not fit is refused by both ranks, whichever holds what is wrong."""
    sharded = ppema.ShardedAverage(KINDS["ema"](make_model()))
    before = arrays_of(sharded.local.state_dict()["shadow"])
    state = sharded.state_dict()
    errors = []
    for name in state["shadow"]:
        less = {key: value + 1 for key, value in state["shadow"].items() if key != name}
        for shadow in (less, {**less, name: paddle.zeros([3, 1])}):
            misfit = {**state, "shadow": shadow}
            errors += errors_of(ValueError, lambda misfit=misfit: sharded.set_state_dict(misfit))
    after = arrays_of(sharded.local.state_dict()["shadow"])
    model = sharded.local.model
    model.head.weight = model.create_parameter([16, 10])
    errors += errors_of(
        RuntimeError, sharded.averaged_state_dict, lambda: sharded.set_state_dict(state)
    )
    same = all(np.array_equal(before[name], after[name]) for name in before)
    return {"errors": errors, "num_tensors": len(state["shadow"]), "same": same}


def slice_by_hand(model, threshold=16, alignment=64):
    """Cut parameters as GroupShardedStage3 does: flat, padded, a slice for each rank."""
    for parameter in model.parameters():
        if parameter.size > threshold and not hasattr(parameter, "fw_storage"):
            set_slice(parameter, parameter.numpy(), alignment)
            parameter._clear_data()


def set_slice(parameter, whole, alignment=64):
    size = -(-whole.size // alignment) * alignment // ranks.num_ranks()
    padded = np.zeros(ranks.num_ranks() * size, "float32")
    padded[: whole.size] = whole.reshape(-1)
    # Another tensor each time, as there.
    parameter.fw_storage = paddle.to_tensor(padded[ranks.rank() * size :][:size])


def follow(cut, whole):
    """Give a model that is cut the weights of one that is whole."""
    with paddle.no_grad():
        for parameter, source in zip(cut.parameters(), whole.parameters()):
            parameter.stop_gradient = source.stop_gradient
            if hasattr(parameter, "fw_storage"):
                set_slice(parameter, source.numpy())
            else:
                parameter.set_value(source)


class Follower:
    """An optimizer of a model that is cut: it leaves other slices after each step."""

    def __init__(self, cut, whole):
        self.models = cut, whole

    def step(self):
        follow(*self.models)


def case_slices(folder):
    """Averages of slices against a twin of the whole model."""
    whole, cut = make_model(), make_model()
    slice_by_hand(cut)
    twin = KINDS["lawa"](whole)
    sharded = ppema.ShardedAverage(KINDS["lawa"](ppema.FlatSlices(cut)))
    for step in range(5):
        move_weights(whole, step, ranks.rank())
        follow(cut, whole)
        if step == 3:
            for parameter in whole.frozen.parameters():
                parameter.stop_gradient = False
        twin.update()
        sharded.update()
    twin.all_reduce_statistics()
    state = sharded.state_dict()
    continued = ppema.ShardedAverage(KINDS["lawa"](ppema.FlatSlices(cut)))
    continued.set_state_dict(twin.state_dict())
    num_entries = [
        len(sharded.state_dict(everywhere=False)),
        len(sharded.averaged_state_dict(everywhere=False)),
    ]
    move_weights(whole, 9, ranks.rank())
    found = {
        **arrays_of(twin.averaged_state_dict(), "wanted/"),
        **arrays_of(sharded.averaged_state_dict(), "found/"),
        **arrays_of(twin.state_dict(), "wanted_state/"),
        **arrays_of(state, "found_state/"),
        "num_entries": num_entries,
    }
    optimizer = Follower(cut, whole)
    continued.local.attach(optimizer)
    optimizer.step()
    twin.update()
    twin.all_reduce_statistics()
    found.update(arrays_of(twin.averaged_state_dict(), "wanted_next/"))
    found.update(arrays_of(continued.averaged_state_dict(), "found_next/"))
    found["num_weights"] = [num_weights(twin), num_weights(sharded.local)]
    return found


def case_slices_refused(folder):
    whole, cut = make_model(), make_model()
    slice_by_hand(cut)
    slices = ppema.FlatSlices(cut)
    recomputed = ppema.ExponentialMovingAverage(slices, buffers="recompute")
    errors = errors_of(ValueError, lambda: ppema.ShardedAverage(recomputed))
    with ranks.alone():
        errors += errors_of(ValueError, lambda: ppema.FlatSlices(cut))
    sharded = ppema.ShardedAverage(KINDS["ema"](slices))
    errors += errors_of(RuntimeError, sharded.average_parameters().__enter__)
    # As within a forward pass.
    cut.first.weight.fw_storage = None
    errors += errors_of(RuntimeError, sharded.update)
    errors += errors_of(ValueError, lambda: ppema.FlatSlices(whole))
    return {"errors": errors}


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
    for name, function in globals().items():
        if name.startswith("case_"):
            cases[name[5:]] = functools.partial(function, folder)
    found = {}
    for case, run in cases.items():
        for name, array in run().items():
            found[f"{case}/{name}"] = np.array(array)
    np.savez(folder / f"rank{dist.get_rank()}.npz", **found)


if __name__ == "__main__":
    main()
