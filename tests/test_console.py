"""What run_tool does around every tool, in a process of its own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

# As a network does: blocks of 2 MB, made, filled and freed in turn.
COUNT_FAULTS = """
import resource
import sys
import numpy as np
from ppema.console import run_tool

def fill(times):
    for _ in range(times):
        blocks = [np.ones(1 << 18) for _ in range(4)]
        del blocks

def main(argv):
    fill(3)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    fill(20)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return 0

run_tool(main)
"""
PAGES = 20 * 4 * (2 << 20) // 4096


def num_faults(**settings):
    environment = {name: v for name, v in os.environ.items() if not name.startswith("MALLOC_")}
    environment.pop("GLIBC_TUNABLES", None)
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COUNT_FAULTS],
        env={**environment, **settings, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(found.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_freed_memory_is_used_again_unless_the_user_says_otherwise():
    assert num_faults() < PAGES / 10
    # Every block of 64 KiB and more straight from the system.
    assert num_faults(MALLOC_MMAP_THRESHOLD_="65536") > PAGES / 2
