"""Ctrl-C and SIGTERM: the step at hand is saved, and the run goes on from it to the same bits."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import paddle
import pytest
from in_process import REPOSITORY

ARGUMENTS = ("-c", str(REPOSITORY / "configs/lenet_digits.yml"), "--eval", "-o", "epoch=2")


def start(folder, *arguments):
    command = [sys.executable, str(REPOSITORY / "tools/train.py"), *ARGUMENTS, *arguments]
    environment = {**os.environ, "PPEMA_MIRRORS": "", "HOME": str(folder)}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process, text):
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"the run ended without saying {text!r}")


def final_bits(folder):
    final = folder / "output/lenet_digits/model_final"
    states = [paddle.load(str(final / name)) for name in ("model.pdparams", "ema.pdparams")]
    return [{name: t.numpy().tobytes() for name, t in state.items()} for state in states]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    process = start(folder)
    process.communicate(timeout=120)
    assert process.returncode == 0
    return final_bits(folder)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_step_at_hand_is_saved_and_the_run_goes_on(tmp_path, uninterrupted, number, code):
    process = start(tmp_path)
    wait_for(process, "[ 40/113]")
    sent_at = time.monotonic()
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert time.monotonic() - sent_at < 10
    assert process.returncode == code
    found = re.fullmatch(
        rf"stopped by {number.name} after step (\d+), which is saved; continue with -r auto\n",
        error,
    )
    assert found, error
    manifests = sorted((tmp_path / "output/lenet_digits").glob("step_*/manifest.json"))
    assert json.loads(manifests[-1].read_text())["step"] == int(found[1]) >= 40
    resumed = start(tmp_path, "-r", "auto")
    output, error = resumed.communicate(timeout=120)
    assert (resumed.returncode, error) == (0, "")
    assert f"after step {found[1]} of 226" in output
    assert final_bits(tmp_path) == uninterrupted


def test_a_second_signal_ends_at_once(tmp_path):
    # One batch of all images: a step takes seconds, and each of its operations a part of one.
    process = start(tmp_path, "TrainReader.batch_size=7210")
    wait_for(process, "starting:")
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    assert process.returncode == -signal.SIGTERM
    process.communicate()
    assert not list((tmp_path / "output/lenet_digits").glob("step_*"))
