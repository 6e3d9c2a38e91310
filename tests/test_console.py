"""What run_tool does around every tool, in a process of its own."""

from __future__ import annotations

import ctypes
import os
import signal
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


# A tool that sends itself a signal; its Paddle takes SIGTERM for itself, as the real one does.
SIGNALLED = """
import atexit, os, signal, sys, time
from ppema.console import import_paddle, run_tool

def send():
    os.kill(os.getpid(), {number})

def main(argv):
    {body}
    time.sleep(5)
    return 0

run_tool(main)
"""
OWN_PADDLE = """
import os, signal
signal.signal(signal.SIGTERM, lambda *_: os.write(2, b"a page\\n"))
if os.environ["DURING_IMPORT"]:
    os.kill(os.getpid(), int(os.environ["DURING_IMPORT"]))
"""
UNWINDING = "try: send()\n    finally: send()"
CHILD = "os.fork() or send(); print(os.waitstatus_to_exitcode(os.wait()[1])); return 0"


def signalled(folder, number, body, during_import=""):
    """Return the exit code and what was said on stderr."""
    folder.joinpath("paddle.py").write_text(OWN_PADDLE)
    path = f"{folder}:{Path(__file__).resolve().parents[1]}"
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SIGNALLED.format(number=int(number), body=body)],
        env={**os.environ, "PYTHONPATH": path, "DURING_IMPORT": str(during_import)},
        capture_output=True,
        text=True,
    )
    return found.returncode, found.stderr, found.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("body", ["send()", "import_paddle(); send()"])
def test_a_signal_ends_a_tool_with_one_line(tmp_path, number, body):
    line = f"interrupted by {number.name}\n"
    assert signalled(tmp_path, number, body) == (128 + number, line, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("body", [UNWINDING, "atexit.register(send); return 0"])
def test_a_second_signal_or_one_at_python_s_own_end_says_nothing(tmp_path, number, body):
    assert signalled(tmp_path, number, body) == (-number, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_forked_just_now_ends_without_a_word(tmp_path, number):
    # The child is the one that sends, to itself.
    assert signalled(tmp_path, number, CHILD) == (0, "", f"{128 + number}\n")


def test_signals_while_paddle_is_imported_surface_nowhere(tmp_path):
    found = signalled(tmp_path, 0, "import_paddle()", int(signal.SIGINT))
    assert found == (-signal.SIGINT, "", "")
    found = signalled(tmp_path, 0, "import_paddle()", int(signal.SIGTERM))
    assert found == (128 + signal.SIGTERM, "interrupted by SIGTERM\n", "")


FAIL = """
from ppema.console import run_tool
from ppema.errors import CheckpointError

def main(argv):
    raise CheckpointError("said to nobody")

run_tool(main)
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_the_code_tells_where_a_full_disk_takes_no_line():
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", FAIL],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
            stdout=full,
            stderr=full,
            timeout=60,
        )
    assert result.returncode == 3


# The child says that it runs; its parent waits to be killed.
SLEEPER = """
import time
from ppema.console import run_tool

def main(argv):
    print("runs", flush=True)
    time.sleep(60)
    return 0

run_tool(main)
"""
STARTER = """
import os
import subprocess
import sys
import time

environment = {**os.environ, "PPEMA_PARENT": sys.argv[1] or str(os.getpid())}
child = subprocess.Popen([sys.executable, "-c", sys.argv[2]], env=environment)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
@pytest.mark.parametrize("named", ["", "1"], ids=["its parent", "one that was gone before"])
def test_a_tool_is_stopped_by_the_end_of_the_process_it_is_to_follow(named):
    parent = subprocess.Popen(
        [sys.executable, "-c", STARTER, named, SLEEPER],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if not named:
        assert parent.stdout.readline() == "runs\n"
        parent.kill()
        # Both ends of the pipe are closed once both processes are gone.
        assert parent.stderr.read() == "interrupted by SIGTERM\n"
    else:
        assert parent.stderr.readline() == "interrupted by SIGTERM\n"
        parent.kill()
    parent.communicate(timeout=30)


SAVE_WHEN_STOPPED = """
import time
from ppema.console import run_tool
from ppema.stop_signals import StopSignals

def main(argv):
    with StopSignals() as signals:
        print("ready", flush=True)
        while signals.received is None:
            time.sleep(0.01)
        print("noted", flush=True)
        time.sleep(0.3)
        print("saved", flush=True)
    return 7

run_tool(main)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PPEMA_PARENT is for Linux")
@pytest.mark.parametrize(
    ("settings", "said", "code"),
    [
        # A study passes a signal on, and its own end sends another.
        ({"PPEMA_PARENT": str(os.getpid())}, b"saved\n", 7),
        # Who typed Ctrl-C twice means it.
        ({}, b"", -signal.SIGTERM),
    ],
)
def test_a_second_signal_ends_what_is_saved_unless_a_study_sent_it(settings, said, code):
    process = subprocess.Popen(
        [sys.executable, "-c", SAVE_WHEN_STOPPED],
        stdout=subprocess.PIPE,
        env={**os.environ, **settings},
    )
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == b"noted\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[0] == said
    assert process.returncode == code
