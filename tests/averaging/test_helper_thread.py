"""The helper thread: jobs in order, results and errors to the caller, nothing left at the end."""

from __future__ import annotations

import functools
import gc
import subprocess
import sys
import threading
import weakref

import pytest

from ppema.averaging.helper_thread import HelperThread


def test_jobs_are_done_in_order_by_one_other_thread():
    helper, done = HelperThread(), []
    gate = threading.Event()
    helper.submit(lambda: gate.wait(20))
    jobs = [
        helper.submit(lambda n=n: done.append((n, threading.get_ident())) or n) for n in range(5)
    ]
    assert done == []
    gate.set()
    assert [job.result() for job in jobs] == list(range(5))
    assert [n for n, _ in done] == list(range(5))
    assert len({ident for _, ident in done}) == 1
    assert done[0][1] != threading.get_ident()


def test_an_error_reaches_whoever_asks_for_the_result_and_the_next_job_is_done():
    helper = HelperThread()

    def fail():
        raise ValueError("no")

    failed, after = helper.submit(fail), helper.submit(lambda: 3)
    failed.wait()
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            failed.result()
    assert after.result() == 3


def test_draining_waits_for_all_and_is_nothing_to_do_for_the_thread_itself():
    helper, gate, done = HelperThread(), threading.Event(), []
    helper.drain()
    helper.submit(lambda: gate.wait(20))
    helper.submit(lambda: done.append(helper.is_here))
    threading.Timer(0.05, gate.set).start()
    helper.drain()
    assert done == [True]
    assert not helper.is_here
    assert helper.submit(helper.drain).result() is None


def test_a_process_ends_only_when_the_jobs_are_done_and_then_ends():
    program = (
        "import time\n"
        "from ppema.averaging.helper_thread import HelperThread\n"
        "helper = HelperThread()\n"
        "helper.submit(lambda: (time.sleep(0.5), print('done', flush=True)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.stdout, result.returncode) == ("done\n", 0)


def test_an_interrupt_while_waiting_it_out_comes_when_the_job_is_done(monkeypatch):
    helper, gate = HelperThread(), threading.Event()
    job = helper.submit(lambda: gate.wait(20))
    wait, num_calls = job.wait, []

    def interrupted():
        num_calls.append(1)
        if len(num_calls) == 1:
            threading.Timer(0.05, gate.set).start()
            raise KeyboardInterrupt
        wait()

    monkeypatch.setattr(job, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        job.wait_out()
    assert job.is_done
    assert len(num_calls) == 2


def test_a_job_that_is_done_holds_nothing_of_what_it_was_about():
    class Batch:
        pass

    helper, batch = HelperThread(), Batch()
    alive = weakref.ref(batch)
    job = helper.submit(functools.partial(str, batch))
    assert job.result()
    del batch
    helper.drain()
    gc.collect()
    assert alive() is None
