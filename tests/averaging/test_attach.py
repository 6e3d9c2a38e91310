"""Averages that an optimizer's steps update, in line or beside the next forward and backward."""

from __future__ import annotations

import copy
import os
import signal
import threading

import numpy as np
import paddle
import pytest
from networks import Oddities, TinyBN
from test_ema_twin import make_optimizer
from test_update_all import MAKERS
from update_paths import bits, use_numba, use_numpy

from ppema import ExponentialMovingAverage, LatestWeightAverage, update_all
from ppema.averaging import kernels
from ppema.averaging.moving import MovingTensors
from ppema.averaging.views import flat_view


class Gate:
    """Keep the helper thread from starting what it is given, until `open`."""

    def __init__(self):
        self._event = threading.Event()

    def close(self):
        self._event.clear()
        kernels.start_in_background(lambda: self._event.wait(20))

    def open(self):
        self._event.set()

    def open_soon(self):
        threading.Timer(0.05, self._event.set).start()


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open()
    kernels.finish_background()


@pytest.fixture(params=[use_numpy, use_numba])
def beside(request, monkeypatch):
    """Have even a small model updated on the helper thread, by the plain path or the compiled."""
    if request.param is use_numba:
        pytest.importorskip("numba")
    request.param(monkeypatch)
    monkeypatch.setattr(kernels, "MIN_WEIGHTS_IN_BACKGROUND", 0)
    monkeypatch.setattr(kernels, "num_own_cores", lambda: 2)


@pytest.fixture
def in_line(monkeypatch):
    """Fail where the helper thread is given anything."""

    def refuse(job):
        raise AssertionError("handed to the helper thread")

    monkeypatch.setattr(kernels, "start_in_background", refuse)
    monkeypatch.setattr(kernels, "num_own_cores", lambda: 2)


def compute_gradients(model, random):
    image = paddle.to_tensor(random.uniform(-1, 1, [4, 1, 28, 28]).astype("float32"))
    paddle.nn.functional.cross_entropy(model(image), paddle.arange(4)).backward()


def set_up(make=lambda model: ExponentialMovingAverage(model, 0.9), network=TinyBN):
    """Return a model, its optimizer, an average to attach and a twin to update by hand."""
    paddle.seed(1)
    model = network()
    return model, make_optimizer(model), make(model), make(model)


def set_up_behind(gate, *arguments, **named):
    """Return the same after a step whose update waits behind the gate; the twin has its own."""
    model, optimizer, average, twin = set_up(*arguments, **named)
    average.attach(optimizer)
    compute_gradients(model, np.random.RandomState(0))
    gate.close()
    optimizer.step()
    twin.update()
    return model, optimizer, average, twin


def full_state(average):
    state = average.state_dict()
    shadow = {name: tensor.numpy().tobytes() for name, tensor in state.pop("shadow").items()}
    for snapshot in state.get("snapshots", []):
        shadow.update({name: tensor.numpy().tobytes() for name, tensor in snapshot.items()})
    return {**state, "shadow": shadow, "snapshots": None}


# The patterns of "some" are of one of the networks.
@pytest.mark.parametrize(
    ("network", "kind"),
    [(Oddities, kind) for kind in MAKERS] + [(TinyBN, kind) for kind in MAKERS if kind != "some"],
)
@pytest.mark.parametrize("overlap", [True, False])
def test_each_step_updates_as_a_call_does(overlap, kind, network, beside, gate):
    model, optimizer, average, twin = set_up(MAKERS[kind], network)
    average.attach(optimizer, overlap)
    random = np.random.RandomState(0)
    for _ in range(9):
        compute_gradients(model, random)
        if overlap:
            # The whole forward and backward pass of the next step comes before the update.
            gate.open()
            average.wait()
            gate.close()
        optimizer.step()
        optimizer.clear_grad()
        twin.update()
    gate.open()
    assert full_state(average) == full_state(twin)


def test_statistics_are_those_of_the_step_not_of_the_forward_pass_after_it(beside, gate):
    model, optimizer, average, twin = set_up()
    average.attach(optimizer)
    random = np.random.RandomState(0)
    compute_gradients(model, random)
    gate.close()
    optimizer.step()
    twin.update()
    before = model.bn._mean.numpy().copy()
    compute_gradients(model, random)
    assert (model.bn._mean.numpy() != before).any()
    gate.open()
    assert bits(average) == bits(twin)


