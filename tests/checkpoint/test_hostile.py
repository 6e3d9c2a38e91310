"""Hostile weight files are refused, or harmless: in time, in memory, and without a trace (P4)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
from hostile import CASES, HARMLESS, SENTINEL, truncated

from ppema.checkpoint.weight_file import read_weight_file
from ppema.errors import CheckpointError

FOLDER = Path(__file__).resolve().parent
# What Python's objects take beside the bytes of a file: 300,000 opcodes of at most 100 bytes.
SLACK = 40 << 20


def test_there_are_many_of_them():
    assert len(CASES) > 150


@pytest.mark.parametrize("name", [name for name in CASES if name not in HARMLESS])
def test_it_is_refused_in_one_line_and_runs_nothing(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pdparams"
    path.write_bytes(CASES[name])
    # Of this process: what else runs at the time takes nothing of it.
    started = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        read_weight_file(path)
    assert time.process_time() - started < 2.0
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < len(str(path)) + 300
    assert os.listdir(tmp_path) == ["w.pdparams"]


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_what_is_harmless_loads(tmp_path, name):
    path = tmp_path / "w.pdparams"
    path.write_bytes(CASES[name])
    assert read_weight_file(path) == {"w": None}


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("length ")])
def test_a_length_that_is_only_said_reserves_nothing(tmp_path, name):
    path = tmp_path / "w.pdparams"
    path.write_bytes(CASES[name])
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            read_weight_file(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_genuine_file_cut_anywhere_is_refused(tmp_path, protocol):
    path = tmp_path / "w.pdparams"
    for content in truncated(protocol):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="is not a Paddle weight file"):
            read_weight_file(path)


def test_a_pipe_and_a_device_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(CheckpointError, match="no regular file"):
            read_weight_file(path)


CHILD = """
import json, re, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from hostile import CASES
import paddle
from ppema.checkpoint.weight_file import read_weight_file
from ppema.errors import CheckpointError

def kilobytes(field):
    return int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1))

paddle.save({"w": paddle.rand([12_000_000])}, "whole")
files = {name: CASES[name] for name in CASES if len(CASES[name]) > 500 or name.startswith("length")}
growth = {}
for name in ["whole", *files]:
    if name != "whole":
        Path("w").write_bytes(files[name])
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here
    before = kilobytes("VmRSS")
    try:
        read_weight_file("whole" if name == "whole" else "w")
    except CheckpointError:
        pass
    size = Path("whole" if name == "whole" else "w").stat().st_size
    growth[name] = (size, 1024 * (kilobytes("VmHWM") - before))
print(json.dumps(growth))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux counts the peak")
def test_no_file_takes_more_than_twice_its_size(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parents[1])}
    result = subprocess.run(
        [sys.executable, "-c", CHILD, str(FOLDER)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    growth = json.loads(result.stdout.splitlines()[-1])
    assert {n: g for n, g in growth.items() if g[1] > 2 * g[0] + SLACK} == {}
    # A whole file is measured at all: a tensor of 48 MB was made of it.
    assert growth["whole"][1] > growth["whole"][0] * 0.9
    assert not (tmp_path / SENTINEL).exists()
