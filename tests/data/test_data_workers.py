"""Workers make batches ahead, die with their parent, and a dead one is an error at once."""

from __future__ import annotations

import contextlib
import gc
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import paddle
import pytest
from sample_datasets import BadAt, Dying, Images, Stuck

from ppema.data import LoaderReader, load_dataset, workers
from ppema.errors import DataError
from ppema.stop_signals import StopRequest, StopSignals

pytestmark = pytest.mark.reliability

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    assert multiprocessing.active_children() == []


def reader(samples, num_workers=1):
    return LoaderReader(load_dataset(samples, "error"), 5, False, False, 0, num_workers)


def wait_until(is_so, timeout_s=10):
    end = time.monotonic() + timeout_s
    while not is_so() and time.monotonic() < end:
        time.sleep(0.01)
    return is_so()


def is_alive(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def kill_oneself():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.timeout(30)
def test_an_epoch_can_be_left_though_a_worker_died_with_the_loader_s_lock():
    batches = reader(Images()).batches(1)
    next(batches)
    owner = batches.gi_frame.f_locals["workers"]
    # As a worker leaves it that is killed while it asks whether it is to end.
    owner._iterator._workers_done_event._cond.acquire()
    batches.close()


class Signalling(Images):
    """A sample whose worker lets SIGTERM come to the process that waits for it."""

    def __getitem__(self, index):
        if index == 7:
            os.kill(os.getppid(), signal.SIGTERM)
            time.sleep(600)
        return super().__getitem__(index)


@pytest.mark.timeout(30)
def test_a_wait_for_a_batch_is_left_at_a_signal_to_a_run():
    batches = reader(Signalling()).batches(1)
    # The worker is ahead: on a slow machine the signal comes in the wait for the first batch.
    with StopSignals() as signals, pytest.raises(StopRequest):
        list(itertools.islice(batches, 2))
    assert signals.received == signal.SIGTERM


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize(
    ("die", "text"),
    [
        (kill_oneself, "killed by signal 9); is there too little memory?"),
        (lambda: os._exit(3), "exit code 3)"),
        (lambda: os._exit(0), "a worker process ended before its work was done"),
    ],
)
def test_a_worker_that_dies_is_an_error_within_seconds(num_workers, die, text):
    found = []
    with pytest.raises(DataError) as caught:
        found.extend(reader(Dying(33, die), num_workers).batches(1))
    # Those before it, but for what the worker took with it.
    assert len(found) <= 6
    assert str(caught.value).startswith("sample_datasets.Dying (50 samples): ")
    assert str(caught.value).endswith(text)


class Unpicklable(Exception):
    """An error that no process could hand on to another."""

    def __init__(self, what, needed):
        super().__init__(what)
        self.lock = threading.Lock()


class Speechless(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class Odd(BaseException):
    pass


def recurse(*sample):
    return recurse(*sample)


def raise_(error):
    raise error


@pytest.fixture
def five_seconds():
    """Raise where the test waits for longer, in place of waiting for ever."""

    def ring(*_):
        raise AssertionError("no answer within 5 s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda *_: raise_(MemoryError()), "MemoryError"),
        (lambda *_: raise_(Unpicklable("lock", 1)), "Unpicklable: lock"),
        (lambda *_: raise_(Speechless()), "Speechless"),
        (lambda *_: raise_(OSError("y" * 10_000_000)), "OSError: " + "y" * 300),
        (lambda *_: raise_(GeneratorExit()), "GeneratorExit"),
        (lambda *_: raise_(Odd("odd")), "Odd: odd"),
        (recurse, "RecursionError: maximum recursion depth exceeded"),
    ],
)
def test_whatever_a_sample_raises_it_is_named(num_workers, make, text, five_seconds):
    with pytest.raises(DataError) as caught:
        list(reader(BadAt(17, make), num_workers).batches(1))
    assert str(caught.value).startswith(f"sample_datasets.BadAt (50 samples): sample 17: {text}")
    assert len(str(caught.value)) < 400


def test_a_worker_that_interrupts_itself_is_no_ctrl_c(five_seconds):
    batches = reader(BadAt(17, lambda *_: raise_(KeyboardInterrupt())), 2).batches(1)
    with pytest.raises(DataError, match="one of samples 15, 16, 17, 18, 19: KeyboardInterrupt"):
        list(batches)
    with pytest.raises(KeyboardInterrupt):
        list(reader(BadAt(17, lambda *_: raise_(KeyboardInterrupt())), 0).batches(1))


def test_a_worker_killed_from_outside_beside_a_loader_of_paddle_s_own():
    # Paddle's first loader sets its handler for dead workers, which raises where it pleases.
    for _ in paddle.io.DataLoader(Images(4), batch_size=2, num_workers=1):
        pass
    batches = reader(Images(pause_s=0.01)).batches(1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGTERM)
    with pytest.raises(DataError, match=rf"the worker process {worker.pid} died \(killed by sig"):
        list(batches)


@pytest.mark.parametrize("end", ["close", "error", "exhausted"])
def test_workers_end_with_the_epoch_however_it_ends(end):
    batches = reader(Images(), 2).batches(1)
    next(batches)
    pids = [worker.pid for worker in multiprocessing.active_children()]
    assert len(pids) == 2
    if end == "close":
        batches.close()
    elif end == "exhausted":
        list(batches)
    else:
        with pytest.raises(ZeroDivisionError), contextlib.closing(batches):
            raise ZeroDivisionError
    assert not any(map(is_alive, pids))


def test_an_epoch_without_batches_starts_no_worker():
    assert list(reader(Images()).batches(1, 50)) == []


def test_one_epoch_may_be_read_within_another():
    expected = [batch.image.tobytes() for batch in reader(Images(), 0).batches(1)]
    batches = reader(Images(), 2).batches(1)
    found = [next(batches).image.tobytes()]
    assert [batch.image.tobytes() for batch in reader(Images(), 2).batches(1)] == expected
    found += [batch.image.tobytes() for batch in batches]
    assert found == expected


def test_a_worker_does_not_collect_what_is_left_of_another_loader():
    class Collecting(Images):
        def __getitem__(self, index):
            gc.collect()
            return super().__getitem__(index)

    # Garbage in a cycle, which only the collector finds; its threads do not come along.
    left = [reader(Images()).batches(1)]
    next(left[0])
    left.append(left)
    gc.disable()
    try:
        del left
        assert len(list(reader(Collecting(8)).batches(1))) == 2
    finally:
        gc.enable()
        gc.collect()


def test_workers_are_two_batches_ahead_and_no_more(tmp_path):
    class Noting(Images):
        def __getitem__(self, index):
            (tmp_path / str(index)).touch()
            return super().__getitem__(index)

    def num_made():
        return len(list(tmp_path.iterdir()))

    batches = reader(Noting()).batches(1)
    next(batches)
    assert wait_until(lambda: num_made() == 15)
    next(batches)
    assert wait_until(lambda: num_made() == 20)
    time.sleep(0.2)
    assert num_made() == 20
    batches.close()


def test_a_stuck_sample_leaves_signals_to_the_program(tmp_path):
    class Alarm(Exception):
        pass

    def ring(*_):
        raise Alarm

    path = tmp_path / "stuck"
    batches = reader(Stuck(7, path)).batches(1)
    next(batches)
    assert wait_until(path.exists)
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(Alarm):
            next(batches)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not is_alive(int(path.read_text()))


def test_a_worker_is_out_of_reach_of_the_terminal_and_has_no_file_in_shared_memory():
    batches = reader(Images(pause_s=0.001)).batches(1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    assert os.getsid(worker.pid) == worker.pid != os.getsid(0)
    for pid in (worker.pid, os.getpid()):
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
        assert not [line for line in maps if "/dev/shm" in line and "(deleted)" not in line]
    # Ctrl-C asks the parent to stop, which then saves its step; SIGINT alone ends no worker.
    os.kill(worker.pid, signal.SIGINT)
    assert len(list(batches)) == 9


CHILD = """
import multiprocessing, sys, time
from sample_datasets import Images
from ppema.data import LoaderReader, load_dataset
dataset = load_dataset(Images(pause_s=0.01), "error")
batches = LoaderReader(dataset, 5, False, False, 0, 2).batches(1)
next(batches)
print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
{end}
"""


@pytest.mark.parametrize(
    ("end", "number"),
    [
        ("time.sleep(600)", signal.SIGKILL),
        ("time.sleep(600)", signal.SIGTERM),
        ("raise SystemExit(0)", None),
    ],
)
def test_workers_do_not_outlive_their_parent(end, number):
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parents[1]}"}
    with subprocess.Popen(
        # Paddle's own warning at import, that ccache is missing, is no matter here.
        [sys.executable, "-W", "ignore", "-c", CHILD.format(end=end)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        if number is not None:
            parent.send_signal(number)
        _, err = parent.communicate(timeout=20)
    assert wait_until(lambda: not any(map(is_alive, pids)))
    if number is None:
        assert err == ""


def test_where_paddle_has_no_workers_batches_are_made_in_turn(monkeypatch):
    expected = [batch.image.tobytes() for batch in reader(Images(), 1).batches(1)]
    monkeypatch.setattr(workers.sys, "platform", "darwin")
    here = reader(Images(), 2)
    assert here.num_workers == 0
    assert [batch.image.tobytes() for batch in here.batches(1)] == expected
