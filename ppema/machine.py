"""The machine and the versions that figures were measured with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from . import __version__

_CPU_INFO = Path("/proc/cpuinfo")


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


def describe_machine() -> str:
    """Return processor, cores and system on a line."""
    return f"{cpu_model()}, {num_cores()} cores, {platform.system()}"


def machine_facts() -> dict[str, str]:
    """Return the machine, and the versions of what computes on it."""
    return {
        "machine": describe_machine(),
        "python": platform.python_version(),
        "ppema": __version__,
        **{name: version_of(name) for name in ("paddlepaddle", "numpy")},
    }


def version_of(package: str) -> str:
    """Return the version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        # The build for GPUs has another name.
        return version_of("paddlepaddle-gpu") if package == "paddlepaddle" else "not installed"
