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
from conftest import REPOSITORY

from ppema.checkpoint import read_weight_file, replace_weight_file
from ppema.checkpoint.files import sha256_of

# Every fifth, so that each family is there.
SHARE = sorted(set(CASES) - HARMLESS)[::5]
# A run of two epochs of 3 steps, with snapshots.
RUN = Path("output/lenet_mnist_posthoc")
CONFIG = REPOSITORY / "configs/lenet_mnist_posthoc.yml"
KEYS = ("epoch=1", "TrainReader.batch_size=512", "use_vdl=false", "posthoc_every=3")


@pytest.fixture
def in_run(run_tool):
    """Return a function that runs a tool in a folder with a finished run."""
    result = run_tool("train", "-c", CONFIG, "-o", *KEYS)
    assert result.code == 0, result.err
    return run_tool


def contents(folder):
    return {path: path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def assert_refused(result, path):
    assert result.code == 3, (result.code, result.err)
    assert len(result.err.splitlines()) == 1, result.err
    assert str(path) in result.err
    assert not Path(SENTINEL).exists()


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


def test_eval_and_soup_refuse_them(run_tool, tmp_path):
    digits = REPOSITORY / "configs/lenet_digits.yml"
    for name in SHARE:
        Path("w.pdparams").write_bytes(CASES[name])
        assert_refused(run_tool("eval", "-c", digits, "-o", "weights=w.pdparams"), "w.pdparams")
        assert_refused(run_tool("average", "soup", "w.pdparams", "w.pdparams"), "w.pdparams")
    assert os.listdir(tmp_path) == ["w.pdparams"]


def test_train_refuses_a_checkpoint_that_holds_one(in_run):
    (checkpoint,) = RUN.glob("step_*")
    for file, share in [
        ("model.pdparams", SHARE[::2]),
        ("optimizer.pdopt", SHARE[1::8]),
        ("state.pdstates", SHARE[3::8]),
    ]:
        whole = (checkpoint / file).read_bytes()
        for name in share:
            (checkpoint / file).write_bytes(CASES[name])
            reseal(checkpoint, file)
            before = contents(checkpoint)
            result = in_run("train", "-c", CONFIG, "-r", "auto", "-o", *KEYS, "epoch=2")
            assert_refused(result, file)
            assert contents(checkpoint) == before
        (checkpoint / file).write_bytes(whole)
        reseal(checkpoint, file)
    result = in_run("train", "-c", CONFIG, "-r", "auto", "-o", *KEYS, "epoch=2")
    assert result.code == 0, result.err


def test_train_refuses_states_that_no_run_wrote(in_run):
    (checkpoint,) = RUN.glob("step_*")
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
        result = in_run("train", "-c", CONFIG, "-r", "auto", "-o", *KEYS, "epoch=2")
        assert_refused(result, checkpoint.name)
        assert result.err.strip().isprintable()


def test_posthoc_refuses_a_snapshot_that_is_one(in_run):
    snapshot = sorted((RUN / "snapshots").glob("*.pdparams"))[0]
    (checkpoint,) = RUN.glob("step_*")
    for name in SHARE:
        snapshot.write_bytes(CASES[name])
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        for entry in manifest["snapshots"]:
            if snapshot.name == f"{entry['average']}_{entry['step']:09d}.pdparams":
                entry.update(size=snapshot.stat().st_size, sha256=sha256_of(snapshot))
        write_manifest(checkpoint, manifest)
        result = in_run("average", "posthoc", "-c", CONFIG, "--sigma_rel", "0.13", "-o", *KEYS)
        assert_refused(result, snapshot.name)
    assert not (RUN / "posthoc").exists()


def test_a_file_whose_names_are_numbers_is_no_weights(run_tool):
    paddle.save({1: paddle.ones([2]), 2: paddle.ones([2])}, "numbers.pdparams")
    digits = REPOSITORY / "configs/lenet_digits.yml"
    result = run_tool("eval", "-c", digits, "-o", "weights=numbers.pdparams")
    assert (result.code, result.err) == (3, "numbers.pdparams: not weights (holds 1, 2)\n")
    result = run_tool("average", "soup", "numbers.pdparams", "numbers.pdparams")
    assert (result.code, result.err) == (3, "numbers.pdparams: not weights (holds 1, 2)\n")


def test_a_pipe_is_not_waited_for(run_tool):
    os.mkfifo("pipe")
    digits = REPOSITORY / "configs/lenet_digits.yml"
    for tool, arguments, code in [
        ("eval", ("-c", digits, "-o", "weights=pipe"), 3),
        ("average", ("soup", "pipe", "pipe"), 3),
        ("train", ("-c", digits, "-r", "pipe"), 3),
        ("train", ("-c", "pipe"), 2),
    ]:
        result = run_tool(tool, *arguments)
        assert (result.code, len(result.err.splitlines())) == (code, 1), result.err
        assert "pipe" in result.err
    shutil.rmtree("output", ignore_errors=True)
