"""A run of several processes is the run of one: the same figures, and nothing lost by a kill."""

from __future__ import annotations

import os
import shutil
import signal

import numpy as np
import paddle
import pytest
import resumable
from in_process import REPOSITORY, run_in
from launched import PATIENCE_S, LaunchedRun
from small_mnist import write_mnist

from ppema.checkpoint import Checkpoint

pytestmark = pytest.mark.reliability

# The last of the twenty steps of an epoch has 45 images, which no number of processes divides.
NUM_IMAGES, NUM_STEPS = 1261, 200
CONFIG = f"""\
_BASE_: {REPOSITORY}/configs/lenet_mnist.yml
epoch: 10
log_iter: 1
snapshot_iter: 15
snapshot_epoch: 2
posthoc_every: 40
TrainDataset: {{dataset_dir: data}}
EvalDataset: {{dataset_dir: eval_data}}
EvalReader: {{batch_size: 30}}
use_vdl: false
TrainReader: {{batch_size: 32}}
Averages:
  ema: {{name: ExponentialMovingAverage, decay: 0.99}}
  wide: {{name: ExponentialMovingAverage, decay: 0.9, shadow_dtype: float64, update_every: 3}}
  swa: {{name: StochasticWeightAverage, start: 1 epoch}}
  latest: {{name: LatestWeightAverage, k: 3, every: 10}}
  power: {{name: PowerFunctionEMA, sigma_rel: 0.1}}
"""
# The images of a step are the same ones.
OF_ONE, OF_FOUR = ("-o", "TrainReader.batch_size=64"), ("-o", "TrainReader.batch_size=16")


def make_run(folder):
    run = LaunchedRun(folder / "home", CONFIG)
    write_mnist(run.home / "data", NUM_IMAGES)
    write_mnist(run.home / "eval_data", 100)
    return run


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """Return the finished run of two processes with 32 images each."""
    run = make_run(tmp_path_factory.mktemp("two"))
    run.said = run.finish(2, "--eval")
    return run


@pytest.fixture(scope="module")
def of_one(tmp_path_factory):
    """Return the folder of the finished run of one process with 64 images."""
    run = make_run(tmp_path_factory.mktemp("one"))
    run_in(run.home, "train", "-c", "run.yml", "--eval", *OF_ONE)
    return run.folder


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """Return a run of two processes of which one was killed in the middle of an epoch."""
    run = make_run(tmp_path_factory.mktemp("broken"))
    _, launcher = run.start(2, "--eval")
    run.wait_for_step(45, launcher)
    os.kill(run.pid_of(1), signal.SIGKILL)
    launcher.wait(PATIENCE_S)
    assert run.processes() == []
    return run


def require_near(folder, wanted):
    """Compare the ends of two runs: each loss and each weight, but not the state of Adam."""
    for split in ("train", "eval"):
        ours, theirs = (resumable.records(path, split) for path in (folder, wanted))
        assert [r["step"] for r in ours] == [r["step"] for r in theirs]
        for record, other in zip(ours, theirs):
            assert record["loss"] == pytest.approx(other["loss"], abs=1e-5)
    final = wanted / "model_final"
    files = [path.name for path in final.glob("*.pdparams")]
    assert len(files) == 6
    for file in files:
        expected = paddle.load(str(final / file))
        for name, tensor in paddle.load(str(folder / "model_final" / file)).items():
            if paddle.is_tensor(tensor):
                np.testing.assert_allclose(
                    tensor.numpy(), expected[name].numpy(), atol=1e-5, err_msg=f"{file} {name}"
                )


def test_two_processes_are_one_with_a_batch_twice_as_large(of_two, of_one):
    assert resumable.final(of_two.folder).step == NUM_STEPS
    require_near(of_two.folder, of_one)


def test_the_log_says_what_makes_a_step_and_only_the_first_process_writes(of_two):
    expected = "a step: 32 images x 2 processes = 64 images, learning rate 0.001"
    assert of_two.said.count(expected) == 1
    log = (of_two.folder / "train.log").read_text()
    assert log.count(expected) == 1
    assert log.count(f"step {NUM_STEPS} saved in") == 1
    second = (of_two.home / "log/workerlog.1").read_text()
    assert "ppema" not in second
    assert resumable.final(of_two.folder).manifest["processes"] == 2


def test_evaluated_by_two_processes_it_has_the_figures_of_one(of_two):
    # Three batches, the last of which is smaller; and one, so that a process has none.
    for size in (40, 100):
        require_same_figures(of_two, ("-o", f"EvalReader.batch_size={size}"))


def require_same_figures(of_two, batches):
    said = of_two.finish(2, "--plots", "of_two", *batches, tool="eval")
    alone = run_in(of_two.home, "eval", "-c", "run.yml", "--plots", "of_one", *batches)
    table = [line for line in said.splitlines() if "top1" in line]
    assert table == [line for line in alone.splitlines() if "top1" in line]
    assert len(table) == 6
    pictures = [sorted((of_two.home / name).iterdir()) for name in ("of_two", "of_one")]
    assert [p.name for p in pictures[0]] == [p.name for p in pictures[1]] != []
    for ours, theirs in zip(*pictures):
        assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize(
    ("num_processes", "keys"), [(1, OF_ONE), (4, OF_FOUR)], ids=["one", "four"]
)
def test_a_process_is_killed_and_another_number_of_them_goes_on(
    num_processes, keys, broken, of_one, tmp_path
):
    run = make_run(tmp_path)
    shutil.copytree(broken.folder, run.folder, symlinks=True)
    (newest,) = run.steps()[-1:]
    said = run.finish(num_processes, "--eval", "-r", "auto", *keys)
    assert f"continuing output/run/step_{newest:09d} after step {newest} of {NUM_STEPS}" in said
    assert f"processes were 2, are {num_processes}; images a step were 64" in said
    require_near(run.folder, of_one)


def test_a_process_is_killed_the_launcher_stopped_and_two_end_with_the_bits_of_an_unbroken_run(
    broken, of_two, tmp_path
):
    run = make_run(tmp_path)
    shutil.copytree(broken.folder, run.folder, symlinks=True)
    said, launcher = run.start(2, "--eval", "-r", "auto")
    run.wait_for_step(90, launcher)
    launcher.send_signal(signal.SIGTERM)
    launcher.wait(PATIENCE_S)
    assert run.processes() == []
    # What the launcher shows of a process ends before the process does.
    log = (run.folder / "train.log").read_text()
    (newest,) = run.steps()[-1:]
    assert f"step {newest} saved in" in log
    Checkpoint(run.folder / f"step_{newest:09d}").verify()
    assert "stopped by SIGTERM after step" in run.all_said(said)
    run.finish(2, "--eval", "-r", "auto")
    assert resumable.tensors(run.folder) == resumable.tensors(of_two.folder)
    for split in ("train", "eval"):
        assert resumable.records(run.folder, split) == resumable.records(of_two.folder, split)
