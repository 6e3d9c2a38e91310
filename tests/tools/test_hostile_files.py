"""Hostile files through every tool that takes one: one line, the exit code, nothing done (P4)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import paddle
import pytest
from checkpoint.hostile import CASES, HARMLESS, SENTINEL
from in_process import REPOSITORY, run_in

from ppema.checkpoint import read_weight_file, replace_weight_file
from ppema.checkpoint.files import sha256_of

# Every fifth, so that each family is there.
SHARE = sorted(set(CASES) - HARMLESS)[::5]
# A run of two epochs of 3 steps, with snapshots.
RUN = Path("output/lenet_mnist_posthoc")
CONFIG = REPOSITORY / "configs/lenet_mnist_posthoc.yml"
KEYS = ("epoch=1", "TrainReader.batch_size=512", "use_vdl=false", "posthoc_every=3")
RESUME = ("train", "-c", CONFIG, "-r", "auto", "-o", *KEYS, "epoch=2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    run_in(folder, "train", "-c", CONFIG, "-o", *KEYS)
    return folder / "output"


@pytest.fixture
def checkpoint(run_tool, trained):
    """Return the checkpoint of a finished run in the current folder."""
    shutil.copytree(trained, "output", symlinks=True)
    (path,) = RUN.glob("step_*")
    return path


@pytest.fixture
def assert_refused(refuse):
    """Return a function that requires a tool to refuse a file by its name, and nothing to run."""

    def run(path, *command):
        assert str(path) in refuse(3, *command)
        assert not Path(SENTINEL).exists()

    return run


def reseal(checkpoint, name):
    """Put the file's digest into the manifest, as whoever made a hostile checkpoint would."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    file = checkpoint / name
    manifest["files"][name].update(size=file.stat().st_size, sha256=sha256_of(file))
    write_manifest(checkpoint, manifest)


def write_manifest(checkpoint, manifest):
    """Write a manifest with its own digest, which is no secret."""
    facts = {key: value for key, value in manifest.items() if key != "digest"}
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    facts["digest"] = hashlib.sha256(text.encode()).hexdigest()
    text = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
    (checkpoint / "manifest.json").write_text(text, encoding="utf-8")


def test_eval_and_soup_refuse_them(assert_refused):
    digits = REPOSITORY / "configs/lenet_digits.yml"
    for name in SHARE:
        Path("w.pdparams").write_bytes(CASES[name])
        assert_refused("w.pdparams", "eval", "-c", digits, "-o", "weights=w.pdparams")
        assert_refused("w.pdparams", "average", "soup", "w.pdparams", "w.pdparams")


def test_train_refuses_a_checkpoint_that_holds_one(assert_refused, run_tool, checkpoint):
    for file, share in [
        ("model.pdparams", SHARE[::2]),
        ("optimizer.pdopt", SHARE[1::8]),
        ("state.pdstates", SHARE[3::8]),
    ]:
        whole = (checkpoint / file).read_bytes()
        for name in share:
            (checkpoint / file).write_bytes(CASES[name])
            reseal(checkpoint, file)
            assert_refused(file, *RESUME)
        (checkpoint / file).write_bytes(whole)
        reseal(checkpoint, file)
    result = run_tool(*RESUME)
    assert result.code == 0, result.err


def test_train_refuses_states_that_no_run_wrote(assert_refused, checkpoint):
    file = checkpoint / "state.pdstates"
    genuine = read_weight_file(file)
    for changes in [
        None,
        {"averages": 3},
        {"averages": {"ema": [1]}},
        {"progress": {}},
        {"rng": {}},
        {"rng": "x\ny"},
        {"hooks": 3},
        {"hooks": {"snapshots": {"taken": [3]}}},
    ]:
        replace_weight_file(file, {} if changes is None else {**genuine, **changes})
        reseal(checkpoint, file.name)
        assert_refused(checkpoint.name, *RESUME)


def test_posthoc_refuses_a_snapshot_that_is_one(assert_refused, checkpoint):
    snapshot = sorted((RUN / "snapshots").glob("*.pdparams"))[0]
    posthoc = ("average", "posthoc", "-c", CONFIG, "--sigma_rel", "0.13", "-o", *KEYS)
    for name in SHARE:
        snapshot.write_bytes(CASES[name])
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        for entry in manifest["snapshots"]:
            if snapshot.name == f"{entry['average']}_{entry['step']:09d}.pdparams":
                entry.update(size=snapshot.stat().st_size, sha256=sha256_of(snapshot))
        write_manifest(checkpoint, manifest)
        assert_refused(snapshot.name, *posthoc)


def test_a_file_whose_names_are_numbers_is_no_weights(refuse):
    paddle.save({1: paddle.ones([2]), 2: paddle.ones([2])}, "numbers.pdparams")
    digits = REPOSITORY / "configs/lenet_digits.yml"
    for command in (
        ("eval", "-c", digits, "-o", "weights=numbers.pdparams"),
        ("average", "soup", "numbers.pdparams", "numbers.pdparams"),
    ):
        assert refuse(3, *command) == "numbers.pdparams: not weights (holds 1, 2)"


def test_a_pipe_is_not_waited_for(refuse):
    os.mkfifo("pipe")
    digits = REPOSITORY / "configs/lenet_digits.yml"
    for code, *command in [
        (3, "eval", "-c", digits, "-o", "weights=pipe"),
        (3, "average", "soup", "pipe", "pipe"),
        (3, "train", "-c", digits, "-r", "pipe"),
        (2, "train", "-c", "pipe"),
    ]:
        assert "pipe" in refuse(code, *command)
