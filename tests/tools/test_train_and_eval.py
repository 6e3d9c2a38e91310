"""The main job through the command line: train, evaluate, resume, and use the files elsewhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from in_process import REPOSITORY, run_in

# Digits in two short epochs: what is tested is not how well they are learned.
SHORT = ("-o", "epoch=2", "TrainReader.batch_size=256")
FOLDER = Path("output/lenet_digits")


def figures(text):
    """Return {name: "top1 …"} of the last table in what a tool printed."""
    found = re.findall(r"^(\w+) +(top1 [\d.]+ %  top2 [\d.]+ %  loss [\d.]+)", text, re.M)
    return dict(found)


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """Return a folder with a finished run, and what training said."""
    folder = tmp_path_factory.mktemp("trained")
    digits = REPOSITORY / "configs/lenet_digits.yml"
    return folder, run_in(folder, "train", "-c", digits, "--eval", *SHORT)


@pytest.fixture
def trained(run_tool, trained_once):
    """Return what training said; the run is in the current folder."""
    folder, said = trained_once
    shutil.copytree(folder / "output", "output", symlinks=True)
    return said


def test_a_run_s_folder_holds_what_the_design_says(trained):
    names = {path.name for path in FOLDER.iterdir()}
    steps = sorted(name for name in names if name.startswith("step_"))
    assert names - set(steps) == {
        *("config.yml", "train.log", "metrics.jsonl", "vdl", "curves.png", ".lock"),
        *("best_model", "model_final"),
    }
    assert {path.name for path in (FOLDER / steps[-1]).iterdir()} == {
        *("model.pdparams", "ema.pdparams", "optimizer.pdopt", "state.pdstates", "manifest.json")
    }
    assert {path.name for path in (FOLDER / "vdl").iterdir()} == {"train", "raw", "ema"}
    assert "Epoch: [2/2]" in (FOLDER / "train.log").read_text()


def test_digits_are_named_wherever_a_figure_stands(run_tool, config):
    result = run_tool("train", "-c", config("lenet_mnist"), "--eval", *SHORT)
    assert result.code == 0, result.err
    assert "WARNING" in result.out
    for text in (result.out, Path("output/lenet_mnist/train.log").read_text()):
        first_lines = "\n".join(text.splitlines()[:12])
        assert "digits" in first_lines
        evaluations = [line for line in text.splitlines() if "Eval: epoch" in line]
        assert len(evaluations) == 2
        assert all("digits" in line and "not MNIST" in line for line in evaluations)
    manifest = json.loads(Path("output/lenet_mnist/model_final/manifest.json").read_text())
    assert manifest["data"]["kind"] == "digits"
    evaluated = run_tool("eval", "-c", config("lenet_mnist"))
    assert "digits" in evaluated.out
    assert "not MNIST" in evaluated.out


def test_eval_prints_the_figures_that_training_printed(trained, run_tool, config):
    evaluated = run_tool("eval", "-c", config("lenet_digits"))
    assert evaluated.code == 0, evaluated.err
    best = json.loads((FOLDER / "best_model/manifest.json").read_text())
    tables = re.split(r"Eval: epoch", trained)[1:]
    (printed,) = [text for text in tables if f"step {best['step']}" in text.splitlines()[0]]
    assert figures(evaluated.out) == figures(printed)
    assert set(figures(evaluated.out)) == {"raw", "ema"}
    assert f"raw, ema of lenet_digits/step_{best['step']:09d}" in evaluated.out
    assert "the run's best" in evaluated.out
    assert "place: cpu" in evaluated.out or "place: gpu:0" in evaluated.out
    for name in ("raw", "ema"):
        alone = run_tool("eval", "-c", config("lenet_digits"), "--average", name)
        assert figures(alone.out) == {name: figures(evaluated.out)[name]}


def test_a_process_of_its_own_prints_the_same(trained, run_tool, config):
    evaluated = run_tool("eval", "-c", config("lenet_digits"))
    command = [sys.executable, REPOSITORY / "tools/eval.py", "-c", config("lenet_digits")]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert process.stdout == evaluated.out
    assert process.stderr == ""


def test_the_averaged_file_loads_with_plain_paddle_and_gives_the_same_accuracy(trained):
    from ppema.data.digits import load_digits

    weights = paddle.load(str(FOLDER / "model_final/ema.pdparams"))
    model = paddle.vision.models.LeNet()
    missing, unexpected = model.set_state_dict(weights)
    assert (missing, unexpected) == ([], [])
    model.eval()
    dataset = load_digits("test")
    image = (dataset.images.astype("float32") - 127.5) / 127.5
    with paddle.no_grad():
        predicted = model(paddle.to_tensor(image)).argmax(axis=1).numpy()
    top1 = float(np.mean(predicted == dataset.labels))
    manifest = json.loads((FOLDER / "model_final/manifest.json").read_text())
    assert top1 == pytest.approx(manifest["metrics"]["ema"]["top1"], abs=1e-12)


def test_typed_twice_the_command_says_how_to_go_on_and_changes_nothing(trained, run_tool, config):
    before = (FOLDER / "metrics.jsonl").read_text()
    again = run_tool("train", "-c", config("lenet_digits"), "--eval", *SHORT)
    assert again.code == 2
    assert "output/lenet_digits holds a checkpoint (step " in again.err
    assert "-r auto" in again.err
    assert "--overwrite" in again.err
    assert len(again.err.splitlines()) == 1
    assert (FOLDER / "metrics.jsonl").read_text() == before
    finished = run_tool("train", "-c", config("lenet_digits"), "--eval", *SHORT, "-r", "auto")
    assert finished.code == 0
    assert "output/lenet_digits is finished (epoch 2)" in finished.out
    overwritten = run_tool("train", "-c", config("lenet_digits"), *SHORT, "--overwrite")
    assert overwritten.code == 0
    assert not (FOLDER / "best_model").exists()


def bits_of_run(folder):
    files = ("model.pdparams", "ema.pdparams")
    return [paddle.load(str(folder / "model_final" / name)) for name in files]


def test_a_resumed_run_ends_with_the_bits_of_the_uninterrupted_one(trained, run_tool, config):
    shutil.move(str(FOLDER), "straight")
    first = run_tool(
        "train", "-c", config("lenet_digits"), "--eval", *SHORT, "-o", "epoch=1", "snapshot_iter=3"
    )
    assert first.code == 0, first.err
    # As a crash in mid-epoch leaves it: the newest checkpoint is of a step inside the epoch.
    newest = sorted(FOLDER.glob("step_*"))[-1]
    shutil.rmtree(newest)
    (FOLDER / "model_final").unlink()
    (FOLDER / "best_model").unlink()
    second = run_tool("train", "-c", config("lenet_digits"), "--eval", *SHORT, "-r", "auto")
    assert second.code == 0, second.err
    assert "continuing " in second.out
    assert "changed since then: epoch was 1, is 2" in second.out
    assert "changed since then: snapshot_iter was 3, is 0" in second.out
    for left, right in zip(bits_of_run(Path("straight")), bits_of_run(FOLDER)):
        assert list(left) == list(right)
        assert all(left[name].numpy().tobytes() == right[name].numpy().tobytes() for name in left)
    evaluations = [
        [line for line in (folder / "metrics.jsonl").read_text().splitlines() if "eval" in line]
        for folder in (Path("straight"), FOLDER)
    ]
    assert evaluations[0] == evaluations[1]


def test_eval_takes_a_run_a_checkpoint_or_a_file(trained, run_tool, config):
    final = FOLDER / "model_final"
    for weights in (FOLDER, final, final.resolve()):
        result = run_tool("eval", "-c", config("lenet_digits"), "-o", f"weights={weights}")
        assert result.code == 0, result.err
        assert set(figures(result.out)) == {"raw", "ema"}
    single = run_tool("eval", "-c", config("lenet_digits"), "-o", f"weights={final}/ema.pdparams")
    assert list(figures(single.out)) == ["ema"]
    elsewhere = Path("mine.pdparams")
    shutil.copy(final / "ema.pdparams", elsewhere)
    copied = run_tool("eval", "-c", config("lenet_digits"), "-o", f"weights={elsewhere}")
    assert figures(copied.out) == {"mine": figures(single.out)["ema"]}


def test_check_prints_the_merged_config_and_trains_nothing(run_tool, config):
    result = run_tool(
        "train", "-c", config("lenet_digits"), "--check", "-o", "epoch=3", "-o", "seed=7"
    )
    assert result.code == 0, result.err
    lines = {line.split(":")[0].strip(): line for line in result.out.splitlines()}
    assert lines["epoch"].split() == ["epoch:", "3", "#", "-o", "epoch"]
    assert lines["seed"].endswith("# -o seed")
    assert re.search(r"configs/_base_/runtime\.yml:\d+$", lines["log_iter"])
    assert lines["accumulate_steps"].endswith("# default")
    assert not Path("output").exists()


@pytest.mark.parametrize(
    ("flag", "has_records"), [((), True), (("--use_vdl=false",), False), (("--use_vdl",), True)]
)
def test_use_vdl_can_be_switched_from_the_command_line(run_tool, config, flag, has_records):
    result = run_tool("train", "-c", config("lenet_digits"), *SHORT, "-o", "epoch=1", *flag)
    assert result.code == 0, result.err
    assert (FOLDER / "vdl").exists() == has_records


def test_vdl_log_dir_says_where_the_records_go(run_tool, config):
    run_tool("train", "-c", config("lenet_digits"), *SHORT, "--vdl_log_dir", "elsewhere")
    assert list(Path("elsewhere/lenet_digits/train").iterdir())
    assert not (FOLDER / "vdl").exists()


def test_a_bar_shows_on_a_terminal_and_plain_lines_in_the_file(tmp_path, config, monkeypatch):
    import os
    import pty

    monkeypatch.chdir(tmp_path)
    # Longer than the two seconds that a line waits.
    command = [sys.executable, REPOSITORY / "tools/train.py", "-c", config("lenet_digits")]
    command += ["-o", "epoch=4"]
    leader, follower = pty.openpty()
    process = subprocess.Popen(command, stdout=follower, stderr=follower)
    os.close(follower)
    shown = b""
    while True:
        try:
            block = os.read(leader, 65536)
        except OSError:
            break
        shown += block
    assert process.wait(timeout=120) == 0
    os.close(leader)
    text = shown.decode()
    assert re.search(r"\r\x1b\[Kepoch 4/4 \[#+\.*\] +\d+ %  loss [\d.]+  acc [\d.]+  eta ", text)
    for line in text.splitlines():
        assert "INFO" not in line or re.search(r"(^|\x1b\[K)\[\d\d/\d\d [\d:]+\] ", line), line
    assert "INFO: Epoch: [" not in text
    assert "INFO: Epoch: [1/4]" in (FOLDER / "train.log").read_text()


def test_a_window_in_epochs_or_percent_is_counted_in_this_run_s_steps(run_tool, config):
    averages = (
        "Averages.half={name: ExponentialMovingAverage, half_life: 50 %, schedule: constant}",
        "Averages.steps={name: ExponentialMovingAverage, half_life: 29, schedule: constant}",
        "Averages.swa={name: StochasticWeightAverage, start: 1 epochs}",
    )
    result = run_tool("train", "-c", config("lenet_digits"), *SHORT, "-o", *averages)
    assert result.code == 0, result.err
    records = [json.loads(line) for line in (FOLDER / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["step"] == 58
    decays = records[-1]["decay"]
    assert decays["half"] == decays["steps"] == 0.5 ** (1 / 29)
    assert decays["swa"] == 1.0 - 1.0 / 30
