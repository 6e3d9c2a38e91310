"""Snapshots for post-hoc averages: listed, whole, the same after a resume, and never lost."""

from __future__ import annotations

import hashlib
import logging

import paddle
import pytest
from test_resume import Stop
from trainers import bits, make_reader, make_trainer

from ppema import PowerFunctionEMA
from ppema.checkpoint import CheckpointStore, read_weight_file
from ppema.engine.hooks import CheckpointHook, EvaluateHook
from ppema.engine.record import Recorder
from ppema.engine.run_state import restore
from ppema.engine.snapshots import Snapshot, SnapshotHook
from ppema.errors import CheckpointError, StorageError

# Two epochs of five steps; a snapshot every third and at the end of each.
TAKEN = (3, 5, 6, 9, 10)


def make(folder, stop=None, every=3, snapshot_iter=0):
    """Return a trainer with two power-function EMAs that are snapshotted, and its store."""
    folder.mkdir(parents=True, exist_ok=True)
    store = CheckpointStore(folder, keep=99)
    snapshots = SnapshotHook(folder / "snapshots", every)
    evaluate = EvaluateHook(make_reader(20), Recorder(folder, None), "best", is_enabled=False)
    save = CheckpointHook(store, 1, snapshot_iter, {}, evaluate, snapshots)
    hooks = [evaluate, snapshots, save] + ([Stop(stop)] if stop else [])
    # As the builder does: a weight file holds Paddle's automatic names too.
    with paddle.utils.unique_name.guard():
        trainer = make_trainer(make_reader(), hooks)
    for sigma_rel in (0.05, 0.1):
        name = f"power_{int(100 * sigma_rel)}"
        trainer.averages[name] = PowerFunctionEMA(trainer.model, sigma_rel)
    return trainer, store


def run_until(folder, step, **options):
    trainer, store = make(folder, stop=step, **options)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    return store


def digests(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (folder / "snapshots").glob("*")
    }


def listed(store):
    return {
        Snapshot(**entry).file_name: entry["sha256"]
        for entry in store.newest().manifest["snapshots"]
    }


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    trainer, store = make(folder)
    trainer.train()
    return digests(folder), listed(store)


def test_snapshots_are_taken_every_so_many_steps_and_listed_by_digest(straight):
    on_disk, in_manifest = straight
    names = {f"power_{w}_{step:09d}.pdparams" for w in (5, 10) for step in TAKEN}
    assert set(on_disk) == names
    assert in_manifest == on_disk


def test_a_snapshot_is_the_average_at_its_step(tmp_path):
    trainer, store = make(tmp_path)
    trainer.train()
    newest = [Snapshot(**entry) for entry in store.newest().manifest["snapshots"]][-1]
    assert (newest.average, newest.sigma_rel, newest.step, newest.time) == ("power_10", 0.1, 10, 10)
    state = newest.read(tmp_path / "snapshots")
    assert bits(state) == bits(trainer.averages["power_10"].averaged_state_dict())


@pytest.mark.parametrize("step", [2, 3, 5, 7, 9])
def test_a_resumed_run_has_the_same_snapshots(tmp_path, straight, step):
    run_until(tmp_path, step, snapshot_iter=1)
    trainer, store = make(tmp_path)
    restore(trainer, store.newest())
    trainer.train()
    assert (digests(tmp_path), listed(store)) == straight


def test_snapshots_after_the_checkpoint_are_cut(tmp_path, straight):
    store = run_until(tmp_path, 9)
    (tmp_path / "snapshots/power_5_000000009.pdparams").write_bytes(b"torn")
    trainer, _ = make(tmp_path)
    restore(trainer, store.newest())
    assert trainer.step == 5
    trainer.train()
    assert (digests(tmp_path), listed(store)) == straight


