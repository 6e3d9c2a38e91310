"""When numba is loaded, what happens where it fails, and the helper thread."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading

import paddle
import pytest
from networks import Oddities
from paddle.vision.models import LeNet
from update_paths import bits, use_numba, use_numpy

from ppema import ExponentialMovingAverage
from ppema.averaging import kernels

TRAIN = """
import hashlib, sys, paddle
from ppema import ExponentialMovingAverage
from ppema.averaging import kernels
{before}
paddle.seed(1)
model = paddle.vision.models.LeNet()
ema = ExponentialMovingAverage(model, 0.9)
for _ in range(30):
    for parameter in model.parameters():
        parameter.set_value(parameter * 1.01)
    ema.update()
{after}
shadow = ema.state_dict()["shadow"]
print(hashlib.sha256(b"".join(t.numpy().tobytes() for t in shadow.values())).hexdigest())
"""
AT_ONCE = "kernels.LOAD_S = 0.0"
IS_LOADED = "assert kernels.compiled_kernels() is not None"


def run(before="", after="", **environment):
    """Return what a new process prints that trains for 30 steps."""
    result = subprocess.run(
        [sys.executable, "-c", TRAIN.format(before=before, after=after)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def expected():
    return run("sys.modules['numba'] = None", "assert kernels.compiled_kernels() is None")


def test_a_small_model_never_loads_numba(expected):
    assert run(after="assert 'numba' not in sys.modules") == expected


def test_numba_is_loaded_once_the_plain_path_has_cost_as_much(expected):
    pytest.importorskip("numba")
    assert run("kernels.LOAD_S = 1e-4", IS_LOADED) == expected


def test_without_numba_the_bits_are_the_same_and_nothing_is_said(expected, caplog, monkeypatch):
    assert run(AT_ONCE + "; sys.modules['numba'] = None") == expected
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "ppema.averaging.compiled", raising=False)
    assert kernels._load() is None
    assert not caplog.records


@pytest.fixture(scope="module")
def cache(expected, tmp_path_factory):
    """Return a folder with the code that one process has compiled."""
    pytest.importorskip("numba")
    folder = tmp_path_factory.mktemp("cache")
    assert run(AT_ONCE, IS_LOADED, NUMBA_CACHE_DIR=str(folder)) == expected
    return folder


def test_code_is_cached_for_the_next_process(expected, cache):
    assert list(cache.rglob("*.nbc"))
    assert run(AT_ONCE, IS_LOADED, NUMBA_CACHE_DIR=str(cache)) == expected


@pytest.mark.parametrize("damage", [b"", b"no pickle"])
@pytest.mark.parametrize("kind", ["*.nbi", "*.nbc"])
def test_a_damaged_cache_is_passed_over(damage, kind, expected, cache, tmp_path):
    shutil.copytree(cache, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.rglob(kind):
        path.write_bytes(damage)
    assert run(AT_ONCE, IS_LOADED, NUMBA_CACHE_DIR=str(tmp_path)) == expected


def test_no_folder_to_cache_in_is_no_error(expected, tmp_path):
    pytest.importorskip("numba")
    (tmp_path / "file").write_text("")
    assert run(AT_ONCE, IS_LOADED, NUMBA_CACHE_DIR=str(tmp_path / "file" / "x")) == expected


@pytest.mark.parametrize("fault", ["rounding", "compiler"])
def test_a_compiler_that_cannot_be_used_is_said_once(fault, monkeypatch, caplog):
    pytest.importorskip("numba")
    from ppema.averaging import compiled

    def fail():
        raise TypeError("no such target\nat all")

    answer = (lambda: False) if fault == "rounding" else fail
    monkeypatch.setattr(compiled, "rounds_as_numpy_does", answer)
    monkeypatch.setattr(kernels._State, "is_decided", False)
    monkeypatch.setattr(kernels._State, "kernels", None)
    monkeypatch.setattr(kernels, "LOAD_S", 0.0)
    ema = ExponentialMovingAverage(Oddities(), 0.9)
    for _ in range(3):
        ema.update()
    said = [record.getMessage() for record in caplog.records]
    reason = "its rounding is not NumPy's here" if fault == "rounding" else "no such target"
    assert len(said) == 1
    assert said[0].startswith(f"numba cannot be used ({reason}); averages are updated by NumPy")


def threads_of(num_weights, cost):
    """Return the thread of each call, by the weights that it is given."""
    threads = {}

    def work(first, last):
        threads[first, last] = threading.current_thread()
        return last - first

    assert sum(kernels.in_two_threads(work, num_weights, cost)) == num_weights
    return threads


def test_large_work_is_halved_among_two_threads_and_small_work_is_not(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    here = threading.current_thread()
    assert threads_of(11, 10**9)[0, 5] is here
    assert threads_of(11, 10**9)[5, 11] is not here
    assert threads_of(11, 11) == {(0, 11): here}


def test_a_process_with_one_core_uses_one_thread(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    assert threads_of(11, 10**9) == {(0, 11): threading.current_thread()}


@pytest.mark.parametrize("failing", [0, 5])
def test_an_exception_of_either_half_comes_out_when_both_have_ended(failing, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    ended = []

    def work(first, last):
        if first == failing:
            raise ValueError(f"at {first}")
        threading.Event().wait(0.1)
        ended.append(first)

    with pytest.raises(ValueError, match=f"at {failing}"):
        kernels.in_two_threads(work, 10, 10**9)
    assert ended == [5 - failing]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
# Python 3.12 warns of any fork beside a thread.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_updates_on_two_threads_of_its_own(monkeypatch):
    pytest.importorskip("numba")
    use_numba(monkeypatch)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setattr(kernels, "MIN_WEIGHTS_OF_TWO_THREADS", 0)
    model = LeNet()
    ema, slow = (ExponentialMovingAverage(model, 0.9) for _ in range(2))
    ema.update()
    slow.update()
    child = os.fork()
    if child == 0:
        # A child that waits for a thread it does not have must not hold up the tests.
        signal.alarm(30)
        code = 1
        try:
            model.fc[0].weight.set_value(paddle.ones([400, 120]))
            ema.update()
            use_numpy(monkeypatch)
            slow.update()
            code = 0 if bits(ema) == bits(slow) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
