"""Two batches at once: the same figures, and only for layers that leave nothing behind."""

from __future__ import annotations

import os
import signal
import threading

import paddle
import pytest
from paddle import nn
from trainers import DropoutNet, make_reader

from ppema.engine import evaluate as evaluate_module
from ppema.engine.evaluate import evaluate
from ppema.engine.two_threads import can_take_two_threads, map_in_two_threads
from ppema.fast_cpu import FastLayers
from ppema.models import MODELS
from ppema.stop_signals import StopRequest, StopSignals


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.parametrize("is_fast", [True, False])
def test_the_figures_are_those_of_one_thread_to_the_bit(monkeypatch, is_fast):
    paddle.seed(0)
    model = paddle.vision.models.LeNet()
    reader, threads = make_reader(39, batch_size=3), set()
    plain = evaluate_module._count_batch

    def count(*arguments):
        threads.add(threading.get_ident())
        return plain(*arguments)

    monkeypatch.setattr(evaluate_module, "_count_batch", count)
    with FastLayers(model, is_fast).in_use():
        found = evaluate(model, nn.CrossEntropyLoss(), reader)
        assert len(threads) == 2
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        threads.clear()
        assert evaluate(model, nn.CrossEntropyLoss(), reader) == found
        assert len(threads) == 1


def test_a_signal_to_a_run_ends_an_evaluation_at_the_next_batch(monkeypatch):
    started, ended = [], []
    plain = evaluate_module._count_batch

    def count(model, loss_fn, predictions, numbered):
        started.append(numbered[0])
        if numbered[0] == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        found = plain(model, loss_fn, predictions, numbered)
        ended.append(numbered[0])
        return found

    monkeypatch.setattr(evaluate_module, "_count_batch", count)
    reader = make_reader(390, batch_size=3)
    with StopSignals(), pytest.raises(StopRequest):
        evaluate(paddle.vision.models.LeNet(), nn.CrossEntropyLoss(), reader)
    # Those handed over by then, and none that still runs.
    assert 6 in started
    assert len(started) < 10
    assert sorted(started) == sorted(ended)


def test_results_come_in_order_and_without_gradients():
    weight = paddle.ones([1])
    weight.stop_gradient = False
    caller, meeting = threading.get_ident(), threading.Event()
    threads = []

    def work(item):
        threads.append(threading.get_ident())
        if threads[-1] == caller:
            meeting.set()
        # The helper's first call ends once the caller has worked too.
        assert meeting.wait(30)
        return item, (weight * item).stop_gradient

    assert map_in_two_threads(work, range(50)) == [(item, True) for item in range(50)]
    assert len(set(threads)) == 2


def test_items_are_taken_in_the_caller_s_thread():
    def items():
        for item in range(20):
            assert threading.current_thread() is threading.main_thread()
            yield item

    assert map_in_two_threads(lambda item: item, items()) == list(range(20))


@pytest.mark.parametrize("fault", ["helper", "caller", "items"])
def test_what_is_raised_in_either_thread_or_by_the_items_comes_out(fault):
    caller = threading.get_ident()

    def work(item):
        is_caller = threading.get_ident() == caller
        if fault in ("helper", "caller") and is_caller == (fault == "caller"):
            raise KeyboardInterrupt(fault)

    def items():
        yield from range(100)
        if fault == "items":
            raise KeyboardInterrupt("items")

    with pytest.raises(KeyboardInterrupt, match=fault):
        map_in_two_threads(work, items())


def allowed(model):
    return can_take_two_threads(model, nn.CrossEntropyLoss())


def hooked(add):
    model = nn.Sequential(nn.Linear(2, 2))
    getattr(model[0], add)(lambda *_: None)
    return model


def with_forward_of_its_own():
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].forward = lambda x: x
    return model


@pytest.mark.parametrize(
    "make",
    [
        DropoutNet,
        lambda: hooked("register_forward_pre_hook"),
        lambda: hooked("register_forward_post_hook"),
        with_forward_of_its_own,
        lambda: nn.Sequential(nn.SpectralNorm([4, 4])),
        lambda: nn.Sequential(nn.FractionalMaxPool2D(2)),
        lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(2, 2))),
    ],
)
def test_layers_that_may_keep_something_of_a_batch_get_one_thread(make):
    assert allowed(nn.Sequential(nn.Linear(2, 2)))
    assert not allowed(make())


def test_a_loss_of_the_user_s_own_gets_one_thread():
    assert not can_take_two_threads(nn.Linear(2, 2), lambda logits, label: logits.mean())


def test_the_models_that_come_with_ppema_may_take_two():
    required = {"ResNet": {"block": "BasicBlock"}, "SqueezeNet": {"version": "1.1"}}
    # Without drawing the weights, which takes a hundred times as long.
    with paddle.LazyGuard():
        made = {name: make(**required.get(name, {})) for name, make in MODELS.items()}
    assert [name for name, model in made.items() if not allowed(model)] == []


@pytest.mark.parametrize("cores", [{0}, {0, 1}])
def test_one_core_gets_one_thread(monkeypatch, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores, raising=False)
    assert allowed(nn.Linear(2, 2)) == (len(cores) == 2)
