"""Averages over two ranks of gloo: spread over them, and what ranks agree on.

One launch runs all the cases of two_ranks.py; each test looks at what one of them wrote.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
import two_ranks

import ppema
from ppema.averaging.sharded import assign_owners

TESTS = Path(__file__).resolve().parents[1]
PATHS = [str(TESTS.parent), str(TESTS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_ranks")
    paddle.save(average_of_one(steps=3).state_dict(), str(folder / "one.pdparams"))
    launch = ["paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", "log"]
    result = subprocess.run(
        [sys.executable, "-m", *launch, two_ranks.__file__, str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def ranks(folder):
    """Return what each rank wrote: arrays by case and name."""
    return [dict(np.load(folder / f"rank{rank}.npz")) for rank in (0, 1)]


def average_of_one(steps):
    """Return an average that one process made in so many steps."""
    model = two_ranks.make_model()
    average = two_ranks.KINDS["lawa"](model)
    for step in range(steps):
        two_ranks.move_weights(model, step, 0)
        average.update()
    return average


def part(arrays, prefix):
    found = {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)}
    assert found, prefix
    return found


def assert_same(found, wanted):
    """Every array to the bit, under the same names in the same order."""
    assert list(found) == list(wanted)
    for name in wanted:
        assert found[name].dtype == wanted[name].dtype, name
        np.testing.assert_array_equal(found[name], wanted[name], name)


def assert_close(found, wanted, rtol=1e-5):
    assert list(found) == list(wanted)
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol, 1e-7, err_msg=name)


@pytest.mark.parametrize("kind", list(two_ranks.KINDS))
def test_spread_average_is_the_whole_one_to_the_bit(ranks, kind):
    for arrays in ranks:
        assert_same(part(arrays, f"{kind}/found/"), part(arrays, f"{kind}/wanted/"))
        assert_same(part(arrays, f"{kind}/found_state/"), part(arrays, f"{kind}/wanted_state/"))
    assert_same(part(ranks[0], f"{kind}/found/"), part(ranks[1], f"{kind}/found/"))


@pytest.mark.parametrize("kind", list(two_ranks.KINDS))
def test_each_rank_averages_a_part(ranks, kind):
    (whole, first), (_, second) = (arrays[f"{kind}/num_weights"] for arrays in ranks)
    num_statistics = 0 if kind == "swa" else 2 * 16
    assert first + second == whole + num_statistics
    # One tensor of Oddities has most of its weights.
    assert min(first, second) < 0.2 * whole < 0.8 * whole < max(first, second)


def test_whole_average_is_in_the_model_for_a_block_and_no_longer(ranks):
    for arrays in ranks:
        found = part(arrays, "in_the_model/")
        np.testing.assert_array_equal(found["found"], found["wanted"])
        assert (found["found"] != found["raw"]).any()
        np.testing.assert_array_equal(found["raw_after"], found["raw"])
        np.testing.assert_array_equal(found["raw_at_the_end"], found["raw"])
        stale, *applied = found["errors"]
        assert "recompute_statistics(loader)" in stale
        assert len(applied) == 3
        assert all("needs the raw weights" in error for error in applied)
    np.testing.assert_array_equal(ranks[0]["in_the_model/found"], ranks[1]["in_the_model/found"])


def test_statistics_of_a_spread_average_are_recomputed_over_both(ranks):
    wanted = part(ranks[0], "in_the_model/wanted_anew/")
    for arrays in ranks:
        assert_close(part(arrays, "in_the_model/found_anew/"), wanted)
    assert (wanted["bn._mean"] != ranks[0]["ema/wanted/bn._mean"]).any()


def test_state_goes_from_one_process_to_two_and_back(folder, ranks):
    wanted = average_of_one(steps=5)
    stored = paddle.load(str(folder / "two.pdparams"))
    for make in (lambda average: average, ppema.ShardedAverage):
        continued = make(two_ranks.KINDS["lawa"](two_ranks.make_model()))
        continued.set_state_dict(stored)
        found = two_ranks.arrays_of(continued.state_dict())
        assert_same(found, two_ranks.arrays_of(wanted.state_dict()))


def test_only_the_first_rank_keeps_what_is_saved_where_asked(ranks):
    for case in ("from_one", "slices"):
        first, second = (arrays[f"{case}/num_entries"] for arrays in ranks)
        assert first.all()
        assert not second.any()


def test_both_ranks_refuse_what_does_not_fit(ranks):
    for arrays in ranks:
        found = part(arrays, "refused/")
        errors = list(found["errors"])
        assert len(errors) == 2 * int(found["num_tensors"]) + 2
        for error in errors[:-2]:
            assert "missing: " in error or "file [3,1], model [" in error
        assert all("make it anew" in error for error in errors[-2:])
        assert found["same"]
    np.testing.assert_array_equal(ranks[0]["refused/errors"], ranks[1]["refused/errors"])


def test_averages_of_slices_are_those_of_the_whole_to_the_bit(ranks):
    for arrays in ranks:
        for name in ("", "_state"):
            found = part(arrays, f"slices/found{name}/")
            assert_same(found, part(arrays, f"slices/wanted{name}/"))
        # Loaded from the state of a whole average, and moved on.
        assert_same(part(arrays, "slices/found_next/"), part(arrays, "slices/wanted_next/"))
        whole, held = arrays["slices/num_weights"]
        assert held < 0.55 * whole


def test_slices_say_what_cannot_be_done(ranks):
    for arrays in ranks:
        recompute, group, apply, gathered, uncut = arrays["slices_refused/errors"]
        assert recompute.startswith('buffers="recompute" needs the whole average')
        assert group.startswith("first.weight: slices of 6,272 on 1 of")
        assert apply.startswith("average_parameters() needs the whole model on each rank")
        assert gathered.startswith("first.weight is whole at the moment")
        assert uncut.startswith("no parameter of the model is cut into slices")


@pytest.mark.parametrize("share", ["uneven", "none", "one_calls"])
def test_update_bn_over_both_is_that_of_one_over_all_batches(ranks, share):
    for arrays in ranks:
        found = part(arrays, f"update_bn/{share}/found/")
        assert_close(found, part(arrays, f"update_bn/{share}/wanted/"))
        assert (found["second._mean"] != 0).all()
    assert_same(*(part(arrays, f"update_bn/{share}/found/") for arrays in ranks))


def test_update_bn_without_any_batch_is_refused_by_both(ranks):
    for arrays in ranks:
        (error,) = arrays["update_bn/errors"]
        assert "needs at least one batch" in error


def test_buffers_become_the_same_on_both(ranks):
    before, after = (
        [part(arrays, f"synchronize_buffers/{when}/") for arrays in ranks]
        for when in ("before", "after")
    )
    for name in ("bn._mean", "bn._variance"):
        mean = (before[0][name].astype(np.float64) + before[1][name]) / 2
        np.testing.assert_allclose(after[0][name], mean, 1e-6, 1e-7)
        np.testing.assert_array_equal(after[0][name], after[1][name])
    assert [int(arrays["num_batches"]) for arrays in before] == [5, 6]
    assert [int(arrays["num_batches"]) for arrays in after] == [5, 5]
    # Parameters that differ are none of its business.
    for was, now in zip(before, after):
        np.testing.assert_array_equal(now["head.bias"], was["head.bias"])


def test_statistics_of_an_average_become_the_mean_and_the_rest_stays(ranks):
    before, after = (
        [part(arrays, f"all_reduce_statistics/{when}/") for arrays in ranks]
        for when in ("before", "after")
    )
    assert_same(*after)
    for name, array in after[0].items():
        if name in ("bn._mean", "bn._variance"):
            mean = (before[0][name].astype(np.float64) + before[1][name]) / 2
            assert (before[0][name] != before[1][name]).any()
            np.testing.assert_allclose(array, mean, 1e-6, 1e-7)
        else:
            np.testing.assert_array_equal(array, before[0][name])


def test_reducing_statistics_half_way_does_not_disturb_what_follows(ranks):
    twice, once = (
        [part(arrays, f"all_reduce_statistics/{name}/") for arrays in ranks]
        for name in ("twice", "once")
    )
    assert_same(*twice)
    assert_same(*once)
    assert_close(twice[0], once[0], rtol=1e-6)


def test_ranks_tell_each_other_what_was_asked(ranks):
    for rank, arrays in enumerate(ranks):
        found = part(arrays, "ranks/")
        assert len(found) == 8 + rank
        assert all(found.values()), found


def test_loop_on_fleet_averages_alike_on_both_and_as_one_process(ranks):
    for name in ("by_hand", "attached", "sharded"):
        found = [part(arrays, f"fleet/{name}/") for arrays in ranks]
        assert_same(*found)
        assert_same(found[0], part(ranks[0], "fleet/by_hand/"))
        assert_close(found[0], part(ranks[0], "fleet/wanted/"))
    assert list(ranks[0]["fleet/num_updates"]) == [5, 5]


def test_owners_have_about_as_many_weights_each():
    sizes = {f"layer{index}": size for index, size in enumerate([50, 7, 90, 30, 30, 1, 0, 8])}
    owners = assign_owners(sizes, 3)
    loads = [sum(sizes[n] for n in sizes if owners[n] == rank) for rank in range(3)]
    assert loads == [90, 65, 61]
    # Whatever order they come in.
    assert assign_owners(dict(reversed(list(sizes.items()))), 3) == owners
    assert set(assign_owners({"a": 5, "b": 0, "c": 0}, 3).values()) == {0, 1, 2}


def test_more_ranks_than_tensors_are_refused():
    with pytest.raises(ValueError, match="2 averaged tensors cannot be spread over 3 processes"):
        assign_owners({"a": 1, "b": 2}, 3)
