"""A process that stays, is told by lines of JSON what to do, and answers with one each.

Both ends are here, and nothing but the standard library: torch may live with another Python.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Mapping, Optional

_TOOLS = Path(__file__).resolve().parents[1]


class RemoteError(RuntimeError):
    """The other process ended, or said that it cannot do what it was asked."""


class Remote:
    """Start a module of this package in a process of its own, and talk with it.

    Args:
        module: its name in this package.
        arguments: of its command line.
        python: the interpreter; None for this one.
        environment: variables beside those of this process.
        core: the only one that the process may use; None for all of this process.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        python: Optional[str] = None,
        environment: Optional[Mapping[str, str]] = None,
        core: Optional[int] = None,
    ) -> None:
        # A file: a pipe that nobody reads would fill, and stop the process.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                module_command(module, *arguments, python=python),
                env={**module_environment(), **(environment or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
            )
        except OSError:
            self._errors.close()
            raise
        if core is not None:
            # At once: threads that it starts later take it over.
            os.sched_setaffinity(self._process.pid, {core})

    def ask(self, do: str, **arguments: Any) -> Any:
        """Return the answer to one request.

        Raises:
            RemoteError: there is none.
        """
        self.send(do, **arguments)
        return self.receive()

    def send(self, do: str, **arguments: Any) -> None:
        """Send a request, whose answer `receive` returns."""
        process = self._process
        assert process.stdin is not None
        # Of a process that has ended, `receive` tells why.
        with contextlib.suppress(OSError):
            process.stdin.write(json.dumps({"do": do, "arguments": arguments}) + "\n")
            process.stdin.flush()

    def receive(self) -> Any:
        """Return the answer to the request sent last.

        Raises:
            RemoteError: there is none.
        """
        process = self._process
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            process.wait()
            self._errors.seek(0)
            reasons = [text for text in self._errors.read().splitlines() if text.strip()]
            raise RemoteError(reasons[-1] if reasons else f"ended with code {process.returncode}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()


class Channel:
    """The other end: requests come by stdin, answers go where stdout went when it was made.

    Whatever else the process prints from then on, in C too, goes nowhere.
    """

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def receive(self) -> tuple[str, Mapping[str, Any]]:
        """Return the next request; the process ends where nobody asks any more."""
        line = sys.stdin.readline()
        if not line:
            # At once: a loader's thread may wait for ever to be asked for its next batch.
            os._exit(0)
        request = json.loads(line)
        return request["do"], request["arguments"]

    def answer(self, value: Any) -> None:
        """Send what was asked for."""
        self._answers.write(json.dumps(value) + "\n")
        self._answers.flush()


def serve(commands: Mapping[str, Callable[..., Any]]) -> None:
    """Answer every request with what the command of that name returns."""
    channel = Channel()
    while True:
        do, arguments = channel.receive()
        channel.answer(commands[do](**arguments))


def module_command(module: str, *arguments: str, python: Optional[str] = None) -> list[str]:
    """Return the command that runs a module of this package."""
    return [python or sys.executable, "-m", f"benchmarks.{module}", *arguments]


def module_environment() -> dict[str, str]:
    """Return an environment in which a process finds this package, and the same ppema."""
    folders = [str(_TOOLS), str(_TOOLS.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}
