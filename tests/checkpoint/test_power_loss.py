"""The power is cut between any two changes: the newest checkpoint or the one before is used."""

from __future__ import annotations

import itertools
import os
import random
import shutil

import pytest
from faulty_disk import FaultyDisk
from power_loss import TEARS, read_tree, states_after, write_tree
from small_store import filled, run_of, save, whole_steps
from torture_record import pending, recorded

from ppema.checkpoint import BEST, FINAL, CheckpointStore
from ppema.checkpoint.files import make_folder
from ppema.engine.resume import find_start, prepare_folder

pytestmark = pytest.mark.reliability

KEEP = 2


def next_step(store):
    """Save, link and prune as a run does."""
    save(store, 40, run=1)
    store.link(BEST, 40)
    store.link(FINAL, 40)
    store.prune()


def after_a_resume(store):
    """Save where a checkpoint was gone back from: 30 and 20 go once the new 20 is there."""
    store.replace_after(10)
    save(store, 20, run=1)
    store.prune()


def over_a_damaged_one(store):
    """Save a step again whose checkpoint was found damaged."""
    os.truncate(store.path(30) / "ema.pdparams", 5)
    store.replace_after(20)
    save(store, 30, run=1)
    store.prune()


def anew(store):
    """Start again in the folder of another run: its first save is of a step that stands there."""
    store.replace_after(-1)
    save(store, 30, run=1)
    store.prune()


# What is done, the steps that stand before, which (step, run) may be found by -r auto, and which
# once the save has returned.
SCENARIOS = {
    "next": (next_step, (10, 20, 30), {(30, 0), (40, 1)}, (40, 1)),
    "resumed": (after_a_resume, (10, 20, 30), {(30, 0), (20, 1)}, (20, 1)),
    "damaged": (over_a_damaged_one, (10, 20, 30), {(30, 0), (20, 0), (30, 1)}, (30, 1)),
    "anew": (anew, (30,), {(30, 0), (30, 1)}, (30, 1)),
    "first": (lambda store: save(store, 10, run=1), (), {None, (10, 1)}, (10, 1)),
}


class Record:
    """The changes that a scenario makes to a folder."""

    def __init__(self, name, folder):
        act, steps, self.allowed, self.wanted = SCENARIOS[name]
        self.folder = folder
        store = filled(folder, KEEP, steps)
        folder.mkdir(exist_ok=True)
        shutil.copytree(folder, folder.with_name("before"))
        with FaultyDisk(folder) as disk:
            act(store)
        self.changes = disk.changes
        target = str(store.path(self.wanted[0]))
        named = [n for n, c in enumerate(self.changes) if c.kind == "rename" and c.other == target]
        # From then on the disk has confirmed it.
        self.is_saved_at = named[-1] + 3
        assert self.changes[named[-1] + 2].kind == "fsync"

    def before(self):
        return read_tree(self.folder.with_name("before"))

    def states(self, choose, limit):
        """Yield each state once: the changes done before the cut, the tree, and how it is torn."""
        known = set()
        for num_done in range(len(self.changes) + 1):
            for tree in states_after(
                self.folder, self.before, self.changes, num_done, choose, limit
            ):
                for tear in TEARS:
                    key = (num_done >= self.is_saved_at, str(sorted(facts(tree, tear))))
                    if key not in known:
                        known.add(key)
                        yield num_done, tree, tear


def facts(tree, tear):
    """Yield something that tells a state from every other."""
    for name, item in tree.items():
        if isinstance(item, dict):
            yield name, str(sorted(facts(item, tear)))
        else:
            yield name, item if isinstance(item, str) else str(hash(item.found(tear)))


def resume(record, num_done, tree, tear, folder):
    """Look for a start in what the disk holds, and go on from it."""
    write_tree(tree, folder, tear)
    store = CheckpointStore(folder, KEEP)
    start = find_start(store, "auto", False)
    found = (start.step, run_of(start)) if start else None
    assert found in record.allowed
    if num_done >= record.is_saved_at:
        assert found == record.wanted
    prepare_folder(store, start, is_done=False)
    assert not list(folder.glob(".tmp-*"))
    if start:
        assert start.step in whole_steps(store)
    # A second cut, or none: what is saved next is what is found then.
    save(store, 50, run=2)
    store.prune()
    assert run_of(store.newest()) == 2
    assert len(whole_steps(store)) >= (2 if start else 1)
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_a_power_cut_leaves_is_enough(tmp_path, name):
    record = Record(name, tmp_path / "run")
    states = list(record.states(random.Random(1), limit=8))
    for state in random.Random(2).sample(states, min(80, len(states))):
        resume(record, *state, tmp_path / "found")


def test_the_disk_knows_the_folders_above_a_run_too(tmp_path):
    folder = tmp_path / "output/lenet"
    with FaultyDisk(tmp_path) as disk:
        make_folder(folder)
    synced = [change.path for change in disk.changes if change.kind == "fsync"]
    assert synced == [str(tmp_path / "output"), str(tmp_path)]
    with FaultyDisk(tmp_path) as disk:
        make_folder(folder)
    assert disk.changes == []


@pytest.mark.torture
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_state_that_a_power_cut_leaves_is_enough(tmp_path, name):
    for case in pending("power loss", [name]):
        with recorded("power loss", case) as figures:
            record = Record(case, tmp_path / "run")
            figures["changes"] = len(record.changes)
            states = record.states(random.Random(3), limit=256)
            for figures["states"] in itertools.count():
                state = next(states, None)
                if state is None:
                    break
                resume(record, *state, tmp_path / "found")
            assert figures["states"] > 100
