"""Studies as a user runs them: those that ship, one to its end in spite of kills, and refusals."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from in_process import REPOSITORY, call, enter, run_in

from ppema.run_lock import RunLock
from ppema.study.schema import StudyKeys

SHIPPED = sorted(path.stem for path in (REPOSITORY / "configs/studies").glob("*.yml"))
STUDY = f"""\
base: {REPOSITORY}/configs/lenet_digits.yml
set:
  {{epoch: 2, validation: 0.3, train_samples: 1024, eval_iter: 4, snapshot_iter: 2, log_iter: 2,
    posthoc_every: 4, Averages.power: {{name: PowerFunctionEMA, sigma_rel: 0.1}},
    Averages.wide: {{name: PowerFunctionEMA, sigma_rel: 0.2}}}}
axes:
  noise: {{none: {{}}, 40 %: {{label_noise: 0.4}}}}
seeds: [3]
checkpoint: best
reach: [0.3]
posthoc: [0.15]
"""
TIMES = ("seconds",)


def start(folder):
    """Start the study in a process of its own, which leads a group."""
    command = [sys.executable, str(REPOSITORY / "tools/compare.py"), "-c", "some.yml"]
    return subprocess.Popen(
        [*command, "--workers", "2"],
        cwd=folder,
        env={**os.environ, "HOME": str(folder), "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def runs_in(folder):
    return [path.parent for path in folder.glob("output/some/runs/*/*/*/config.yml")]


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(condition, process):
    while not condition():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)


def without_times(value):
    """Return a result without what a clock says."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if not k.startswith(TIMES)}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def result_of(folder):
    return json.loads((folder / "output/some/result.json").read_text())


def finish(folder):
    """Run the study to its end from this process; its runs are processes of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        return run_in(folder, "compare", "-c", "some.yml", "--workers", "2")


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Return the folder of a study that was killed, stopped, and finished, and what it said."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "some.yml").write_text(STUDY)
    process = start(folder)
    wait_until(lambda: len(list(folder.glob("output/some/runs/*/*/*/step_*"))) > 4, process)
    # One run dies at once; the other is to save when the study is killed beside it.
    os.kill(children_of(process.pid)[0], signal.SIGKILL)
    process.kill()
    process.communicate()
    assert not (folder / "output/some/result.json").exists()
    return folder, finish(folder)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Return the folder of a study that nothing came across."""
    folder = tmp_path_factory.mktemp("straight")
    (folder / "some.yml").write_text(STUDY)
    finish(folder)
    return folder


def test_a_killed_study_goes_on_to_the_same_result(killed, straight):
    found, wanted = result_of(killed[0]), result_of(straight)
    assert without_times(found) == without_times(wanted)
    assert found["runs"][0]["seconds"] > 0
    # It is the times alone that are left out.
    assert len(json.dumps(without_times(found))) > 0.8 * len(json.dumps(found))


def test_a_result_holds_each_run_and_what_they_say_together(straight):
    found = result_of(straight)
    assert (found["study"], found["file"], found["missing"]) == ("some", STUDY, [])
    assert found["command"] == "python tools/compare.py -c some.yml"
    assert [run["variant"] for run in found["runs"]] == ["noise_none", "noise_40"]
    run = found["runs"][0]
    assert run["command"].startswith("python tools/train.py -c ")
    assert (run["steps"], run["seed"], len(run["config_sha256"])) == (32, 3, 64)
    names = ["raw", "ema", "power", "wide", "posthoc_0.15"]
    assert sorted(run["weights"]) == sorted(names)
    for weights in run["weights"].values():
        assert set(weights["test"]) == {"top1", "top2", "loss", "ece"}
    (clean, noisy) = found["variants"]
    assert list(clean["weights"]) == [*names, "selected"]
    assert clean["weights"]["raw"]["test"]["top1"]["mean"] == run["weights"]["raw"]["test"]["top1"]
    difference = clean["weights"]["ema"]["difference"]["top1"]["mean"]
    tops = [run["weights"][name]["test"]["top1"] for name in ("ema", "raw")]
    assert difference == pytest.approx(tops[0] - tops[1])
    assert clean["data"]["train"] != noisy["data"]["train"]
    assert clean["data"]["test"] == noisy["data"]["test"]


