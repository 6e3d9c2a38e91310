"""A disk that refuses any one change of a save: the checkpoints before it stand, and it is said."""

from __future__ import annotations

import contextlib
import errno
import shutil

import pytest
from faulty_disk import Fault, FaultyDisk
from small_store import filled, run_of, save, whole_steps

from ppema.checkpoint import BEST, FINAL, CheckpointStore
from ppema.engine.resume import find_start
from ppema.errors import StorageError

pytestmark = pytest.mark.reliability

REASONS = {
    errno.ENOSPC: "no space left",
    errno.EIO: "input/output error",
    errno.EROFS: "read-only file system",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Return a folder with steps 10, 20 and 30, the first of them the best."""
    store = filled(tmp_path_factory.mktemp("base") / "run")
    store.link(BEST, 10)
    return store.folder


def one_step(folder):
    """Save, link and prune as a run does after a step."""
    store = CheckpointStore(folder, keep=2)
    save(store, 40)
    store.link(BEST, 40)
    store.link(FINAL, 40)
    store.prune()


def num_changes(base, folder):
    shutil.copytree(base, folder, symlinks=True)
    with FaultyDisk(folder) as disk:
        one_step(folder)
    names = [change.kind for change in disk.changes]
    # Every file is created, written and waited for; then the folder, the name, the folder above.
    assert names.count("create") == 5
    assert names.count("fsync") == 5 + 2 + 2
    shutil.rmtree(folder)
    return len(names)


def refuse_one(base, folder, fault):
    """Do a step on a disk with a fault; return what was raised."""
    shutil.copytree(base, folder, symlinks=True)
    with FaultyDisk(folder, fault) as disk, caught() as said:
        one_step(folder)
    assert disk.has_refused
    store = CheckpointStore(folder, keep=2)
    whole = whole_steps(store)
    # Not even a name of what is not whole; what is to go is renamed before it is taken apart.
    assert whole == store.steps()
    assert len(whole) >= 2
    assert store.newest().step == whole[0]
    best = store.linked(BEST)
    best.verify()
    if said and str(said[0]).startswith("cannot save"):
        # Where the disk did not confirm the name of the new one, that is not relied on.
        assert str(said[0]) == f"cannot save step 40: {REASONS[fault.errno]}; step 30 kept"
        assert best.step == 10
    elif said:
        assert REASONS[fault.errno] in str(said[0]).lower()
    assert all(getattr(error, "exit_code", 6) == 6 for error in said)
    assert whole[0] == 40 or said
    # The disk is mended, and the run goes on.
    store.clear_leftovers()
    one_step(folder)
    assert whole_steps(store) == store.steps() == [40, 30]
    assert [run_of(store.linked(link)) for link in (BEST, FINAL)] == [0, 0]
    assert not list(folder.glob(".tmp-*"))
    shutil.rmtree(folder)
    return said


@contextlib.contextmanager
def caught():
    """Give a list, and put into it what is raised: an OSError ends a tool with code 6 as well."""
    said = []
    try:
        yield said
    except (StorageError, OSError) as error:
        said.append(error)


def all_faults(count):
    for number in range(count):
        for code in REASONS:
            for lasts in (False, True):
                yield Fault(number, code, lasts, torn=code == errno.ENOSPC)


def test_every_change_of_a_save_may_be_refused(base, tmp_path):
    folder = tmp_path / "run"
    faults = list(all_faults(num_changes(base, folder)))
    said = [refuse_one(base, folder, fault) for fault in faults]
    # All but the deletion of what is already out of the way is said.
    assert sum(not errors for errors in said) < len(said) / 3


def test_what_a_refused_save_was_to_replace_stands(tmp_path):
    base, folder = filled(tmp_path / "base", steps=(30,)).folder, tmp_path / "run"
    refused, number = 0, -1
    while refused == number + 1:
        number += 1
        for lasts in (False, True):
            shutil.copytree(base, folder)
            store = CheckpointStore(folder, keep=2)
            store.replace_after(-1)
            with FaultyDisk(folder, Fault(number, errno.EIO, lasts)) as disk, caught():
                save(store, 30, run=1)
            # A disk that goes on refusing cannot give a name back; the next start does.
            start = find_start(store, "auto", False) if lasts else store.newest()
            assert start.step == 30
            is_new = (folder / "step_000000030") in named(disk.changes[:number], folder)
            assert run_of(start) == int(is_new), (number, lasts, disk.changes[number:])
            shutil.rmtree(folder)
        refused += disk.has_refused
    assert number > 20


def named(changes, folder):
    """Return what got its name by a rename in the folder."""
    return [folder / str(change.other) for change in changes if change.kind == "rename"]
