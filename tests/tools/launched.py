"""A training run of several processes, started by Paddle's launcher, to be killed and resumed."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from in_process import REPOSITORY

# How long a process that is gone may leave the others waiting.
PATIENCE_S = 30


class LaunchedRun:
    """One run in a folder of its own, whose config is `run.yml` there.

    Args:
        home: the folder.
        config: what is in the file.
    """

    def __init__(self, home, config):
        home.mkdir(parents=True, exist_ok=True)
        (home / "run.yml").write_text(config)
        self.home, self.folder = home, home / "output/run"
        self._lives = itertools.count()

    def start(self, num_processes, *arguments, tool="train"):
        """Start the processes; return the file with what the first says, and the launcher."""
        command = [sys.executable, str(REPOSITORY / f"tools/{tool}.py"), "-c", "run.yml"]
        if num_processes > 1:
            options = ["--nproc_per_node", str(num_processes), "--log_dir", "log"]
            command[1:1] = ["-m", "paddle.distributed.launch", *options]
        said = self.home / f"life_{next(self._lives)}.txt"
        with open(said, "w") as file:
            return said, subprocess.Popen(
                [*command, *arguments],
                cwd=self.home,
                env={
                    **os.environ,
                    "PPEMA_MIRRORS": "",
                    "HOME": str(self.home),
                    "PYTHONPATH": f"{REPOSITORY}:{self.home}",
                },
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self, num_processes, *arguments, code=0, tool="train"):
        """Let the processes go to their end; return what the first said."""
        said, launcher = self.start(num_processes, *arguments, tool=tool)
        assert launcher.wait(120) == code, self.all_said(said)
        return said.read_text()

    def all_said(self, said):
        """Return what all processes of the last life said."""
        logs = sorted(self.home.glob("log/workerlog.*"))
        return "\n".join(path.read_text()[-3000:] for path in [said, *logs])

    def steps(self):
        """Return the steps that stand."""
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        return sorted(int(name[5:]) for name in names if re.fullmatch(r"step_\d{9}", name))

    def wait_for_step(self, step, launcher):
        """Wait until a step as late as this one is saved."""
        while not any(saved >= step for saved in self.steps()):
            assert launcher.poll() is None
            time.sleep(0.001)

    def pid_of(self, rank):
        """Return the id of the process of this rank."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            # One that ended just now has nothing to read any more.
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cwd").readlink() != self.home:
                    continue
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                if f"PADDLE_TRAINER_ID={rank}".encode() in variables:
                    return int(pid)
        raise AssertionError(f"no process of rank {rank}")

    def processes(self):
        """Return the ids of all processes that run in the folder."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cwd").readlink() == self.home:
                    found.append(int(pid))
        return found
