"""SWAP through the command line: three phases in one folder, of runs like any other.

All are of one config of a user's own network, with BatchNorm and dropout, and random images.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
from in_process import REPOSITORY, call, enter
from launched import LaunchedRun
from resumable import AVERAGES, CONFIG, contents, copy_tree, records, tensors, write

from ppema import builder
from ppema.builder.run_data import make_train_reader
from ppema.checkpoint import Checkpoint
from ppema.data.seeding import seed_of_worker

pytestmark = pytest.mark.reliability

# Phase 1 takes 6 steps an epoch and reaches the goal in the second of three; a worker takes 15.
SWAP = """\
Swap:
  until_accuracy: 0.35
  workers: 2
  alone:
    epoch: 1
    TrainReader: {batch_size: 2}
    LearningRate: {base_lr: 0.02, schedulers: []}
"""
FOLDER = Path("output/swap")
GOAL_MET = "epoch 2: training accuracy 36.67 %, and 35 % is enough: the run ends here"
PARTS = ("phase_1", "worker_0", "worker_1")


PAGE = (REPOSITORY / "docs/swap.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.S)
NO_DATA = ("TrainDataset={name: MNIST, mode: train}", "EvalDataset={name: MNIST, mode: test}")


def write_configs(home):
    """Write the config with Swap, and the same without, beside the user's own module."""
    write(home)
    text = CONFIG.replace("epoch: 2", "epoch: 3") + AVERAGES
    (home / "run.yml").write_text(text)
    (home / "swap.yml").write_text(text + SWAP)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder that a run of all phases, unbroken, ends with; to be read."""
    home = tmp_path_factory.mktemp("whole")
    write_configs(home)
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, home)
        patch.syspath_prepend(str(home))
        assert call(patch, "train", ("-c", "swap.yml", "--eval")) == 0
    return home / FOLDER


@pytest.fixture
def train(run_tool, tmp_path, whole, monkeypatch):
    """Return a function that trains the config here."""
    # One module for all tests, as Python keeps what it imported.
    monkeypatch.syspath_prepend(str(whole.parents[1]))
    write_configs(tmp_path)
    return lambda *options: run_tool("train", "-c", "swap.yml", "--eval", *options)


@pytest.fixture
def finished(train, whole):
    """Return the same function, with the finished run in its folder."""
    copy_tree(whole, FOLDER)
    return train


def weights(path):
    """Return the tensors of a weight file as arrays."""
    state = paddle.load(str(path)).items()
    return {name: tensor.numpy() for name, tensor in state if paddle.is_tensor(tensor)}


def manifest(folder):
    return Checkpoint((folder / "model_final").resolve()).manifest


def ends(folder):
    """Return the bits that all phases end with, and all figures."""
    found = {part: tensors(folder / part) for part in PARTS}
    found["mean"] = weights(folder / "model_final/swap.pdparams")
    found["mean"] = {name: array.tobytes() for name, array in found["mean"].items()}
    for part in ("", *PARTS):
        for split in ("train", "eval"):
            found[part, split] = records(folder / part, split)
    facts = manifest(folder)
    return {**found, "facts": [facts[key] for key in ("metrics", "winner", "best", "workers")]}


def test_phase_1_is_an_ordinary_run_that_ends_with_the_epoch_of_the_goal(train, whole, run_tool):
    plain = run_tool("train", "-c", "run.yml", "--eval", "-o", "epoch=2")
    assert plain.code == 0
    # But for the average that begins at 50 % of all the epochs that there may be.
    found, wanted = (tensors(folder) for folder in (whole / "phase_1", Path("output/run")))
    assert found.keys() == wanted.keys()
    different = {name for name in wanted if found[name] != wanted[name]}
    assert {name.partition("/")[0] for name in different} == {"swa.pdparams"}
    said = (whole / "phase_1/train.log").read_text()
    assert "epoch 1: training accuracy 16.67 %: the run goes on until 35 %" in said
    assert GOAL_MET in said
    assert "phase 1 ended with epoch 2, step 12" in (whole / "train.log").read_text()


def plain_worker(run_tool, worker, folder):
    """Return the folder of an ordinary run, as a worker of the run in `folder` is to be one."""
    result = run_tool(
        *("train", "-c", "run.yml", "--eval", "-o", f"save_dir=plain_{worker}", "epoch=1"),
        *("TrainReader.batch_size=2", "LearningRate={base_lr: 0.02, schedulers: []}"),
        f"seed={seed_of_worker(0, worker)}",
        f"pretrain_weights={folder}/phase_1/model_final/model.pdparams",
    )
    assert result.code == 0, result.err
    return Path(f"plain_{worker}/run")


def test_a_worker_is_an_ordinary_run_from_the_weights_of_phase_1(train, whole, run_tool):
    for worker in range(2):
        plain = plain_worker(run_tool, worker, whole)
        assert tensors(whole / f"worker_{worker}") == tensors(plain)
    assert tensors(whole / "worker_0") != tensors(whole / "worker_1")


def test_of_two_processes_each_takes_every_other_worker(train, run_tool, tmp_path):
    run = LaunchedRun(tmp_path / "two", (tmp_path / "swap.yml").read_text())
    write_configs(run.home)
    (run.home / "swap.yml").rename(run.home / "run.yml")
    said = run.finish(2, "--eval", "-o", "Swap.workers=3", "TrainReader.batch_size=3")
    assert "a step: 3 images x 2 processes = 6 images" in said
    for worker, is_of_the_first in enumerate((True, False, True)):
        assert (f"config run/worker_{worker};" in said) == is_of_the_first
        plain = plain_worker(run_tool, worker, run.folder)
        assert tensors(run.folder / f"worker_{worker}") == tensors(plain)
    facts = manifest(run.folder)
    assert (len(facts["workers"]), list(facts["metrics"])) == (3, ["raw", "swap"])


def test_the_mean_is_that_of_a_plain_twin_with_statistics_of_its_own(whole, monkeypatch):
    workers = [weights(whole / f"worker_{i}/model_final/model.pdparams") for i in range(2)]
    found = weights(whole / "model_final/swap.pdparams")
    assert list(found) == list(workers[0])
    mean = {name: sum(w[name].astype("float64") for w in workers) / 2 for name in found}
    trained = [name for name in found if not name.endswith(("._mean", "._variance"))]
    for name in trained:
        assert (found[name] == mean[name].astype("float32")).all()
    monkeypatch.chdir(whole.parents[1])
    config = builder.read_config("swap.yml", []).of_workers
    reader = make_train_reader(config, builder.load_data(config, None).train)
    batches = [batch.image.reshape(len(batch.label), -1) for batch in reader.batches(1)]
    outputs = [batch @ mean["body.1.weight"] + mean["body.1.bias"] for batch in batches]
    for name, statistic in (("_mean", np.mean), ("_variance", np.var)):
        wanted = np.mean([statistic(output, axis=0) for output in outputs], axis=0)
        assert found[f"body.2.{name}"] == pytest.approx(wanted, rel=1e-4, abs=1e-6)
        assert found[f"body.2.{name}"] != pytest.approx(mean[f"body.2.{name}"], rel=1e-2)


def test_the_folder_serves_as_that_of_any_run(finished, run_tool, whole):
    facts = manifest(FOLDER)
    assert facts["step"] == 12 + 15
    assert list(facts["metrics"]) == ["raw", "swap"]
    assert facts["metrics"]["raw"] == manifest(FOLDER / "worker_0")["metrics"]["raw"]
    assert list(facts["figures"]) == [*PARTS, "swap"]
    best = max(facts["metrics"], key=lambda name: facts["metrics"][name]["top1"])
    assert facts["metrics"][facts["winner"]]["top1"] == facts["metrics"][best]["top1"]
    evaluated = run_tool("eval", "-c", "swap.yml")
    assert evaluated.code == 0, evaluated.err
    log = (whole / "train.log").read_text()
    for name in ("raw", "swap"):
        (row,) = [line for line in evaluated.out.splitlines() if line.startswith(name)]
        figures = row.partition("top1")[2].partition("  <-")[0]
        assert f"{figures}" in log
    assert "raw, swap of swap/step_000000027" in evaluated.out
    exported = run_tool("export_model", "-c", "swap.yml", "--average", "swap")
    assert exported.code == 0, exported.err
    assert (FOLDER / "curves.png").read_bytes().startswith(b"\x89PNG")
    steps = {r["average"]: r["step"] for r in records(FOLDER, "eval")}
    assert steps == dict.fromkeys(("raw", "ema", "swa", "power", "worker_1", "swap"), 27)


def test_a_stop_in_each_phase_changes_no_bit(train, whole, monkeypatch):
    # Of phase 1 in its second epoch, of each worker, of the pass that BatchNorm's statistics take.
    said = []
    for number, stop_after in enumerate((9, 14, 14, 14, None)):
        if stop_after is None:
            monkeypatch.delenv("STOP_AFTER")
        else:
            monkeypatch.setenv("STOP_AFTER", str(stop_after))
        result = train(*(("-r", "auto") if number else ()))
        assert result.code == (0 if stop_after is None else 143), result.err
        said.append(result.err)
    assert said == [
        "stopped by SIGTERM after step 9, which is saved; continue with -r auto\n",
        "stopped by SIGTERM after step 14, which is saved; continue with -r auto\n",
        "stopped by SIGTERM after step 14, which is saved; continue with -r auto\n",
        "interrupted by SIGTERM\n",
        "",
    ]
    assert ends(FOLDER) == ends(whole)
    # Of all images of the epoch, those before the stop too.
    assert GOAL_MET in (FOLDER / "phase_1/train.log").read_text()


def test_what_a_kill_leaves_is_made_whole(finished, whole):
    # Between the save of each last checkpoint and its links; and in the save of the mean.
    for part in PARTS:
        (FOLDER / part / "model_final").unlink()
    (FOLDER / "model_final").unlink()
    (FOLDER / "best_model").unlink()
    (FOLDER / "step_000000027").rename(FOLDER / ".tmp-step_000000027")
    assert finished("-r", "auto").code == 0
    assert ends(FOLDER) == ends(whole)
    assert not list(FOLDER.rglob(".tmp-*"))
    assert (FOLDER / "best_model").exists()


def test_a_finished_run_is_left_alone(finished):
    before = contents(FOLDER)
    result = finished("-r", "auto")
    assert result.code == 0, result.err
    assert "output/swap is finished, the mean of its workers too" in result.out
    after = contents(FOLDER)
    assert {name for name in after if after[name] != before.get(name)} == {"train.log"}


def test_with_other_workers_the_mean_is_made_anew(finished):
    before = contents(FOLDER / "worker_0")
    result = finished("-r", "auto", "-o", "Swap.workers=3")
    assert result.code == 0, result.err
    facts = manifest(FOLDER)
    assert len(facts["workers"]) == 3
    assert contents(FOLDER / "worker_0") == before
    sums = sum(
        weights(FOLDER / f"worker_{i}/model_final/model.pdparams")["body.5.bias"] for i in range(3)
    )
    found = weights(FOLDER / "model_final/swap.pdparams")["body.5.bias"]
    assert found == pytest.approx(sums / 3, rel=1e-6)


def test_without_evaluation_the_mean_is_made_and_nothing_is_best(finished, run_tool, whole):
    shutil.rmtree(FOLDER / "step_000000027")
    result = run_tool("train", "-c", "swap.yml", "-r", "auto")
    assert result.code == 0, result.err
    assert manifest(FOLDER)["metrics"] == {}
    assert not (FOLDER / "best_model").exists()
    found, wanted = (weights(f / "model_final/swap.pdparams") for f in (FOLDER, whole))
    assert all((found[name] == wanted[name]).all() for name in wanted)
    # Evaluated later, it is what it would have been.
    assert finished("-r", "auto").code == 0
    assert ends(FOLDER) == ends(whole)


def test_overwrite_clears_all_phases(finished):
    (FOLDER / "worker_7").mkdir()
    (FOLDER / "notes.txt").write_text("mine")
    result = finished("--overwrite", "-o", "Swap.workers=2", "seed=1")
    assert result.code == 0, result.err
    assert {path.name for path in FOLDER.glob("worker_*")} == {"worker_0", "worker_1"}
    assert (FOLDER / "notes.txt").read_text() == "mine"
    assert manifest(FOLDER / "phase_1")["seed"] == 1
    assert (FOLDER / "train.log").read_text().count("phase 1 of 3") == 1


def test_missing_data_do_not_cost_what_overwrite_would_clear(finished):
    before = contents(FOLDER)
    result = finished("--overwrite", "-o", *NO_DATA)
    assert (result.code, len(result.err.splitlines())) == (3, 1), result.err
    assert contents(FOLDER) == before


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            (),
            "output/swap holds a checkpoint (step 27); continue it with -r auto, or start again "
            "with --overwrite",
        ),
        (
            ("-r", "output/swap/phase_1"),
            "-r output/swap/phase_1: a run with the section Swap goes on from what its own folder "
            "holds; give -r auto, or pretrain_weights to begin at other weights",
        ),
    ],
)
def test_what_would_be_lost_is_refused(finished, options, line):
    before = contents(FOLDER)
    result = finished(*options)
    assert (result.code, result.err) == (2, f"{line}\n")
    assert contents(FOLDER) == before


def test_a_worker_alone_is_refused_too(finished):
    for name in ("step_000000027", "phase_1", "worker_0"):
        shutil.rmtree(FOLDER / name)
    result = finished()
    assert result.code == 2
    assert "output/swap/worker_1 holds a checkpoint (step 15)" in result.err


def test_a_run_of_another_kind_is_not_gone_on_from(finished, run_tool):
    result = run_tool("train", "-c", "run.yml", "-r", "auto", "-o", "save_dir=other", "epoch=1")
    assert result.code == 0
    shutil.rmtree(FOLDER)
    Path("other/run").rename(FOLDER)
    result = finished("-r", "auto")
    assert result.code == 2
    assert result.err.startswith("output/swap holds a run without the section Swap; give another")


def test_a_worker_that_began_elsewhere_is_refused(finished):
    shutil.rmtree(FOLDER / "phase_1")
    result = finished("-r", "auto", "-o", "LearningRate.base_lr=0.5")
    assert result.code == 3
    assert "worker_0/step_000000015: did not begin at the weights of output/swap/phase_1/" in (
        result.err
    )


def test_check_prints_the_config_of_a_worker_too(train):
    result = train("--check", "-o", "Swap.alone.epoch=4")
    assert result.code == 0, result.err
    one, two = result.out.split("---\n")
    assert "  alone:" in one
    assert "epoch: 3  " in one
    (epoch,) = [line for line in two.splitlines() if line.startswith("epoch:")]
    assert epoch.split() == ["epoch:", "4", "#", "-o", "Swap.alone.epoch"]
    assert "  batch_size: 2  " in two
    assert "Swap: null" in two
    wrong = train("--check", "-o", "Swap.alone.LearningRate.base_lr=0", "Swap.alone.seed=5")
    assert (wrong.code, wrong.err) == (
        2,
        "-o Swap.alone.LearningRate.base_lr: LearningRate.base_lr must be a finite number above 0, "
        "got 0 (in Swap.alone)\n",
    )


def test_the_commands_of_the_page_work_in_their_order(run_tool):
    Path("configs").symlink_to(REPOSITORY / "configs")
    # On the digits, where a phase takes a second or two.
    sizes = ("TrainReader.batch_size=512", "Swap.alone.TrainReader.batch_size=512")
    short = ("-o", *sizes, "epoch=1", "Swap.workers=2", "use_vdl=false")
    commands = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
    assert len(commands) >= 3
    for command in commands:
        interpreter, script, *arguments = shlex.split(command)
        assert interpreter == ".venv/bin/python"
        options = short if script == "tools/train.py" else ()
        result = run_tool(Path(script).stem, *arguments, *options)
        assert (result.code, result.err) == (0, ""), (command, result.out)


def test_the_config_of_the_page_is_the_one_that_ships(tmp_path, config):
    (text,) = [text for kind, text in BLOCKS if kind == "yaml"]
    base = config("lenet_mnist")
    (tmp_path / "shown.yml").write_text(f"_BASE_: {base}\n{text}")
    shown = builder.read_config(str(tmp_path / "shown.yml"), [])
    shipped = builder.read_config(str(config("lenet_mnist_swap")), [])
    assert shown.values() == shipped.values()