READS = {
    "num_updates": lambda average: average.num_updates,
    "num_steps": lambda average: average.num_steps,
    "state_dict": lambda average: full_state(average),
    "averaged_state_dict": lambda average: {
        name: tensor.numpy().tobytes() for name, tensor in average.averaged_state_dict().items()
    },
    "distance": lambda average: average.distance(),
    "diagnostics": lambda average: average.diagnostics(),
    "apply": lambda average: (
        average.apply(),
        average.model.conv.weight.numpy().tobytes(),
        average.restore(),
    ),
    "average_parameters": lambda average: _in_average(average),
    "update": lambda average: (average.detach(), average.update(), full_state(average)),
    "skip": lambda average: (average.skip(), full_state(average)),
    "register": lambda average: (average.register(), full_state(average)),
    "set_state_dict": lambda average: (
        average.set_state_dict(average.state_dict()),
        full_state(average),
    ),
    "deepcopy": lambda average: full_state(copy.deepcopy(average)),
    "detach": lambda average: (average.detach(), bits(average)),
}


def _in_average(average):
    with average.average_parameters():
        return average.model.fc.weight.numpy().tobytes()


@pytest.mark.parametrize("read", READS)
def test_whatever_reads_the_average_waits_for_it(read, beside, gate):
    model, optimizer, average, twin = set_up()
    average.attach(optimizer)
    compute_gradients(model, np.random.RandomState(0))
    gate.close()
    optimizer.step()
    twin.update()
    gate.open_soon()
    found = READS[read](average)
    assert found == READS[read](twin)


def test_switch_waits_and_then_writes_the_weights(beside, gate):
    model, _, average, twin = set_up_behind(gate)
    gate.open_soon()
    average.switch()
    expected = {name: t.numpy().tobytes() for name, t in twin.averaged_state_dict().items()}
    assert {n: t.numpy().tobytes() for n, t in model.state_dict().items()} == expected


@pytest.mark.parametrize("use", ["apply", "switch", "recompute_statistics"])
def test_another_average_waits_before_it_changes_the_weights(use, beside, gate):
    # In float64, so that the weights are read through Paddle's tensors when it comes to it.
    model, _, average, twin = set_up_behind(
        gate, lambda model: ExponentialMovingAverage(model, 0.9, shadow_dtype="float64")
    )
    other = ExponentialMovingAverage(model, 0.9, buffers="recompute")
    gate.open_soon()
    if use == "apply":
        other.apply()
        average.wait()
        other.restore()
    elif use == "switch":
        other.switch()
    else:
        other.recompute_statistics([paddle.ones([4, 1, 28, 28])])
    assert bits(average) == bits(twin)


def test_a_parameter_frozen_after_the_step_was_averaged_at_it(beside, gate):
    model, _, average, twin = set_up_behind(gate)
    model.fc.weight.stop_gradient = True
    gate.open()
    assert bits(average) == bits(twin)


def test_a_frozen_parameter_is_copied_before_the_step_returns(beside, gate):
    model, _, average, twin = set_up_behind(gate, network=Oddities)
    # Such as a codebook, which a forward pass sets.
    model.frozen.weight.set_value(model.frozen.weight + 1)
    gate.open()
    assert bits(average) == bits(twin)


@pytest.mark.parametrize("place", ["first", "last"])
def test_writing_to_a_weight_that_is_being_read_is_an_error(place, beside, gate):
    model, optimizer, average, _ = set_up()
    average.attach(optimizer)
    compute_gradients(model, np.random.RandomState(0))
    gate.close()
    optimizer.step()
    changed = model.fc.weight.numpy().copy()
    changed.flat[0 if place == "first" else -1] += 1
    model.fc.weight.set_value(changed)
    gate.open()
    with pytest.raises(RuntimeError, match=r"fc\.weight was written to .* Call wait\(\) before"):
        average.wait()
    average.register()
    optimizer.step()
    assert average.num_updates == 1


def test_writing_after_wait_is_none(beside, gate):
    model, optimizer, average, twin = set_up()
    average.attach(optimizer)
    compute_gradients(model, np.random.RandomState(0))
    optimizer.step()
    twin.update()
    average.wait()
    model.fc.weight.set_value(model.fc.weight + 1)
    assert bits(average) == bits(twin)


