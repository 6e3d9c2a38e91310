"""A real training run in a process of its own, to be killed, stopped and resumed."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
import time

import paddle
from in_process import REPOSITORY

from ppema.checkpoint import FINAL, Checkpoint, CheckpointStore

KEEP = 3
CONFIG = f"""\
_BASE_: {REPOSITORY}/configs/lenet_digits.yml
epoch: 3
log_iter: 10
snapshot_iter: 4
keep_checkpoint_max: {KEEP}
posthoc_every: 20
use_vdl: false
save_dir: output
Averages:
  ema: {{name: ExponentialMovingAverage, decay: 0.999}}
  wide: {{name: ExponentialMovingAverage, decay: 0.99, shadow_dtype: float64, update_every: 3}}
  swa: {{name: StochasticWeightAverage, start: 1 epoch}}
  latest: {{name: LatestWeightAverage, k: 3, every: 50}}
  power: {{name: PowerFunctionEMA, sigma_rel: 0.1}}
"""

# Read one by one, here or by workers, and with a random part.
SAMPLES = """
import time
from pathlib import Path

import numpy as np
import paddle

class Squares(paddle.io.Dataset):
    class_names = tuple("0123456789")

    def __init__(self, count: int):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = np.random.RandomState(index).rand(1, 28, 28) + np.random.rand(1, 28, 28)
        return image.astype("float32"), index % 10

class EvalSquares(Squares):
    def __getitem__(self, index):
        # Not what is looked at before the training begins.
        if Path("slow").exists() and any(Path("output").glob("*/metrics.jsonl")):
            Path("evaluating").touch()
            time.sleep(0.02)
        return super().__getitem__(index)
"""
OF_SAMPLES = """\
TrainDataset: {{name: squares.Squares, count: {}}}
EvalDataset: {{name: squares.EvalSquares, count: 100}}
TrainReader: {{batch_size: 16, num_workers: {}}}
"""


class Run:
    """One training run, started as often as need be with `-r auto` in a folder of its own.

    Of digits that are in memory; with `num_workers` of data that are read sample by sample.
    """

    def __init__(self, home, num_workers=None, num_samples=1600):
        home.mkdir(exist_ok=True)
        of_samples = "" if num_workers is None else OF_SAMPLES.format(num_samples, num_workers)
        (home / "torture.yml").write_text(CONFIG + of_samples)
        (home / "squares.py").write_text(SAMPLES)
        self._home, self.folder = home, home / "output/torture"
        self.store = CheckpointStore(self.folder, KEEP)
        self._lives = itertools.count()

    def start(self):
        """Start a process, the leader of a group; return the file with what it says, and it."""
        command = [sys.executable, str(REPOSITORY / "tools/train.py"), "-c", "torture.yml"]
        log = self._home / f"life_{next(self._lives)}.txt"
        with open(log, "w") as file:
            return log, subprocess.Popen(
                [*command, "--eval", "-r", "auto"],
                cwd=self._home,
                env={
                    **os.environ,
                    "PPEMA_MIRRORS": "",
                    "HOME": str(self._home),
                    "PYTHONPATH": f"{REPOSITORY}:{self._home}",
                },
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def steps(self):
        """Return the steps that stand."""
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        return {int(name[5:]) for name in names if re.fullmatch(r"step_\d{9}", name)}

    def is_saving(self):
        """Tell whether a save is under way, or was when the process died."""
        return self.folder.is_dir() and any(self.folder.glob(".tmp-step_*"))

    def processes(self):
        """Return the ids of the processes that run in the folder, workers too."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            # One that ended just now has no folder any more.
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/cwd") == str(self._home):
                    found.append(int(pid))
        return found

    def finish(self):
        """Let the run go to its end, and return all that it ends with."""
        log, process = self.start()
        assert process.wait(120) == 0, log.read_text()
        assert not list(self.folder.rglob(".tmp-*"))
        final = Checkpoint((self.folder / FINAL).resolve())
        final.verify()
        facts = final.manifest
        # But for the state, which tells where the process stood in tables of numbers.
        names = [name for name, file in facts["files"].items() if file["role"] != "state"]
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        kept = ("step", "best", "winner", "metrics", "snapshots")
        return {
            **{name: _bits(paddle.load(str(final.path / name))) for name in names},
            "facts": {key: facts[key] for key in kept},
            "records": [r for r in map(json.loads, lines) if r["split"] == "eval"],
        }


def require_equal(found, wanted):
    """Compare two ends of a run, and say which part differs rather than print its bytes."""
    assert list(found) == list(wanted)
    different = [name for name in wanted if found[name] != wanted[name]]
    assert different == []


def wait_while(process, condition):
    """Wait until the condition is false or the process has ended."""
    while condition() and process.poll() is None:
        time.sleep(0.0005)


def _bits(state):
    return {n: t.numpy().tobytes() if paddle.is_tensor(t) else t for n, t in state.items()}
