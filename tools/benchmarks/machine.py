"""Where and with what the figures were measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
from pathlib import Path
from typing import Sequence

_CPU_INFO = Path("/proc/cpuinfo")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def facts(argv: Sequence[str], torch: str) -> dict[str, str]:
    """Return the machine, the versions, the threads and the exact command.

    Args:
        argv: the command's arguments.
        torch: its version, or why there is none.
    """
    versions = {name: _version(name) for name in ("paddlepaddle", "numpy", "numba")}
    threads = [f"{name}={os.environ.get(name, 'unset')}" for name in _THREAD_VARIABLES]
    return {
        "machine": f"{cpu_model()}, {num_cores()} cores, {platform.system()}",
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


def cpu_model() -> str:
    """Return the processor's name, as far as the system tells."""
    if _CPU_INFO.exists():
        for line in _CPU_INFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def num_cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        # The build for GPUs has another name.
        return _version("paddlepaddle-gpu") if package == "paddlepaddle" else "not installed"
