"""Run a tool as a user does, in a folder of the test's own, with no MNIST and no network."""

from __future__ import annotations

import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def run_tool(tmp_path, monkeypatch, capfd):
    """Return a function that runs `tools/<name>.py` in this process and returns what it said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PPEMA_MIRRORS", "")

    def run(name, *arguments):
        script = REPOSITORY / "tools" / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(str(script), run_name="__main__")
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return Result(exit_.value.code or 0, out, err)

    return run


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """Return the output folder of LeNet trained on the digits for one short epoch; to be read."""
    folder = tmp_path_factory.mktemp("digits_run")
    config = REPOSITORY / "configs/lenet_digits.yml"
    # At this rate the average is the better one.
    keys = ["epoch=1", "TrainReader.batch_size=128", "LearningRate.base_lr=0.003", "use_vdl=false"]
    keys.append(f"save_dir={folder}/output")
    script = REPOSITORY / "tools/train.py"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [str(script), "-c", str(config), "--eval", "-o", *keys])
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(str(script), run_name="__main__")
    assert not exit_.value.code
    return folder / "output"


@pytest.fixture
def config():
    """Return a function from a config's name to its path."""
    return lambda name: REPOSITORY / "configs" / f"{name}.yml"
