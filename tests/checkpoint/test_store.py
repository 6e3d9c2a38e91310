"""The checkpoint store: whole or absent, checked before use, pruned after the next is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import paddle
import pytest

from ppema import run_lock
from ppema.checkpoint import (
    BEST,
    FINAL,
    Checkpoint,
    CheckpointStore,
    manifest,
    store,
)
from ppema.errors import CheckpointError, FolderInUseError, StorageError
from ppema.run_lock import RunLock


def files(value):
    return {"model.pdparams": ("raw", lambda: {"w": paddle.full([4], float(value))})}


@pytest.fixture
def three(tmp_path):
    """Return a store with the checkpoints of steps 10, 20 and 30."""
    saved = CheckpointStore(tmp_path / "run", keep=3)
    for step in (10, 20, 30):
        saved.save(step, files(step), {"epoch": 1})
    return saved


def test_a_checkpoint_holds_what_was_saved_and_says_so(three):
    checkpoint = three.newest()
    assert checkpoint.path.name == "step_000000030"
    assert checkpoint.read("model.pdparams")["w"].tolist() == [30.0] * 4
    facts = checkpoint.manifest["files"]["model.pdparams"]
    assert facts["role"] == "raw"
    assert facts["size"] == (checkpoint.path / "model.pdparams").stat().st_size
    assert sorted(os.listdir(three.folder)) == [f"step_0000000{n}0" for n in (1, 2, 3)]


def damage_file(path, change):
    content = bytearray(path.read_bytes())
    path.write_bytes(change(content))


def flip(content):
    content[len(content) // 2] ^= 1
    return bytes(content)


@pytest.mark.parametrize("name", ["model.pdparams", "manifest.json"])
@pytest.mark.parametrize(
    "change", [flip, lambda c: bytes(c[:-1]), lambda c: bytes(c) + b"x", lambda c: b""]
)
def test_a_damaged_newest_is_left_for_the_one_before(three, name, change, caplog):
    damage_file(three.path(30) / name, change)
    assert three.newest().step == 20
    assert f"step_000000030/{name}" in caplog.text
    assert "using step_000000020" in caplog.text


def test_a_missing_file_or_a_renamed_folder_is_noticed(three):
    (three.path(30) / "model.pdparams").unlink()
    os.rename(three.path(20), three.path(25))
    assert three.newest().step == 10


def test_a_manifest_whose_own_digest_is_wrong_is_not_believed(three):
    path = three.path(30) / "manifest.json"
    facts = json.loads(path.read_text())
    facts["epoch"] = 99
    path.write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match=r"manifest\.json: checksum differs"):
        Checkpoint(three.path(30))


def test_all_damaged_is_an_error_and_none_is_none(three, tmp_path):
    for step in (10, 20, 30):
        damage_file(three.path(step) / "model.pdparams", flip)
    with pytest.raises(CheckpointError, match=r"no usable checkpoint in .* \(3 damaged\)"):
        three.newest()
    assert CheckpointStore(tmp_path / "nothing", 3).newest() is None


def test_pruning_keeps_the_newest_and_the_linked(three):
    three.link(BEST, 10)
    three.link(FINAL, 30)
    for step in (40, 50):
        three.save(step, files(step), {})
        three.prune()
    assert three.steps() == [50, 40, 30, 10]
    assert three.linked(BEST).step == 10
    three.link(BEST, 50)
    three.prune()
    assert three.steps() == [50, 40, 30]
    assert os.readlink(three.folder / BEST) == "step_000000050"


def test_saving_the_same_step_again_leaves_a_whole_one_and_mends_a_damaged_one(three):
    three.save(30, files(31), {})
    assert three.newest().read("model.pdparams")["w"][0] == 30.0
    damage_file(three.path(30) / "model.pdparams", flip)
    three.save(30, files(31), {})
    assert three.newest().read("model.pdparams")["w"][0] == 31.0


def test_a_full_disk_leaves_the_checkpoints_before(three, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_weight_file", full)
    with pytest.raises(StorageError, match="cannot save step 40: no space left; step 30 kept"):
        three.save(40, files(40), {})
    assert three.steps() == [30, 20, 10]
    assert not list(three.folder.glob(".tmp-*"))


def test_a_disk_that_turns_read_only_is_said_with_what_is_kept(three, monkeypatch):
    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(StorageError, match="cannot save step 40: read-only file system; step 30 k"):
        three.save(40, files(40), {})
    assert three.steps() == [30, 20, 10]


def test_an_interrupted_save_is_not_a_checkpoint(three):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        three.save(40, {**files(40), "ema.pdparams": ("average", interrupted)}, {})
    assert three.newest().step == 30
    three.clear_leftovers()
    assert not list(three.folder.glob(".tmp-*"))


def test_what_is_replaced_goes_only_once_the_next_is_saved(three):
    three.link(BEST, 30)
    three.link(FINAL, 10)
    three.replace_after(10)
    assert three.steps() == [30, 20, 10]
    three.save(20, files(21), {})
    assert three.steps() == [20, 10]
    assert three.newest().read("model.pdparams")["w"][0] == 21.0
    assert three.linked(BEST) is None
    assert three.linked(FINAL).step == 10
    three.save(30, files(31), {})
    assert three.steps() == [30, 20, 10]


def test_a_disk_that_refuses_to_read_is_not_a_damaged_checkpoint(three, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(store, "sha256_of", refuse)
    with pytest.raises(StorageError, match=r"model\.pdparams: permission denied"):
        three.newest()


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '"\\ud800"', "[]", "3", "null", '{"step": 30, "format": 1}']
)
def test_a_manifest_of_anything_else_is_damaged(three, text):
    (three.path(30) / "manifest.json").write_text(text)
    assert three.newest().step == 20


@pytest.mark.parametrize("key", ["step", "files"])
def test_a_manifest_without_what_every_reader_needs_is_damaged(three, key):
    path = three.path(30) / "manifest.json"
    facts = json.loads(path.read_text())
    facts.pop(key)
    path.write_text(manifest.render(facts))
    assert three.newest().step == 20


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"model.pdparams": 3}},
        {"files": {"model.pdparams": {"size": 1}}},
        {"files": {"../../etc/passwd": {"size": 1, "sha256": ""}}},
        {"files": {"a\0b": {"size": 1, "sha256": ""}}},
        {"files": {300 * "a": {"size": 1, "sha256": ""}}},
        {"replaces": 3},
        {"replaces": [[]]},
    ],
)
def test_a_manifest_that_someone_made_up_is_damaged(three, change):
    path = three.path(30) / "manifest.json"
    path.write_text(manifest.render({**json.loads(path.read_text()), **change}))
    assert three.newest().step == 20


def test_a_checkpoint_of_another_format_is_neither_used_nor_passed_over(three):
    # As if damaged, it would be deleted once the run has gone on from the one before.
    path = three.path(30) / "manifest.json"
    path.write_text(manifest.render({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(CheckpointError, match=r"30/manifest\.json: format 2, this ppema reads 1$"):
        three.newest()


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_not_waited_for(three, make):
    file, path = three.path(30) / "model.pdparams", three.path(30) / "manifest.json"
    file.unlink()
    make(file)
    facts = json.loads(path.read_text())
    facts["files"][file.name]["size"] = 0
    path.write_text(manifest.render(facts))
    assert three.newest().step == 20


def test_a_manifest_that_is_sparse_is_not_read_into_memory(three):
    os.truncate(three.path(30) / "manifest.json", 1 << 40)
    assert three.newest().step == 20


def test_what_cannot_be_read_neither_counts_nor_ends_a_run_that_prunes(three, monkeypatch):
    real = store.sha256_of

    def refuse(path):
        if path.parent.name == "step_000000020":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(store, "sha256_of", refuse)
    pruning = CheckpointStore(three.folder, keep=2)
    pruning.prune()
    assert pruning.steps() == [30, 20, 10]


def test_a_block_that_cannot_be_read_is_damage(three, monkeypatch, caplog):
    real = store.sha256_of

    def fail(path):
        if path.parent.name == "step_000000030":
            raise OSError(5, "Input/output error")
        return real(path)

    monkeypatch.setattr(store, "sha256_of", fail)
    assert three.newest().step == 20
    assert "step_000000030/model.pdparams: Input/output error; using" in caplog.text


def test_what_a_killed_save_had_set_aside_stands_again(three, caplog):
    os.rename(three.path(30), three.folder / ".tmp-aside-step_000000030")
    three.put_back()
    assert three.newest().step == 30
    assert "step_000000030 was not replaced in the end; it stands again" in caplog.text
    three.put_back()
    assert three.steps() == [30, 20, 10]


def test_the_disk_is_waited_for_before_a_checkpoint_gets_its_name(tmp_path, monkeypatch):
    events = []
    real = {name: getattr(os, name) for name in ("fsync", "rename", "replace")}

    def record(name):
        def call(*arguments):
            if name == "fsync":
                path = os.readlink(f"/proc/self/fd/{arguments[0]}")
                events.append(("fsync", os.path.basename(path)))
            else:
                events.append((name, os.path.basename(str(arguments[1]))))
            return real[name](*arguments)

        return call

    for name in real:
        monkeypatch.setattr(os, name, record(name))
    saved = CheckpointStore(tmp_path / "run", keep=3)
    saved.save(7, files(7), {})
    saved.link(BEST, 7)
    assert events == [
        ("fsync", tmp_path.name),
        ("fsync", "model.pdparams"),
        ("fsync", "manifest.json"),
        ("fsync", ".tmp-step_000000007"),
        ("rename", "step_000000007"),
        ("fsync", "run"),
        ("replace", "best_model"),
        ("fsync", "run"),
    ]


HOLD_LOCK = """
import sys, pathlib
from ppema.run_lock import RunLock
lock = RunLock(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(FolderInUseError, match=f"is in use by process {holder.pid}"):
            RunLock(tmp_path)
        holder.kill()
        holder.wait()
    lock = RunLock(tmp_path)
    assert (tmp_path / ".lock").read_text() == str(os.getpid())
    lock.release()
    RunLock(tmp_path).release()


def test_a_lock_on_a_file_that_was_taken_away_is_none(tmp_path, monkeypatch):
    real = run_lock.fcntl.flock

    def flock_after_removal(file, flags):
        (tmp_path / ".lock").unlink()
        real(file, flags)

    monkeypatch.setattr(run_lock.fcntl, "flock", flock_after_removal)
    with pytest.raises(FolderInUseError, match="was being cleared by another process"):
        RunLock(tmp_path)
