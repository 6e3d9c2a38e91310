"""kill -9 at any moment: no checkpoint is lost, no step taken back, the final bits the same."""

from __future__ import annotations

import random
import re
import signal
import time

import pytest
from run_process import KEEP, Run, require_equal, wait_while
from torture_record import pending, recorded

from ppema.checkpoint import Checkpoint

KILLS = 10
# Of a life, in steps: all of them together end before the run does.
LONGEST = 20


def newest(run):
    return max(run.steps(), default=0)


def kill(run, choose):
    """Start the run, kill it at a moment that `choose` draws; return its log and what stood."""
    before = newest(run)
    log, process = run.start()
    aim = choose.choice(["any", "running", "saving", "saving"])
    if aim == "any":
        # Also while it imports, looks through the folder and puts back what it found.
        end = time.monotonic() + choose.uniform(0, 2)
        wait_while(process, lambda: time.monotonic() < end and newest(run) < before + LONGEST)
    else:
        enough = before + choose.randint(1, LONGEST)
        wait_while(process, lambda: newest(run) < enough)
        wait_while(process, lambda: aim == "saving" and not run.is_saving())
        time.sleep(choose.uniform(0, 0.008 if aim == "saving" else 0.05))
    stood = run.steps()
    process.kill()
    assert process.wait() == -signal.SIGKILL, log.read_text()
    return log, stood


def killed_run(folder, seed, figures):
    """Kill a run KILLS times, looking through its folder each time; return what it ends with."""
    choose = random.Random(seed)
    run = Run(folder)
    last, saved, figures["kills"], figures["mid_save"] = 0, set(), 0, 0
    for _ in range(KILLS):
        log, stood = kill(run, choose)
        figures["kills"] += 1
        figures["mid_save"] += run.is_saving()
        # Said by those that lived to say it.
        continued = re.findall(r"continuing \S+ after step (\d+) of", log.read_text())
        assert set(continued) <= {str(last)}
        steps = run.steps()
        for step in steps:
            Checkpoint(run.store.path(step)).verify()
        saved |= steps | stood
        assert len(steps) >= min(KEEP, len(saved))
        assert newest(run) >= max(stood, default=0) >= last
        last = newest(run)
    return run.finish()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("straight")).finish()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_killed_run_ends_with_the_bits_of_the_uninterrupted_one(tmp_path, uninterrupted, seed):
    figures = {}
    require_equal(killed_run(tmp_path, seed, figures), uninterrupted)
    assert 10 * figures["mid_save"] >= figures["kills"] == KILLS


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(100, 120))
def test_two_hundred_kills(tmp_path, seed, request):
    for case in pending("kill -9", [seed]):
        # Made only where something is left to do.
        uninterrupted = request.getfixturevalue("uninterrupted")
        with recorded("kill -9", case) as figures:
            require_equal(killed_run(tmp_path, case, figures), uninterrupted)
            assert 10 * figures["mid_save"] >= figures["kills"] == KILLS