def test_each_set_of_weights_stands_by_its_best_epoch_and_its_first_step_that_reached(straight):
    for run, folder in zip(result_of(straight)["runs"], ["noise_none", "noise_40"]):
        path = straight / f"output/some/runs/{folder}/seed_3/lenet_digits"
        lines = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
        evaluations = [line for line in lines if line["split"] == "eval"]
        # Any of them may be the best of some weights, and others were saved within epochs.
        assert all((path / f"step_{step:09d}").is_dir() for step in (16, 32))
        for name in ("raw", "ema", "power", "wide"):
            own = [e for e in evaluations if e["average"] == name]
            ends = [e for e in own if e["step"] in (16, 32)]
            best = max(ends, key=lambda e: (e["top1"], -e["loss"]))
            found = run["weights"][name]
            assert (found["step"], found["validation"]["top1"]) == (best["step"], best["top1"])
            first = next((e["step"] for e in own if e["top1"] >= 0.3), None)
            assert found["reached"]["0.3"]["steps"] == first
        assert "reached" not in run["weights"]["posthoc_0.15"]


def test_a_study_has_runs_with_the_section_swap_too(tmp_path):
    (tmp_path / "some.yml").write_text(
        f"""\
base: {REPOSITORY}/configs/lenet_digits.yml
set: {{epoch: 1, validation: 0.3, train_samples: 512, log_iter: 2}}
axes:
  method:
    swap: {{Swap: {{until_accuracy: 1, workers: 2, alone: {{epoch: 1}}}}}}
seeds: [3]
"""
    )
    finish(tmp_path)
    (run,) = result_of(tmp_path)["runs"]
    assert (run["steps"], sorted(run["weights"])) == (3 * 8, ["raw", "swap"])
    folder = tmp_path / "output/some/runs/method_swap/seed_3/lenet_digits"
    metrics = json.loads((folder / "model_final/manifest.json").read_text())["metrics"]
    for name, weights in run["weights"].items():
        assert weights["validation"] == metrics[name]
        assert weights["test"] != metrics[name]
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    assert {record["on"] for record in records if record["split"] == "eval"} == {"validation"}
    assert "1 of 1 runs are done already" in finish(tmp_path)


def test_what_is_done_is_not_done_again(killed):
    folder, _ = killed
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("test.json")}
    assert len(before) == 2
    with pytest.MonkeyPatch.context() as patch:
        # No run could be started.
        patch.setattr(subprocess, "Popen", None)
        said = run_in(folder, "compare", "-c", "some.yml")
    assert "2 of 2 runs are done already" in said
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("test.json")} == before


def test_table_and_pictures_are_beside_the_result(straight):
    folder = straight / "output/some"
    said = run_in(straight, "compare", "-c", "some.yml", "--report")
    table = (folder / "result.md").read_text()
    assert "| noise 40 % | posthoc_0.15 |" in table.replace(" *", "")
    assert said.splitlines()[0].split()[:3] == ["variant", "weights", "n"]
    assert "(on the embedded UCI digits)" in table
    pictures = [*folder.glob("*.png"), *folder.glob("reliability/*.png")]
    assert {"means.png", "steps.png", "noise_40-raw.png"} <= {path.name for path in pictures}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)


def test_the_runs_of_another_config_are_not_gone_on_with(straight, monkeypatch, capfd):
    enter(monkeypatch, straight)
    capfd.readouterr()
    assert call(monkeypatch, "compare", ("-c", "some.yml", "-o", "epoch=3")) == 2
    assert capfd.readouterr().err == (
        "output/some/runs/noise_none/seed_3/lenet_digits was trained by another config (other: "
        "epoch); take the study's folder away, or name another one by -o save_dir=…\n"
    )


