"""A real training run in a process of its own, to be killed, stopped and resumed."""

from __future__ import annotations

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


class Run:
    """One training run, started as often as need be with `-r auto` in a folder of its own."""

    def __init__(self, home):
        home.mkdir(exist_ok=True)
        (home / "torture.yml").write_text(CONFIG)
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
                env={**os.environ, "PPEMA_MIRRORS": "", "HOME": str(self._home)},
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
