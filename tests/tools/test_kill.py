"""kill -9 at any moment: no checkpoint is lost, no step taken back, the final bits the same."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import subprocess
import sys
import time

import paddle
import pytest
from conftest import REPOSITORY
from torture_record import pending, recorded

from ppema.checkpoint import FINAL, Checkpoint, CheckpointStore

KEEP = 3
KILLS = 10
# Of a life, in steps: all of them together end before the run does.
LONGEST = 20
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
    """One training run that is killed and resumed, in a folder of its own."""

    def __init__(self, folder):
        folder.mkdir(exist_ok=True)
        self.home = folder
        (folder / "kill.yml").write_text(CONFIG)
        self.folder = folder / "output/kill"
        self.store = CheckpointStore(self.folder, KEEP)
        self.lives = itertools.count()

    def start(self):
        command = [sys.executable, str(REPOSITORY / "tools/train.py"), "-c", "kill.yml", "--eval"]
        environment = {**os.environ, "PPEMA_MIRRORS": "", "HOME": str(self.home)}
        log = self.home / f"life_{next(self.lives)}.txt"
        with open(log, "w") as file:
            return log, subprocess.Popen(
                [*command, "-r", "auto"],
                cwd=self.home,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def finish(self):
        """Let the run go to its end, and return all that it ends with."""
        log, process = self.start()
        assert process.wait(120) == 0, log.read_text()
        assert not list(self.folder.glob(".tmp-*"))
        final = Checkpoint((self.folder / FINAL).resolve())
        final.verify()
        facts = final.manifest
        # The optimizer and the state too, in the bytes that they are read from.
        digests = {name: file["sha256"] for name, file in facts["files"].items()}
        names = [name for name, file in facts["files"].items() if file["role"] != "state"]
        weights = {name: bits(paddle.load(str(final.path / name))) for name in names}
        kept = {key: facts[key] for key in ("step", "best", "winner", "metrics", "snapshots")}
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        records = [r for r in map(json.loads, lines) if r["split"] == "eval"]
        return {"weights": weights, "facts": kept, "names": sorted(digests), "records": records}

    def steps(self):
        """Return the steps that stand, and whether a save is under way."""
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        steps = {int(name[5:]) for name in names if re.fullmatch(r"step_\d{9}", name)}
        return steps, any(name.startswith(".tmp-step_") for name in names)


def bits(state):
    return {n: t.numpy().tobytes() if paddle.is_tensor(t) else t for n, t in state.items()}


def kill(run, choose):
    """Start the run, kill it at a moment that `choose` draws; return the log and what stood."""
    before = max(run.steps()[0], default=0)
    log, process = run.start()
    aim = choose.choice(["any", "running", "saving", "saving"])

    def wait_while(condition):
        while condition() and process.poll() is None:
            time.sleep(0.0005)

    def is_below(step):
        return max(run.steps()[0], default=0) < before + step

    if aim == "any":
        # Also while it imports, looks through the folder and puts back what it found.
        end = time.monotonic() + choose.uniform(0, 2)
        wait_while(lambda: time.monotonic() < end and is_below(LONGEST))
    else:
        advance = choose.randint(1, LONGEST)
        wait_while(lambda: is_below(advance))
        wait_while(lambda: aim == "saving" and not run.steps()[1])
        time.sleep(choose.uniform(0, 0.008 if aim == "saving" else 0.05))
    stood = run.steps()[0]
    process.kill()
    assert process.wait() == -9, log.read_text()
    return log, stood


def killed_run(folder, seed, figures):
    """Kill a run KILLS times, looking through its folder each time; return what it ends with."""
    choose = random.Random(seed)
    run = Run(folder)
    newest, saved, figures["kills"], figures["mid_save"] = 0, set(), 0, 0
    for _ in range(KILLS):
        log, stood = kill(run, choose)
        figures["kills"] += 1
        steps, is_mid_save = run.steps()
        figures["mid_save"] += is_mid_save
        # Said by those that lived to say it.
        continued = re.findall(r"continuing \S+ after step (\d+) of", log.read_text())
        assert set(continued) <= {str(newest)}
        for step in steps:
            Checkpoint(run.store.path(step)).verify()
        saved |= steps | stood
        assert len(steps) >= min(KEEP, len(saved))
        assert max(steps, default=0) >= max(stood, default=0) >= newest
        newest = max(steps, default=0)
    return run.finish()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("straight")).finish()


def require_equal(found, wanted):
    for name, state in wanted["weights"].items():
        assert found["weights"][name] == state, f"{name} differs"
    assert found == wanted


@pytest.mark.parametrize("seed", [1, 2])
def test_a_killed_run_ends_with_the_bits_of_the_uninterrupted_one(tmp_path, uninterrupted, seed):
    figures = {}
    require_equal(killed_run(tmp_path, seed, figures), uninterrupted)
    assert 10 * figures["mid_save"] >= figures["kills"] == KILLS


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(100, 120))
def test_two_hundred_kills(tmp_path, uninterrupted, seed):
    for case in pending("kill -9", [seed]):
        with recorded("kill -9", case) as figures:
            require_equal(killed_run(tmp_path, case, figures), uninterrupted)
            assert 10 * figures["mid_save"] >= figures["kills"] == KILLS
