"""Training LeNet with data and an average, side by side with what users run today."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Sequence

from ..data import Archives, open_archives
from ..own import CONFIG, overrides
from ..remote import Remote, RemoteError, module_command, module_environment
from ..rows import Findings, Reach
from ..settings import Settings
from ..timing import SECONDS, Contender, Entry, Unit, measure_group

BATCH_SIZE = 64
SEED, FIT = "the usual loop and copied class", "hapi Model.fit"
OWN, OWN_PLAIN = "ppema", "ppema, fast_cpu off"
_TRAIN = Path(__file__).resolve().parents[2] / "train.py"


def measure(settings: Settings) -> Findings:
    """Measure images a second; and, unless it is to be quick, the whole process."""
    with open_archives(settings) as archives, tempfile.TemporaryDirectory() as scratch:
        findings = _measure_rate(archives, scratch, settings)
        findings.notes.append(f"data: {archives.source}")
        if not settings.is_quick:
            findings.add(_measure_process(archives, scratch, settings))
    return findings


def _measure_rate(archives: Archives, scratch: str, settings: Settings) -> Findings:
    num_steps = 4 if settings.is_quick else 100
    kinds = {SEED: "seed", FIT: "fit", OWN: "ppema", OWN_PLAIN: "ppema_plain"}
    reaches = {OWN: Reach(2.5, "ratio", at_least=True)}
    with contextlib.ExitStack() as stack:
        entries = []
        for name, kind in kinds.items():
            remote = Remote("train_process", kind, str(archives.folder), f"{scratch}/{kind}")
            stack.callback(remote.close)
            base = None if name == SEED else SEED
            entries.append(Entry(name, _block(remote, num_steps), base, reaches.get(name)))
        # Once untimed: the first block waits for imports and data.
        for entry in entries:
            entry.contender()
        unit = Unit("images/s", BATCH_SIZE, is_rate=True)
        group = f"training LeNet with data and an average, batch {BATCH_SIZE}"
        return Findings(measure_group(group, entries, settings.rounds_or(9), unit))


def _block(remote: Remote, num_steps: int) -> Contender:
    return lambda: float(remote.ask("block", steps=num_steps)) / num_steps


def _measure_process(archives: Archives, scratch: str, settings: Settings) -> Findings:
    """Measure the process from its start to its end: imports, data, an epoch, an evaluation."""
    seed = module_command("seed_script", str(archives.folder), f"{scratch}/seed.pdparams")
    own = [sys.executable, str(_TRAIN), "-c", str(CONFIG), "--eval", "--overwrite", "-o", "epoch=1"]
    own += overrides(archives, f"{scratch}/whole")
    entries = [
        Entry(SEED, _process(seed)),
        Entry(OWN, _process(own), SEED, Reach(0.42, "ratio")),
    ]
    group = "the whole process: one epoch and an evaluation"
    return Findings(measure_group(group, entries, settings.rounds_or(3), SECONDS))


def _process(command: Sequence[str]) -> Contender:
    def contend() -> float:
        started = time.perf_counter()
        done = subprocess.run(
            command, env=module_environment(), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RemoteError(done.stderr.strip().splitlines()[-1])
        return time.perf_counter() - started

    return contend