@pytest.mark.parametrize("freeze", [False, True])
def test_a_weight_that_is_not_finite_stops_the_next_step(freeze, beside):
    model, optimizer, average, twin = set_up()
    average.attach(optimizer)
    random = np.random.RandomState(0)
    compute_gradients(model, random)
    optimizer.step()
    twin.update()
    good, before = model.fc.weight.numpy().copy(), full_state(average)
    average.wait()
    model.conv.bias.stop_gradient = freeze
    model.fc.weight.set_value(np.full(good.shape, np.nan, "float32"))
    if freeze:
        # With a frozen parameter, whose copy cannot be taken back, all are looked at in line.
        with pytest.raises(FloatingPointError, match=r"fc\.weight holds NaN or Inf"):
            optimizer.step()
    else:
        optimizer.step()
        bias = model.fc.bias.numpy().copy()
        with pytest.raises(FloatingPointError, match=r"fc\.weight holds NaN or Inf"):
            optimizer.step()
        assert (model.fc.bias.numpy() == bias).all()
    assert full_state(average) == before
    model.fc.weight.set_value(good)
    optimizer.clear_grad()
    optimizer.step()
    twin.update()
    assert full_state(average) == full_state(twin)


def test_averages_of_one_optimizer_move_in_one_job(beside, monkeypatch):
    model, optimizer, average, twin = set_up()
    others = [make(model) for make in (MAKERS["wide"], MAKERS["swa"], MAKERS["latest"])]
    twins = [make(model) for make in (MAKERS["wide"], MAKERS["swa"], MAKERS["latest"])]
    jobs = []
    start = kernels.start_in_background
    monkeypatch.setattr(kernels, "start_in_background", lambda job: (jobs.append(job), start(job)))
    for one in (average, *others):
        one.attach(optimizer)
    random = np.random.RandomState(0)
    for _ in range(6):
        compute_gradients(model, random)
        optimizer.step()
        optimizer.clear_grad()
        for one in (twin, *twins):
            one.update()
    assert len(jobs) == 6
    for one, other in zip((average, *others), (twin, *twins)):
        assert full_state(one) == full_state(other)


@pytest.mark.timeout(60)
def test_the_helper_thread_does_not_wait_for_itself(beside, monkeypatch):
    monkeypatch.setattr(kernels, "MIN_WEIGHTS_OF_TWO_THREADS", 0)
    model, optimizer, average, twin = set_up()
    average.attach(optimizer)
    compute_gradients(model, np.random.RandomState(0))
    optimizer.step()
    twin.update()
    assert full_state(average) == full_state(twin)


def test_an_update_of_several_raises_once(beside):
    model, _, average, other = set_up()
    model.fc.weight.set_value(np.full([2704, 10], np.inf, "float32"))
    before = full_state(average)
    update_all([average, other], overlap=True)
    with pytest.raises(FloatingPointError):
        other.wait()
    assert full_state(average) == full_state(other) == before


def test_an_interrupt_before_the_handover_leaves_the_average_as_it_was(beside, monkeypatch):
    model, optimizer, average, _ = set_up()
    average.attach(optimizer)
    before = full_state(average)
    compute_gradients(model, np.random.RandomState(0))

    def interrupt(job):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kernels, "start_in_background", interrupt)
        with pytest.raises(KeyboardInterrupt):
            optimizer.step()
    assert full_state(average) == before
    optimizer.step()
    assert average.num_updates == 1


def test_an_interrupt_while_waiting_leaves_an_update_that_is_waited_for(beside, gate, monkeypatch):
    model, optimizer, average, twin = set_up()
    average.attach(optimizer)
    compute_gradients(model, np.random.RandomState(0))
    gate.close()
    optimizer.step()
    twin.update()

    def interrupt():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kernels, "finish_background", interrupt)
        with pytest.raises(KeyboardInterrupt):
            average.wait()
    gate.open_soon()
    assert full_state(average) == full_state(twin)


def test_an_error_on_the_helper_thread_reaches_the_caller(beside, monkeypatch):
    model, optimizer, average, _ = set_up()
    average.attach(optimizer)
    compute_gradients(model, np.random.RandomState(0))

    move = MovingTensors.move

    def fail(self, weights):
        if threading.current_thread() is not threading.main_thread():
            raise MemoryError("none left")
        move(self, weights)

    monkeypatch.setattr(MovingTensors, "move", fail)
    optimizer.step()
    with pytest.raises(MemoryError, match="none left"):
        average.wait()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
