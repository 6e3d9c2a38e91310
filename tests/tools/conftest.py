"""Run a tool as a user does, in a folder of the test's own, with no MNIST and no network."""

from __future__ import annotations

import runpy
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def run_tool(tmp_path, monkeypatch, capfd):
    """Return a function that runs `tools/<name>.py` in this process and returns what it said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PPEMA_MIRRORS", "")

    def run(name, *arguments):
        script = REPOSITORY / "tools" / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
        capfd.readouterr()
        # The tool leaves with the system's own handlers, which would end pytest.
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(str(script), run_name="__main__")
        for number, handler in before.items():
            signal.signal(number, handler)
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return Result(exit_.value.code or 0, out, err)

    return run


@pytest.fixture
def config():
    """Return a function from a config's name to its path."""
    return lambda name: REPOSITORY / "configs" / f"{name}.yml"