def test_a_run_that_fails_is_told_and_the_others_go_on(tmp_path, run_tool, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    axes = '{a: {}, b: {"LearningRate.base_lr": 1e30}}'
    Path("some.yml").write_text(
        f"base: {REPOSITORY}/configs/lenet_digits.yml\nseeds: [0]\naxes: {{rate: {axes}}}\n"
        "set: [epoch=1, validation=0.3, train_samples=256]\n"
    )
    result = run_tool("compare", "-c", "some.yml")
    assert result.code == 4, result.err
    (failed,) = [line for line in result.out.splitlines() if "ERROR" in line]
    assert "rate b, seed 0 failed: step " in failed
    assert "is not finite" in failed
    assert "1 of 2 runs failed and are left out" in result.out
    found = json.loads(Path("output/some/result.json").read_text())
    assert found["missing"] == ["rate b, seed 0"]
    assert [run["variant"] for run in found["runs"]] == ["rate_a"]


def test_a_signal_stops_the_runs_and_says_how_to_go_on(tmp_path):
    (tmp_path / "some.yml").write_text(STUDY.replace("epoch: 2", "epoch: 500"))
    process = start(tmp_path)
    wait_until(lambda: len(runs_in(tmp_path)) == 2, process)
    children = children_of(process.pid)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 143, said
    assert said.decode().splitlines()[-1] == (
        "stopped by SIGTERM: 0 of 2 runs are done and what was under way is saved; go on with the "
        "same command"
    )
    assert len(children) == 2
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert len(list(tmp_path.glob("output/some/runs/*/*/*/step_*/manifest.json"))) >= 2


def test_a_study_that_runs_is_not_run_beside_itself(tmp_path, refuse):
    Path("some.yml").write_text(STUDY)
    folder = Path("output/some")
    folder.mkdir(parents=True)
    lock = RunLock(folder)
    line = refuse(5, "compare", "-c", "some.yml")
    lock.release()
    assert line == f"output/some is in use by process {os.getpid()}"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "name the folders of runs, or a study by -c (see --help)"),
        (["run", "--report"], "--report is of a study; name one by -c"),
        (["run", "-o", "epoch=1"], "-o is of a study; name one by -c"),
        (["run", "-c", "some.yml"], "-c runs a study, which draws its own pictures; name it alone"),
        (
            ["-c", "some.yml", "--check", "--report"],
            "argument --report: not allowed with argument --check (see --help)",
        ),
        (
            ["-c", "some.yml", "--workers", "0"],
            "argument --workers: must be a whole number above 0, got '0' (see --help)",
        ),
        (["-c", "none.yml"], "none.yml: No such file or directory; did you mean some.yml?"),
        (
            ["-c", "some.yml", "-o", "train_samples=99999"],
            "-o train_samples: train_samples is 99,999, but there are 5,045 images to take",
        ),
    ],
)
def test_what_cannot_be_is_said_in_a_line(refuse, arguments, line):
    Path("some.yml").write_text(STUDY)
    assert refuse(2, "compare", *arguments) == line


def test_a_report_of_nothing_and_a_measure_of_no_run_are_refused(refuse, digits_run):
    Path("some.yml").write_text(STUDY)
    assert refuse(3, "compare", "-c", "some.yml", "--measure", "none") == (
        "none: is no finished run; train it first"
    )
    run = digits_run / "lenet_digits"
    assert refuse(2, "compare", "-c", "some.yml", "--measure", run) == (
        f"{run}: was trained without validation, so nothing but its test data could choose"
    )
    assert refuse(3, "compare", "-c", "some.yml", "--report") == (
        "output/some: no run of the study is done"
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_a_study_that_ships_says_command_and_expectation_and_can_be_run(name, run_tool):
    Path("configs").symlink_to(REPOSITORY / "configs")
    path = f"configs/studies/{name}.yml"
    lines = Path(path).read_text().splitlines()
    assert lines[0] == f"# python tools/compare.py -c {path}"
    assert lines[1].startswith("# expect: ")
    # MNIST is not here: the digits are fewer.
    keys = ["-o", "validation=300"]
    result = run_tool("compare", "-c", path, "--check", *keys)
    assert (result.code, result.err) == (0, "")
    planned, *commands = result.out.split("python tools/train.py ")
    assert f"{len(commands)} runs" in planned.splitlines()[-1]
    seeds = {line.split(" seed=")[1].split()[0] for line in commands}
    # A claim without five seeds is not made.
    assert len(seeds) >= 5


def test_the_commands_and_the_file_of_the_page_work(run_tool):
    page = (REPOSITORY / "docs/studies.md").read_text()
    (Path.cwd() / "configs").symlink_to(REPOSITORY / "configs")
    blocks = re.findall(r"```(bash|yaml)\n(.*?)```", page, re.S)
    commands = [line for kind, text in blocks if kind == "bash" for line in text.splitlines()]
    assert [command.split()[:2] for command in commands] == [
        [".venv/bin/python", "tools/compare.py"]
    ] * 3
    # The first trains for minutes, and the last needs what it made.
    assert run_tool("compare", *commands[1].split()[2:]).code == 0
    (study,) = [text for kind, text in blocks if kind == "yaml"]
    Path("page.yml").write_text(study.replace("../", f"{REPOSITORY}/configs/"))
    result = run_tool("compare", "-c", "page.yml", "--check")
    assert (result.code, result.err) == (0, "")
    assert "20 runs, 6,120 steps, in output/page" in result.out


def test_the_page_names_each_study_each_key_and_each_part_of_a_result(straight):
    page = (REPOSITORY / "docs/studies.md").read_text()
    assert set(re.findall(r"^\| `(\w+)\.yml` \|", page, re.M)) == set(SHIPPED)
    keys = {field.name for field in dataclasses.fields(StudyKeys)}
    assert keys <= set(re.findall(r"^\| `(\w+)` \|", page, re.M))
    assert {key for key in result_of(straight) if f"`{key}`" not in page} == {"format"}
