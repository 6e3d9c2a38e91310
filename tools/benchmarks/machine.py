"""Where and with what the figures were measured."""

from __future__ import annotations

import os
import platform
import shlex
from typing import Sequence

from ppema.machine import describe_machine, version_of

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def facts(argv: Sequence[str], torch: str) -> dict[str, str]:
    """Return the machine, the versions, the threads and the exact command.

    Args:
        argv: the command's arguments.
        torch: its version, or why there is none.
    """
    versions = {name: version_of(name) for name in ("paddlepaddle", "numpy", "numba")}
    threads = [f"{name}={os.environ.get(name, 'unset')}" for name in _THREAD_VARIABLES]
    return {
        "machine": describe_machine(),
        "python": platform.python_version(),
        **versions,
        "torch": torch,
        "threads": ", ".join(threads),
        "command": f"python tools/benchmark.py {shlex.join(argv)}",
    }


def describe(found: dict[str, str]) -> str:
    """Return the facts as lines of text."""
    width = max(map(len, found))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in found.items())
