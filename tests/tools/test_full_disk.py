"""A disk that is full, broken or read-only ends a run with one line and 6; -r auto goes on."""

from __future__ import annotations

import errno
import random
import resource
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from faulty_disk import Fault, FaultyDisk
from in_process import REPOSITORY
from torture_record import pending, recorded

from ppema.checkpoint import FINAL, CheckpointStore

FOLDER = Path("output/lenet_mnist")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS)


def write_mnist(folder):
    """Write a hundred images of noise as MNIST's four files."""
    folder.mkdir()
    pixels = np.random.RandomState(0).randint(0, 256, 100 * 784).astype("uint8").tobytes()
    labels = (np.arange(100) % 10).astype("uint8").tobytes()
    for part in ("train", "t10k"):
        images = struct.pack(">IIII", 2051, 100, 28, 28) + pixels
        (folder / f"{part}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 100) + labels)


def arguments(data, num_epochs, posthoc_every=1):
    folders = [f"{part}Dataset.dataset_dir={data}" for part in ("Train", "Eval")]
    options = (*folders, f"epoch={num_epochs}", "snapshot_iter=1", "use_vdl=false")
    average = "Averages={ema: {name: PowerFunctionEMA, sigma_rel: 0.1}}"
    return ("--eval", "-r", "auto", "-o", *options, average, f"posthoc_every={posthoc_every}")


@pytest.fixture
def train(run_tool, config, tmp_path):
    """Return a function that trains up to an epoch, each of two steps, on small data."""
    write_mnist(tmp_path / "data")
    command = ("train", "-c", config("lenet_mnist"))
    return lambda num_epochs: run_tool(*command, *arguments(tmp_path / "data", num_epochs))


def final_bits():
    final = FOLDER / FINAL
    states = [paddle.load(str(final / name)) for name in ("model.pdparams", "ema.pdparams")]
    snapshots = {path.name: path.read_bytes() for path in (FOLDER / "snapshots").iterdir()}
    weights = [{name: t.numpy().tobytes() for name, t in state.items()} for state in states]
    return weights, snapshots


def num_changes(train):
    """Count what a run of two epochs changes after the first, and return its end too."""
    assert train(1).code == 0
    shutil.copytree(FOLDER, "before", symlinks=True)
    with FaultyDisk(FOLDER) as disk:
        assert train(2).code == 0
    return disk.changes, final_bits()


def refuse(train, fault, wanted):
    """Go on from the first epoch on a disk with a fault, then on a mended one."""
    shutil.rmtree(FOLDER)
    shutil.copytree("before", FOLDER, symlinks=True)
    store = CheckpointStore(FOLDER, 3)
    with FaultyDisk(FOLDER, fault) as disk:
        result = train(2)
    assert disk.has_refused
    assert result.code in (0, 6), (fault, disk.changes[fault.number], result.err)
    if result.code:
        assert result.err.count("\n") == 1, result.err
        reasons = ("no space left", "input/output error", "read-only file system")
        assert any(reason in result.err.lower() for reason in reasons), result.err
    newest = store.newest()
    assert newest.step >= 2
    result = train(2)
    assert result.code == 0, (fault, result.err)
    assert final_bits() == wanted
    assert not list(FOLDER.rglob(".tmp-*"))


def test_a_run_goes_on_after_any_write_was_refused(train):
    changes, wanted = num_changes(train)
    for number in random.Random(5).sample(range(len(changes)), 6):
        refuse(train, Fault(number, ERRORS[number % 3], lasts=number % 2 == 0, torn=True), wanted)


@pytest.mark.torture
def test_a_run_goes_on_after_each_write_was_refused(train):
    changes, wanted = num_changes(train)
    for case in pending("refused writes", range(len(changes))):
        with recorded("refused writes", case) as figures:
            for code in ERRORS:
                refuse(train, Fault(case, code, lasts=code == errno.EROFS, torn=True), wanted)
            figures.update(faults=3, change=changes[case].kind)


@pytest.mark.parametrize(
    ("posthoc_every", "message"),
    [
        (1, "cannot save a snapshot of ema at step 3: file too large"),
        (99, "cannot save step 3: file too large; step 2 kept"),
    ],
)
def test_a_file_size_limit_keeps_the_checkpoint_before(train, tmp_path, posthoc_every, message):
    assert train(1).code == 0
    shutil.copytree(FOLDER, "before", symlinks=True)
    assert train(2).code == 0
    wanted = final_bits()
    shutil.rmtree(FOLDER)
    shutil.copytree("before", FOLDER, symlinks=True)
    config = REPOSITORY / "configs/lenet_mnist.yml"
    command = [sys.executable, str(REPOSITORY / "tools/train.py"), "-c", str(config)]
    limit = 100_000  # bytes: records and log fit, weights do not
    done = subprocess.run(
        [*command, *arguments(tmp_path / "data", 2, posthoc_every)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (6, message + "\n")
    assert CheckpointStore(FOLDER, 3).steps() == [2, 1]
    assert train(2).code == 0
    assert final_bits() == wanted


def test_a_read_only_folder_is_said_before_training(train):
    assert train(1).code == 0
    with FaultyDisk(FOLDER, Fault(0, errno.EROFS, lasts=True)):
        result = train(2)
    assert (result.code, result.out) == (6, "")
    assert result.err == f"{FOLDER}: cannot be written: Read-only file system\n"
