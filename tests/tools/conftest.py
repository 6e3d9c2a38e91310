"""Run a tool as a user does, in a folder of the test's own, with no MNIST and no network."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from in_process import REPOSITORY, Result, call, contents, enter, line_of, run_in
from small_mnist import data_keys, write_mnist


@pytest.fixture
def run_tool(tmp_path, monkeypatch, capfd):
    """Return a function that runs `tools/<name>.py` in this process and returns what it said."""
    enter(monkeypatch, tmp_path)

    def run(name, *arguments):
        capfd.readouterr()
        code = call(monkeypatch, name, arguments)
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return Result(code, out, err)

    return run


@pytest.fixture
def refuse(run_tool, tmp_path):
    """Return a function that runs a tool which has to fail, and returns the line that says why.

    It fails with this code, without a traceback, and leaves everything there is as it was: nothing
    is written, and nothing lost.
    """

    def run(code, name, *arguments):
        before = contents(tmp_path)
        line = line_of(run_tool(name, *arguments), code)
        assert contents(tmp_path) == before
        return line

    return run


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """Return the output folder of LeNet trained on the digits for one short epoch; to be read."""
    folder = tmp_path_factory.mktemp("digits_run")
    config = REPOSITORY / "configs/lenet_digits.yml"
    # At this rate the average is the better one.
    keys = ["epoch=1", "TrainReader.batch_size=128", "LearningRate.base_lr=0.003", "use_vdl=false"]
    keys.append(f"save_dir={folder}/output")
    run_in(folder, "train", "-c", config, "--eval", "-o", *keys)
    return folder / "output"


@pytest.fixture
def config():
    """Return a function from a config's name to its path."""
    return lambda name: REPOSITORY / "configs" / f"{name}.yml"


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """Return a folder with a run of two steps, each saved, and the data it was trained on."""
    folder = tmp_path_factory.mktemp("small")
    write_mnist(folder / "data")
    command = ("train", "-c", REPOSITORY / "configs/lenet_mnist.yml", "--eval")
    run_in(folder, *command, *data_keys("data"))
    return folder


@pytest.fixture
def run_folder(run_tool, small_run, tmp_path):
    """Return the folder of a finished run of two steps; its data lie in `data`."""
    shutil.copytree(small_run, tmp_path, symlinks=True, dirs_exist_ok=True)
    return Path("output/lenet_mnist")
