"""Ctrl-C and SIGTERM: the step at hand is saved, and the run goes on from it to the same bits."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from functools import partial

import pytest
from run_process import Run, require_equal, wait_while
from torture_record import pending, recorded

from ppema.checkpoint import Checkpoint

pytestmark = pytest.mark.reliability

SIGNALS = [signal.SIGINT, signal.SIGTERM]
# Of a life, in steps: ten of them together end before the run does.
LONGEST = 20
STARTUP_S = 4
# Of which 90 steps are made.
FEW_SAMPLES = 480


def newest(run):
    return max(run.steps(), default=0)


def is_before(run, step):
    return newest(run) < step


def send(process, number, to_group):
    if to_group:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)


def require_nothing_left(run, processes):
    assert run.processes() == []
    assert not list(run.folder.glob(".tmp-*"))
    shared = os.listdir("/dev/shm")
    assert [name for name in shared if any(str(pid) in name for pid in processes)] == []


def stop(run, is_early, pause_s, number, to_group, num_workers):
    """Start the run and send a signal while it trains; return the seconds that it took to end."""
    log, process = run.start()
    wait_while(process, is_early)
    time.sleep(pause_s)
    stood, processes = newest(run), run.processes()
    sent_at = time.monotonic()
    send(process, number, to_group)
    assert process.wait(60) == 128 + number, log.read_text()
    took_s = time.monotonic() - sent_at
    # Between two epochs they end, and start one after another.
    assert 1 <= len(processes) <= 1 + num_workers
    said = re.search(
        rf"^stopped by {number.name} after step (\d+), which is saved; continue with -r auto\Z",
        log.read_text().rstrip("\n"),
        re.MULTILINE,
    )
    assert said, log.read_text()
    assert int(said[1]) == newest(run) >= stood
    Checkpoint(run.store.path(newest(run))).verify()
    require_nothing_left(run, processes)
    return took_s


@pytest.fixture(scope="module")
def short_end(tmp_path_factory):
    """Return what a run of few samples ends with; the number of workers does not change it."""
    return Run(tmp_path_factory.mktemp("short"), 0, FEW_SAMPLES).finish()


@pytest.fixture(scope="module")
def long_end(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("long"), 0).finish()


@pytest.mark.parametrize(
    ("number", "to_group", "num_workers"),
    [(signal.SIGINT, True, 2), (signal.SIGTERM, False, 0)],
    ids=["Ctrl-C, 2 workers", "TERM, 0 workers"],
)
def test_the_step_at_hand_is_saved_and_the_run_goes_on(
    tmp_path, short_end, number, to_group, num_workers
):
    run = Run(tmp_path, num_workers, FEW_SAMPLES)
    stop(run, partial(is_before, run, 40), 0.01, number, to_group, num_workers)
    require_equal(run.finish(), short_end)


def test_an_evaluation_is_left_and_comes_first_when_the_run_goes_on(tmp_path, short_end):
    run = Run(tmp_path, 0, FEW_SAMPLES)
    slow, evaluating = tmp_path / "slow", tmp_path / "evaluating"
    slow.touch()
    # The evaluation of all sets of weights would take twelve seconds.
    stop(run, lambda: not evaluating.exists(), 0, signal.SIGTERM, False, 1)
    checkpoint = Checkpoint(run.store.path(newest(run)))
    assert (checkpoint.step, checkpoint.manifest["is_open"]) == (30, True)
    slow.unlink()
    require_equal(run.finish(), short_end)


@pytest.mark.torture
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("to_group", [False, True], ids=["process", "group"])
@pytest.mark.parametrize("number", SIGNALS, ids=["INT", "TERM"])
def test_ten_signals_of_each_kind(tmp_path, number, to_group, num_workers, request):
    name = f"{number.name}, {'group' if to_group else 'process'}, {num_workers} workers"
    for case in pending("signals", [name]):
        long_end = request.getfixturevalue("long_end")
        with recorded("signals", case) as figures:
            choose, run, slowest_s = random.Random(case), Run(tmp_path, num_workers), 0
            for figures["signals"] in range(1, 11):
                enough = newest(run) + choose.randint(1, LONGEST)
                pause_s = choose.uniform(0, 0.05)
                is_early = partial(is_before, run, enough)
                took_s = stop(run, is_early, pause_s, number, to_group, num_workers)
                slowest_s = max(slowest_s, took_s)
            require_equal(run.finish(), long_end)
            figures["slowest_s"] = round(slowest_s, 3)
            assert slowest_s < 10


def test_a_second_signal_ends_at_once(tmp_path):
    run = Run(tmp_path)
    # One batch of all images: a step takes seconds, and each of its operations a part of one.
    with open(tmp_path / "torture.yml", "a") as file:
        file.write("TrainReader: {batch_size: 7210}\n")
    log, process = run.start()
    wait_while(process, lambda: "starting:" not in log.read_text())
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    assert process.returncode == -signal.SIGTERM
    assert run.steps() == set()
    require_nothing_left(run, [process.pid])


def stop_early(run, after_s, number, to_group):
    """Start the run and send a signal after a time; it must end without a word too many."""
    log, process = run.start()
    time.sleep(after_s)
    processes = run.processes()
    send(process, number, to_group)
    code, text = process.wait(60), log.read_text()
    said = text.splitlines()[-1:]
    if code == 128 + number:
        line = rf"interrupted by {number.name}|stopped by {number.name} after step \d+, .*"
        assert re.fullmatch(line, said[0]), text
        assert "Traceback" not in text
    elif "curves drawn" in text or "is finished" in text:
        # The run was done before, and Python perhaps at its own end.
        assert code in (0, -number)
        assert "Traceback" not in text
    elif "Traceback" in text:
        # Python itself was starting, or reading the script's first imports.
        assert number == signal.SIGINT
        assert "KeyboardInterrupt" in text
        assert "in run_tool" not in text
    else:
        # Before Python had a handler, or while it imported Paddle.
        assert (code, text) == (-number, "")
    require_nothing_left(run, processes)


@pytest.mark.parametrize(("number", "after_s"), [(signal.SIGINT, 0.7), (signal.SIGTERM, 1.6)])
def test_a_signal_while_it_starts_ends_it_in_a_line_at_most(tmp_path, number, after_s):
    stop_early(Run(tmp_path, 0), after_s, number, to_group=False)


@pytest.mark.torture
@pytest.mark.parametrize("number", SIGNALS, ids=["INT", "TERM"])
@pytest.mark.parametrize("seed", range(10))
def test_signals_while_it_starts(tmp_path, seed, number, request):
    for case in pending("signals at start", [f"{number.name}, {seed}"]):
        short_end = request.getfixturevalue("short_end")
        with recorded("signals at start", case) as figures:
            choose, num_workers = random.Random(case), seed % 2 * 2
            run = Run(tmp_path, num_workers, FEW_SAMPLES)
            for figures["signals"] in (1, 2):
                stop_early(run, choose.uniform(0, STARTUP_S), number, to_group=seed % 4 > 1)
            require_equal(run.finish(), short_end)