def test_a_run_that_is_started_again_loses_no_snapshot_before_its_first_checkpoint(tmp_path):
    trainer, store = make(tmp_path)
    trainer.train()
    before = digests(tmp_path)
    store.replace_after(-1)
    for step in (4, 3, 1):
        # Twice and again: what is put aside is of the run that has the checkpoints.
        run_until(tmp_path, step)
        for path in (tmp_path / "snapshots").glob("power_*"):
            path.write_bytes(b"of a run that broke off")
    trainer, store = make(tmp_path)
    restore(trainer, store.newest())
    trainer.hooks[1].before_run(trainer)
    kept = {name: digest for name, digest in digests(tmp_path).items() if name in before}
    assert kept == before
    assert [s.file_name for s in trainer.hooks[1].taken] == list(listed(store))


def test_once_the_new_run_has_a_checkpoint_the_old_snapshots_go(tmp_path):
    trainer, _ = make(tmp_path, every=2)
    trainer.train()
    run_until(tmp_path, 6)
    assert set(digests(tmp_path)) == {
        f"power_{w}_{step:09d}.pdparams" for w in (5, 10) for step in (3, 5, 6)
    }


def test_what_a_user_keeps_beside_the_snapshots_stays(tmp_path):
    run_until(tmp_path, 3)
    mine = tmp_path / "snapshots/mine"
    mine.mkdir()
    (mine / "power_5_000000003.pdparams").write_text("kept")
    (tmp_path / "snapshots/notes.txt").write_text("mine")
    run_until(tmp_path, 6)
    assert (mine / "power_5_000000003.pdparams").read_text() == "kept"
    assert (tmp_path / "snapshots/notes.txt").read_text() == "mine"


def test_a_listed_snapshot_that_is_gone_or_damaged_is_left_out_with_a_line(tmp_path, caplog):
    store = run_until(tmp_path, 8, snapshot_iter=1)
    (tmp_path / "snapshots/power_5_000000003.pdparams").unlink()
    (tmp_path / "snapshots/power_10_000000006.pdparams").write_bytes(b"x")
    trainer, _ = make(tmp_path)
    restore(trainer, store.newest())
    with caplog.at_level(logging.WARNING, logger="ppema"):
        trainer.train()
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    lines = [record.getMessage() for record in warnings]
    assert [line.split("snapshots/")[1] for line in lines] == [
        "power_5_000000003.pdparams is missing or damaged; it is left out",
        "power_10_000000006.pdparams is missing or damaged; it is left out",
    ]
    assert len(listed(store)) == 2 * len(TAKEN) - 2


def test_without_an_interval_none_are_taken_and_the_list_goes_on(tmp_path):
    store = run_until(tmp_path, 4, snapshot_iter=1)
    trainer, _ = make(tmp_path, every=None)
    restore(trainer, store.newest())
    trainer.train()
    assert sorted(listed(store)) == sorted(digests(tmp_path))
    assert {s.step for s in trainer.hooks[1].taken} == {3}


def test_a_changed_file_is_not_read(tmp_path):
    store = run_until(tmp_path, 5)
    snapshot = Snapshot(**store.newest().manifest["snapshots"][0])
    path = tmp_path / "snapshots" / snapshot.file_name
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(CheckpointError, match=r"power_5_000000003\.pdparams: checksum differs"):
        snapshot.read(tmp_path / "snapshots")
    path.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        snapshot.read(tmp_path / "snapshots")


def test_a_disk_that_refuses_leaves_no_half_file(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    trainer, _ = make(tmp_path)
    monkeypatch.setattr("ppema.checkpoint.files.sync_folder", refuse)
    with pytest.raises(StorageError, match="snapshot of power_5 at step 3: no space left"):
        trainer.train()
    monkeypatch.setattr("ppema.checkpoint.files.os.replace", refuse)
    trainer, _ = make(tmp_path / "other")
    with pytest.raises(StorageError):
        trainer.train()
    assert list((tmp_path / "other/snapshots").iterdir()) == []
    assert read_weight_file(tmp_path / "snapshots/power_5_000000003.pdparams")
