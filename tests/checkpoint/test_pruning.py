"""Deletion comes after the next checkpoint is there: never fewer than min(k, saved) are whole."""

from __future__ import annotations

import os
import random

import pytest
from faulty_disk import FaultyDisk
from small_store import filled, run_of, save, whole_steps
from torture_record import pending, recorded

from ppema.checkpoint import BEST, FINAL, CheckpointStore
from ppema.errors import CheckpointError

pytestmark = pytest.mark.reliability


class CountingDisk(FaultyDisk):
    """Call a function before each change: what a reader, or a crash, would find then."""

    def __init__(self, folder, look):
        super().__init__(folder)
        self._look = look

    def note(self, kind, path, other=None):
        self._look()
        super().note(kind, path, other)


def prune_at_random(folder, seed):
    """Save, name a best and prune, looking before each change; return how often it was looked."""
    choose = random.Random(seed)
    keep = choose.randint(1, 4)
    store, saved, looks = CheckpointStore(folder, keep), [], []

    def look():
        whole = whole_steps(store)
        looks.append(len(whole))
        assert len(whole) >= min(keep, len(saved))
        assert set(saved[-keep:]) <= set(whole)
        # The best may be a link that is just being made, never one to nothing.
        if os.path.lexists(folder / BEST):
            assert store.linked(BEST).step in whole

    with CountingDisk(folder, look):
        for _ in range(12):
            step = (saved[-1] if saved else 0) + choose.randint(1, 9)
            save(store, step)
            saved.append(step)
            if choose.random() < 0.3:
                store.link(BEST, step)
            store.prune()
            look()
    best = store.linked(BEST)
    assert set(store.steps()) == {*saved[-keep:], *([best.step] if best else [])}
    return len(looks)


@pytest.mark.parametrize("seed", range(3))
def test_no_moment_has_fewer_than_k_whole_ones(tmp_path, seed):
    assert prune_at_random(tmp_path / "run", seed) > 100


@pytest.mark.torture
def test_no_moment_has_fewer_than_k_whole_ones_however_long(tmp_path):
    for case in pending("pruning", range(100, 200)):
        with recorded("pruning", case) as figures:
            figures["looks"] = prune_at_random(tmp_path / str(case), case)


def test_damaged_ones_do_not_count_among_those_that_stay(tmp_path):
    store = filled(tmp_path / "run", keep=2)
    store = CheckpointStore(store.folder, keep=2)
    os.truncate(store.path(20) / "ema.pdparams", 3)
    save(store, 40)
    store.prune()
    assert store.steps() == [40, 30]
    os.truncate(store.path(30) / "ema.pdparams", 3)
    store = CheckpointStore(store.folder, keep=2)
    save(store, 50)
    os.truncate(store.path(40) / "manifest.json", 3)
    save(store, 60)
    store.prune()
    assert whole_steps(store) == [60, 50]
    assert store.steps() == [60, 50]


def test_a_damaged_one_does_not_take_the_place_of_the_only_other_whole_one(tmp_path):
    store = CheckpointStore(filled(tmp_path / "run").folder, keep=2)
    os.truncate(store.path(30) / "ema.pdparams", 3)
    store.prune()
    assert store.steps() == [30, 20, 10]
    assert whole_steps(store) == [20, 10]


def test_what_was_given_up_is_not_gone_back_to(tmp_path):
    store = filled(tmp_path / "run")
    store.replace_after(10)

    def killed(steps):
        raise KeyboardInterrupt

    store._drop_replaced = killed
    with pytest.raises(KeyboardInterrupt):
        save(store, 15, run=1)
    assert store.steps() == [30, 20, 15, 10]
    found = CheckpointStore(store.folder, 3).newest()
    assert (found.step, run_of(found)) == (15, 1)
    # Its own later checkpoints of those steps are another matter.
    resumed = CheckpointStore(store.folder, 3)
    resumed.replace_after(15)
    save(resumed, 20, run=1)
    assert resumed.steps() == [20, 15, 10]
    assert run_of(resumed.newest()) == 1
    # Better than nothing, where nothing else is whole.
    os.truncate(resumed.path(20) / "ema.pdparams", 3)
    os.truncate(resumed.path(15) / "ema.pdparams", 3)
    assert resumed.newest().step == 10
    os.truncate(resumed.path(10) / "ema.pdparams", 3)
    with pytest.raises(CheckpointError, match="3 damaged"):
        resumed.newest()


def test_links_into_what_was_replaced_go_with_it(tmp_path):
    store = filled(tmp_path / "run")
    store.link(BEST, 30)
    store.link(FINAL, 30)
    store.replace_after(10)
    save(store, 15, run=1)
    assert store.linked(BEST) is store.linked(FINAL) is None
