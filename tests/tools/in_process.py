"""Run tools in this process, and look at what they said and at what they left."""

from __future__ import annotations

import contextlib
import io
import runpy
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from faulty_disk import copy_bytes

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Result:
    code: int
    out: str
    err: str


def run_in(folder, name, *arguments):
    """Run a tool in a folder that more than one test is to use; it has to succeed."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, folder)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = call(patch, name, arguments)
    assert (code, err.getvalue()) == (0, ""), (name, arguments, out.getvalue())
    return out.getvalue()


def enter(patch, folder):
    patch.chdir(folder)
    patch.setenv("HOME", str(folder / "home"))
    patch.setenv("PPEMA_MIRRORS", "")


def call(patch, name, arguments):
    script = REPOSITORY / "tools" / f"{name}.py"
    patch.setattr(sys, "argv", [str(script), *map(str, arguments)])
    # A tool need not leave with the handlers that pytest has.
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(script), run_name="__main__")
    for number, handler in before.items():
        signal.signal(number, handler)
    return exit_.value.code or 0


def contents(folder):
    """Return what a folder holds: the bytes of files, where links lead, and all other names."""
    names = {str(path.relative_to(folder)): None for path in Path(folder).rglob("*")}
    return {**names, **copy_bytes(folder)}


def line_of(result, code):
    """Return the one line that a tool said on stderr before it ended with `code`."""
    assert result.code == code, (result.code, result.out, result.err)
    assert result.err.count("\n") == 1, result.err
    assert result.err.endswith("\n")
    line = result.err[:-1]
    assert line.isprintable(), line
    return line