# Python 3.12 warns of any fork beside a thread.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_gets_an_average_that_is_moved(beside, gate):
    _, optimizer, average, twin = set_up_behind(gate)
    gate.open_soon()
    child = os.fork()
    if child == 0:
        is_same = full_state(average) == full_state(twin)
        optimizer.step()
        os._exit(0 if is_same and average.num_updates == 2 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert full_state(average) == full_state(twin)


def test_a_small_model_is_updated_in_line(in_line):
    model, optimizer, average, twin = set_up()
    average.attach(optimizer)
    compute_gradients(model, np.random.RandomState(0))
    optimizer.step()
    twin.update()
    assert full_state(average) == full_state(twin)


@pytest.mark.parametrize("reason", ["one core", "on a GPU", "another optimizer", "its own update"])
def test_what_cannot_gain_or_is_not_safe_is_updated_in_line(reason, in_line, monkeypatch):
    monkeypatch.setattr(kernels, "MIN_WEIGHTS_IN_BACKGROUND", 0)
    kind = {"its own update": "own"}.get(reason, "ema")
    model, optimizer, average, twin = set_up(MAKERS[kind])
    if reason == "one core":
        monkeypatch.setattr(kernels, "num_own_cores", lambda: 1)
    if reason == "on a GPU":
        monkeypatch.setattr(MovingTensors, "is_on_host", False)
    if reason == "another optimizer":
        optimizer = paddle.optimizer.SGD(parameters=model.conv.parameters())
    average.attach(optimizer)
    compute_gradients(model, np.random.RandomState(0))
    optimizer.step()
    twin.update()
    assert full_state(average) == full_state(twin)


def test_parameters_that_an_optimizer_has_in_groups_are_its_own(beside, gate):
    model, _, average, twin = set_up()
    groups = [{"params": layer.parameters()} for layer in (model.conv, model.bn, model.fc)]
    optimizer = paddle.optimizer.Momentum(parameters=groups)
    average.attach(optimizer)
    compute_gradients(model, np.random.RandomState(0))
    gate.close()
    optimizer.step()
    twin.update()
    assert average._background is not None
    gate.open()
    assert full_state(average) == full_state(twin)


def test_minimize_is_one_step(beside):
    model, optimizer, average, _ = set_up()
    average.attach(optimizer)
    loss = paddle.nn.functional.cross_entropy(model(paddle.ones([4, 1, 28, 28])), paddle.arange(4))
    loss.backward()
    optimizer.minimize(loss)
    assert average.num_updates == 1


def test_a_step_that_calls_minimize_counts_once():
    model, optimizer, average, _ = set_up()

    class Outer:
        def step(self):
            self.minimize()

        def minimize(self):
            optimizer.step()

    outer = Outer()
    average.attach(outer)
    compute_gradients(model, np.random.RandomState(0))
    outer.step()
    assert average.num_updates == 1


def test_a_step_that_fails_updates_nothing(beside):
    _, _, average, _ = set_up()

    class Failing:
        def step(self):
            raise ValueError("no")

    failing = Failing()
    average.attach(failing)
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            failing.step()
    assert average.num_steps == 0


def test_a_step_that_the_scaler_leaves_out_is_a_skip(beside):
    model, optimizer, average, _ = set_up()
    average.attach(optimizer)
    compute_gradients(model, np.random.RandomState(0))
    optimizer._set_auxiliary_var("found_inf", paddle.to_tensor([True]))
    optimizer.step()
    assert (average.num_updates, average.num_steps) == (0, 1)


def test_detach_makes_the_optimizer_what_it_was():
    model, optimizer, first, second = set_up()
    before = dict(vars(optimizer))
    first.attach(optimizer)
    second.attach(optimizer)
    assert vars(optimizer).keys() - before.keys() == {"step", "minimize"}
    first.detach()
    compute_gradients(model, np.random.RandomState(0))
    optimizer.step()
    assert (first.num_updates, second.num_updates) == (0, 1)
    second.detach()
    second.detach()
    assert vars(optimizer).keys() == before.keys()
    optimizer.step()
    assert (first.num_updates, second.num_updates) == (0, 1)
    assert not first.is_attached


def test_detach_puts_a_step_of_the_object_s_own_back():
    _, optimizer, average, _ = set_up()
    calls = []
    optimizer.step = own = lambda: calls.append(1)
    average.attach(optimizer)
    optimizer.step()
    average.detach()
    assert optimizer.step is own
    assert (calls, average.num_updates) == ([1], 1)


@pytest.mark.parametrize("call", [lambda a: a.update(), lambda a: update_all([a])])
def test_an_update_by_hand_of_an_attached_average_is_an_error(call):
    _, optimizer, average, _ = set_up()
    average.attach(optimizer)
    with pytest.raises(RuntimeError, match="whose steps update it; call detach"):
        call(average)
    assert average.num_updates == 0


def test_attaching_twice_is_an_error():
    _, optimizer, average, _ = set_up()
    average.attach(optimizer)
    with pytest.raises(RuntimeError, match="attached already; call detach"):
        average.attach(optimizer)


def test_what_has_no_step_cannot_be_attached_to():
    _, _, average, _ = set_up()
    with pytest.raises(TypeError, match=r"optimizer must have a step\(\), got list"):
        average.attach([])
    assert not average.is_attached


def test_a_step_while_the_average_is_applied_is_an_error_and_moves_nothing(beside):
    model, optimizer, average, _ = set_up()
    average.attach(optimizer)
    compute_gradients(model, np.random.RandomState(0))
    average.apply()
    weight = model.fc.weight.numpy().copy()
    with pytest.raises(RuntimeError, match=r"needs the raw weights.*restore"):
        optimizer.step()
    assert (model.fc.weight.numpy() == weight).all()
    average.restore()
    assert average.num_updates == 0


def test_a_copy_of_an_attached_average_is_not_attached(beside):
    _, optimizer, average, _ = set_up()
    average.attach(optimizer)
    copied = copy.deepcopy(average)
    assert average.is_attached
    assert not copied.is_attached
    copied.update()
    assert (average.num_updates, copied.num_updates) == (0, 1)


def test_a_copy_of_the_optimizer_moves_no_average():
    class Plain:
        num_steps = 0

        def step(self):
            self.num_steps += 1

    _, _, average, _ = set_up()
    optimizer = Plain()
    average.attach(optimizer)
    copied = copy.deepcopy(optimizer)
    copied.step()
    assert (optimizer.num_steps, copied.num_steps, average.num_updates) == (0, 1, 0)


def test_the_latest_average_takes_its_snapshots_in_line(in_line, monkeypatch):
    monkeypatch.setattr(kernels, "MIN_WEIGHTS_IN_BACKGROUND", 0)
    model, optimizer, average, twin = set_up(lambda m: LatestWeightAverage(m, k=2, every=2))
    average.attach(optimizer)
    random = np.random.RandomState(0)
    for _ in range(5):
        compute_gradients(model, random)
        optimizer.step()
        twin.update()
    assert full_state(average) == full_state(twin)


class Stub:
    """An optimizer whose step is one call into C, which no signal interrupts half way."""

    def __init__(self, model):
        self._parameter_list = model.parameters()
        self.weights = flat_view(model.fc.weight)
        self.num_steps = 0

    def step(self):
        self.num_steps += 1
        self.weights.fill(self.num_steps)


def step_for(seconds, optimizer):
    signal.setitimer(signal.ITIMER_REAL, seconds)
    while True:
        optimizer.step()


@pytest.mark.timeout(120)
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers on this system")
def test_ctrl_c_at_any_moment_leaves_an_average_of_whole_updates(beside, monkeypatch):
    model, _, average, twin = set_up()
    optimizer = Stub(model)
    average.attach(optimizer)
    random = np.random.RandomState(0)
    seen = []
    move = MovingTensors.move

    def keep_what_was_seen(self, weights):
        # On the helper thread, which no signal interrupts.
        if threading.current_thread() is not threading.main_thread():
            seen.append(float(optimizer.weights[0]))
        move(self, weights)

    monkeypatch.setattr(MovingTensors, "move", keep_what_was_seen)

    def interrupt(number, frame):
        raise KeyboardInterrupt

    # The compiled code is loaded by now, which takes longer than the times below.
    optimizer.step()
    average.wait()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(100):
            # Once for each time that it is set, so that nothing comes outside of this block.
            with pytest.raises(KeyboardInterrupt):
                step_for(random.uniform(0.0002, 0.005), optimizer)
    finally:
        signal.signal(signal.SIGALRM, before)
    average.detach()
    assert len(seen) > 1
    assert average.num_updates == len(seen)
    for value in seen:
        optimizer.weights.fill(value)
        twin.update()
    assert bits(average)["fc.weight"] == bits(twin)["fc.weight"]


def test_a_parameter_unfrozen_for_another_optimizer_is_not_read_beside_its_step(
    in_line, monkeypatch
):
    monkeypatch.setattr(kernels, "MIN_WEIGHTS_IN_BACKGROUND", 0)
    model, _, average, twin = set_up()
    for parameter in model.conv.parameters():
        parameter.stop_gradient = True
    head = paddle.optimizer.SGD(0.1, parameters=model.bn.parameters() + model.fc.parameters())
    average.attach(head)
    for parameter in model.conv.parameters():
        parameter.stop_gradient = False
    compute_gradients(model, np.random.RandomState(0))
    head.step()
    twin.update()
    assert full_state(average) == full_state(twin)


def test_an_average_that_moves_tensors_itself_is_checked_before(in_line, monkeypatch):
    class Own(ExponentialMovingAverage):
        def _fold(self, kept):
            self._store.set_mean([self._store.live_copies()])
            super()._fold(kept)
            return 0.0

    monkeypatch.setattr(kernels, "MIN_WEIGHTS_IN_BACKGROUND", 0)
    model, optimizer, average, _ = set_up(lambda model: Own(model, 0.9))
    average.attach(optimizer)
    before = bits(average)
    model.fc.weight.set_value(np.full([2704, 10], np.nan, "float32"))
    with pytest.raises(FloatingPointError):
        optimizer.step()
    assert bits(average) == before


def test_every_average_tells_of_a_mix(beside, gate):
    model, optimizer, first, second = set_up()
    first.attach(optimizer)
    second.attach(optimizer)
    compute_gradients(model, np.random.RandomState(0))
    gate.close()
    optimizer.step()
    model.fc.weight.set_value(model.fc.weight + 1)
    gate.open()
    for average in (first, second):
        with pytest.raises(RuntimeError, match="was written to"):
            average.state_dict()
        average.register()


def test_detach_leaves_what_has_wrapped_the_step_since():
    _, optimizer, first, second = set_up()
    first.attach(optimizer)
    inner, calls = optimizer.step, []
    optimizer.step = lambda: (calls.append(1), inner())
    second.attach(optimizer)
    first.detach()
    optimizer.step()
    assert (calls, first.num_updates, second.num_updates) == ([1], 0, 1)
    second.detach()
    optimizer.step()
    assert (calls, second.num_updates) == ([1, 1], 1)


def test_attach_that_raises_leaves_the_optimizer_as_it_was(beside):
    model, optimizer, average, _ = set_up()
    model.fc.weight.set_value(np.full([2704, 10], np.nan, "float32"))
    update_all([average], overlap=True)
    before = dict(vars(optimizer))
    with pytest.raises(FloatingPointError):
        average.attach(optimizer)
    assert vars(optimizer) == before
    assert not average.is_attached


def test_weights_that_were_put_elsewhere_and_back_are_followed(beside):
    model, optimizer, average, twin = set_up(
        lambda model: ExponentialMovingAverage(model, 0.9, shadow_dtype="float64")
    )
    average.attach(optimizer)
    random = np.random.RandomState(0)
    for _ in range(3):
        compute_gradients(model, random)
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
        twin.update()
        average.wait()
        # One that is read through Paddle, and no BN statistic, which is compared by itself.
        elsewhere = model.fc.weight.detach().clone()
        model.fc.weight.get_tensor()._share_data_with(elsewhere.get_tensor())
    assert bits(average) == bits(twin)
    state = average._store.moving_tensors((), "trained")
    assert state._other_addresses == [t.data_ptr() for t in state._other_tensors]


@pytest.mark.parametrize("other", ["latest", "unchecked"])
def test_where_one_average_finds_nan_none_moves_and_where_none_looks_all_do(other, beside):
    model, _, average, _ = set_up(lambda model: ExponentialMovingAverage(model, 0.9))
    partial = (
        LatestWeightAverage(model, k=2, exclude=["fc.*"])
        if other == "latest"
        else ExponentialMovingAverage(model, 0.9, include=["fc.*"])
    )
    if other == "unchecked":
        partial.checks_finite = False
        average = ExponentialMovingAverage(model, 0.9, exclude=["fc.*"])
    model.fc.weight.set_value(np.full([2704, 10], np.nan, "float32"))
    before = full_state(average), full_state(partial)
    if other == "latest":
        with pytest.raises(FloatingPointError, match="holds NaN"):
            update_all([average, partial], overlap=True)
        assert (full_state(average), full_state(partial)) == before
    else:
        update_all([average, partial], overlap=True)
        assert average.num_updates == partial.num_updates == 1
