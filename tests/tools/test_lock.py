"""A second run in one folder is refused at once, and a config that is refused makes no folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from in_process import REPOSITORY

from ppema import builder
from ppema.config import find_run_folder
from ppema.errors import FolderInUseError
from ppema.run_lock import RunLock, hold_if_used

pytestmark = pytest.mark.reliability

CONFIG = str(REPOSITORY / "configs/lenet_mnist.yml")


@pytest.fixture
def held(tmp_path):
    """Return the folder that this process trains in."""
    folder = tmp_path / "output/lenet_mnist"
    folder.mkdir(parents=True)
    lock = RunLock(folder)
    yield folder
    lock.release()


def test_who_comes_second_does_not_wait_for_paddle(held, tmp_path):
    arguments = [str(REPOSITORY / "tools/train.py"), "-c", CONFIG, "-r", "auto"]
    found = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    imported = set(re.findall(r"^import time:.*\| +(\w+)", found.stderr, re.MULTILINE))
    said = [line for line in found.stderr.splitlines() if not line.startswith("import time:")]
    assert found.returncode == 5
    assert said == [f"output/lenet_mnist is in use by process {os.getpid()}"]
    assert "ppema" in imported
    assert not imported & {"paddle", "numpy"}
    assert [path.name for path in held.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["save_dir=else/where"],
        ["epoch=2", 'save_dir="a b"'],
        ["save_dir=/tmp/x"],
        ["save_dir=3"],
    ],
)
def test_the_folder_found_without_paddle_is_the_one_that_is_trained_in(overrides):
    config = builder.read_config(CONFIG, overrides)
    assert find_run_folder(CONFIG, overrides) == builder.run_folder(config)


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("save_dir=[a]", "-o save_dir: save_dir must be text, got a list"),
        ("Averages.ema.decay=2", "-o Averages.ema.decay: Averages.ema.decay must be in [0, 1)"),
        ("epochs=2", "-o epochs: unknown key 'epochs'; did you mean 'epoch'?"),
        ("Model.name=Nonsense", "-o Model.name: "),
    ],
)
@pytest.mark.parametrize("was_used", [False, True])
def test_a_config_that_is_refused_leaves_no_folder(run_tool, config, override, text, was_used):
    folder = Path("output/lenet_mnist")
    if was_used:
        folder.mkdir(parents=True)
        (folder / ".lock").write_text("1")
    result = run_tool("train", "-c", config("lenet_mnist"), "-o", override)
    assert result.code == 2
    assert result.err.startswith(text)
    assert result.err.count("\n") == 1
    there = {str(path) for path in Path().rglob("*")}
    expected = {"output", "output/lenet_mnist", "output/lenet_mnist/.lock"} if was_used else set()
    assert there == expected
    if was_used:
        # The lock is not held any more.
        RunLock(folder).release()


def test_a_config_is_checked_beside_a_run(held, run_tool, config):
    assert run_tool("train", "-c", config("lenet_mnist"), "--check").code == 0
    assert run_tool("train", "-c", config("lenet_mnist")).code == 5


@pytest.mark.parametrize("there", [None, "folder", "file"])
def test_nothing_is_made_where_nobody_can_be(tmp_path, there):
    folder = tmp_path / "run"
    if there == "file":
        folder.write_text("")
    elif there is not None:
        folder.mkdir()
    with hold_if_used(folder) as lock:
        assert lock is None
    assert list(tmp_path.rglob("*")) == ([folder] if there else [])


def test_the_lock_of_a_dead_run_is_held_for_the_block(tmp_path):
    (tmp_path / ".lock").write_text("999999")
    with hold_if_used(tmp_path) as lock:
        assert lock is not None
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
        with pytest.raises(FolderInUseError):
            RunLock(tmp_path)
    RunLock(tmp_path).release()
