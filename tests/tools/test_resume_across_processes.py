"""A run stopped in one process and continued in another ends with the bits of an unbroken one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from in_process import REPOSITORY
from resumable import FOLDER, records, tensors, write
from torture_record import pending, recorded

import ppema

pytestmark = pytest.mark.reliability

# Where the package lies that is tested here.
PACKAGES = Path(ppema.__file__).resolve().parents[1]
# Of 12, six an epoch.
STEPS = (2, 5, 6, 7, 11)
WORKERS = ("-o", "TrainReader.num_workers=2", "EvalReader.num_workers=2")


@pytest.fixture
def straight(run_tool, tmp_path, monkeypatch):
    """Return what the run ends with that is not stopped, of this process."""
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path)
    result = run_tool("train", "-c", "run.yml", "--eval", *WORKERS)
    assert result.code == 0, result.err
    FOLDER.rename(tmp_path / "straight")
    return tmp_path / "straight"


def train(home, *options, stop_after="0"):
    """Train in a process of its own, in a folder; return its exit code and what it said."""
    home.mkdir(exist_ok=True)
    write(home)
    result = subprocess.run(
        [sys.executable, REPOSITORY / "tools/train.py", "-c", "run.yml", "--eval", *options],
        cwd=home,
        env={**os.environ, "PYTHONPATH": f"{home}{os.pathsep}{PACKAGES}", "STOP_AFTER": stop_after},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return result.returncode, result.stdout + result.stderr


def require_same_after_a_stop(home, step, straight):
    code, said = train(home, *WORKERS, stop_after=str(step))
    assert code == 143, said
    assert f"stopped by SIGTERM after step {step}, which is saved" in said
    code, said = train(home, *WORKERS, "-r", "auto")
    assert code == 0, said
    found, wanted = tensors(home / FOLDER), tensors(straight)
    assert list(found) == list(wanted)
    assert [name for name in wanted if found[name] != wanted[name]] == []
    for split in ("train", "eval"):
        assert records(home / FOLDER, split) == records(straight, split)


def test_another_process_goes_on_with_the_same_bits(tmp_path, straight):
    require_same_after_a_stop(tmp_path / "stopped", 8, straight)


@pytest.mark.torture
def test_five_steps_across_processes(tmp_path, straight):
    for step in pending("across processes", STEPS):
        with recorded("across processes", step) as figures:
            require_same_after_a_stop(tmp_path / str(step), step, straight)
            figures["processes"] = 2
