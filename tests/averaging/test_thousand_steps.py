"""Every way of averaging beside its definition, over 1,000 steps of real training.

One run moves them all, and each is loaded into a new object at step 500. The twins keep nothing
themselves: they are float64 functions of all the weights that the run has seen, row 0 being the
initial ones.
"""

from __future__ import annotations

import math
import pickle
from typing import Any, Callable, NamedTuple

import numpy as np
import paddle
import pytest
from networks import Oddities
from test_ema_twin import make_optimizer, train_step
from twins import (
    assert_close_to_twin,
    debiased,
    ema,
    float64_state,
    linear,
    mean_from,
    mean_of_latest,
    power_function,
)

from ppema import (
    AveragedModel,
    ExponentialMovingAverage,
    ExponentialMovingAverageModel,
    LatestWeightAverage,
    PowerFunctionEMA,
    RunLength,
    StochasticWeightAverage,
    posthoc_coefficients,
    uniform_soup,
)

NUM_STEPS, RESUMED_AT = 1000, 500
# A frozen weight gets another value here, which an average of it would follow late.
REPLACED_AT = 300
# At 540 some of the latest snapshots are of before the resume, some of after.
COMPARED_AT = (1, 4, 10, 100, 499, 500, 501, 540, 1000)
# At neither the resume nor the end do these fold the weights in.
THIRD, SEVENTH = 3, 7

# The tolerances of a float32 shadow: for decays up to 0.99, and above.
NEAR, FAR = 5e-6, 1e-4

AVERAGE, COPY = ("weight", "statistic"), ("weight",)
WITH_BUFFERS = ("weight", "statistic", "buffer")
NOT_IN_A_SHADOW = ("tied_again.weight", "running_scale", "num_batches")


def role_of(name: str) -> str:
    if name.endswith(("._mean", "._variance")):
        return "statistic"
    if name in ("running_scale", "num_batches"):
        return "buffer"
    return "frozen" if name.startswith("frozen.") else "weight"


class Case(NamedTuple):
    """A way of averaging, its twin, what it averages, and how near both must be.

    A case that is not `served` is read from its state, where shadows are in their own dtype.
    """

    make: Callable[[Any], Any]
    twin: Callable[[Any], Any]
    roles: tuple[str, ...] = AVERAGE
    tolerance: float = NEAR
    served: bool = True


SCHEDULES: dict[str, tuple[dict[str, Any], Callable[[int], float]]] = {
    "constant": ({}, lambda t: 0.99),
    "threshold": ({}, lambda t: min(0.99, (1 + t) / (10 + t))),
    "exponential": ({"tau": 300.0}, lambda t: 0.99 * (1 - math.exp(-(t + 1) / 300))),
    "power": (
        {"gamma": 2.0, "power": 0.75},
        lambda t: min(0.99, 1 - (1 + t / 2) ** -0.75),
    ),
}


def ema_case(schedule, twin=ema, roles=AVERAGE, tolerance=NEAR, served=True, every=1, **settings):
    arguments, decay_at = SCHEDULES[schedule]
    settings = {"schedule": schedule, **arguments, **settings, "update_every": every}
    return Case(
        lambda model: ExponentialMovingAverage(model, 0.99, **settings),
        twin(decay_at, every),
        roles,
        tolerance,
        served,
    )


def half_life_case(half_life, steps):
    run = RunLength(num_steps=NUM_STEPS, steps_per_epoch=100, images_per_step=8)
    return Case(
        lambda model: ExponentialMovingAverage(
            model, half_life=half_life, schedule="constant", run=run
        ),
        ema(lambda t: 0.5 ** (1 / steps)),
        tolerance=NEAR if steps < 69 else FAR,
    )


def after(start, twin):
    """The twin of the weights from `start` on; until then the weights of the last call."""
    return lambda weights: weights[-1] if len(weights) <= start else twin(weights[start - 1 :])


def grow_linearly(averaged, current, num_averaged):
    return averaged + (current - averaged) * (2.0 / (num_averaged + 2))


# A tolerance of 1e-12 is met only by what is float64 throughout.
CASES: dict[str, Case] = {
    **{name: ema_case(name) for name in SCHEDULES},
    **{f"debiased {name}": ema_case(name, debiased, debias=True) for name in SCHEDULES},
    **{f"{name} at every third": ema_case(name, every=THIRD) for name in SCHEDULES},
    "debiased at every third": ema_case("constant", debiased, debias=True, every=THIRD),
    "float64": ema_case("threshold", tolerance=1e-12, served=False, shadow_dtype="float64"),
    "copied statistics": ema_case("threshold", roles=COPY, buffers="copy"),
    "recomputed statistics": ema_case("threshold", roles=COPY, served=False, buffers="recompute"),
    "default decay": Case(
        lambda model: ExponentialMovingAverage(model, thres_steps=False),
        ema(lambda t: 0.9998),
        tolerance=FAR,
    ),
    "from call 101 on": Case(
        lambda model: ExponentialMovingAverage(model, 0.99, schedule="power", start=101),
        after(101, ema(lambda t: min(0.99, 1 - (1 + t) ** (-2 / 3)))),
    ),
    "debiased from call 101 on": Case(
        lambda model: ExponentialMovingAverage(
            model, 0.99, schedule="constant", start=101, debias=True, update_every=THIRD
        ),
        after(101, debiased(lambda t: 0.99, THIRD)),
    ),
    "half-life in steps": half_life_case(50, 50),
    "half-life in percent": half_life_case("10 %", 100),
    "swa": Case(StochasticWeightAverage, mean_from(1), tolerance=FAR),
    "swa of some": Case(
        lambda model: StochasticWeightAverage(model, start=101, every=9), mean_from(101, 9)
    ),
    "latest": Case(lambda model: LatestWeightAverage(model, k=5, every=15), mean_of_latest(5, 15)),
    "power function 0.05": Case(lambda model: PowerFunctionEMA(model, 0.05), power_function(0.05)),
    "power function 0.10": Case(
        lambda model: PowerFunctionEMA(model, 0.10), power_function(0.10), tolerance=FAR
    ),
    "power function at every seventh": Case(
        lambda model: PowerFunctionEMA(model, 0.10, update_every=SEVENTH),
        power_function(0.10, SEVENTH),
    ),
    "tracked 0.15": Case(
        lambda model: PowerFunctionEMA(model, 0.15, shadow_dtype="float64"),
        power_function(0.15),
        tolerance=1e-12,
        served=False,
    ),
    "averaged model": Case(AveragedModel, mean_from(1), COPY, FAR),
    "averaged model with buffers": Case(
        lambda model: AveragedModel(model, use_buffers=True), mean_from(1), WITH_BUFFERS, FAR
    ),
    "averaged model with avg_fn": Case(
        lambda model: AveragedModel(model, avg_fn=grow_linearly), linear, COPY, FAR
    ),
    "ema model": Case(
        lambda model: ExponentialMovingAverageModel(model, 0.99),
        # The first weight is copied, not the one before it.
        lambda weights: ema(lambda t: 0.99)(weights[1:]),
        WITH_BUFFERS,
    ),
}


def update(average, model):
    if isinstance(average, AveragedModel):
        average.update_parameters(model)
    else:
        average.update()


def as_arrays(value):
    if isinstance(value, dict):
        return {key: as_arrays(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_arrays(item) for item in value]
    return value.numpy().copy() if paddle.is_tensor(value) else value


def resumed(name, average, model):
    """Return a new object that goes on from the state, which a file has held in between."""
    state = pickle.loads(pickle.dumps(as_arrays(average.state_dict())))  # noqa: S301
    other = CASES[name].make(model)
    if not isinstance(average, AveragedModel):
        other.set_state_dict(state)
        return other
    missing, unexpected = other.set_state_dict(state)
    # Paddle 3.0 passes over a parameter without elements.
    assert set(missing) | set(unexpected) <= {"module.empty"}
    return other


def copies(tensors):
    return {name: tensor.clone() for name, tensor in tensors.items()}


def averages_of(name, average):
    if isinstance(average, AveragedModel):
        return average.module.state_dict()
    return average.averaged_state_dict() if CASES[name].served else average.state_dict()["shadow"]


class Run:
    """The weights after each step, and what each average gave at the steps that are compared."""

    def __init__(self):
        paddle.seed(11)
        self.model = Oddities()
        optimizer = make_optimizer(self.model)
        self.batches = [paddle.randn([16, 1, 28, 28]) + i for i in range(3)]
        self.found: dict[tuple[str, int], dict[str, Any]] = {}
        self.snapshots: dict[tuple[int, str], dict[str, Any]] = {}
        self.states: dict[str, dict[str, Any]] = {}
        self.counts: list[int] = []
        self.columns: dict[str, tuple[slice, tuple[int, ...]]] = {}
        size = 0
        for name, array in self._floats().items():
            self.columns[name] = (slice(size, size + array.size), array.shape)
            size += array.size
        self.weights = np.empty([NUM_STEPS + 1, size])
        self._record(0)
        averages = {name: case.make(self.model) for name, case in CASES.items()}
        for t in range(1, NUM_STEPS + 1):
            train_step(self.model, optimizer)
            if t == REPLACED_AT:
                self.model.frozen.weight.set_value(self.model.frozen.weight * -2.0)
            self._record(t)
            for average in averages.values():
                update(average, self.model)
            if t == RESUMED_AT:
                averages = {n: resumed(n, average, self.model) for n, average in averages.items()}
            if t % 50 == 0:
                self._keep(t, averages)
            if t in COMPARED_AT:
                self._compare(t, averages)

    def expected(self, name, t):
        """Return what the definition gives after step t: all of the model's state, in float64."""
        case = CASES[name]
        averaged = case.twin(self.weights[: t + 1])
        state = {}
        for key, (columns, shape) in self.columns.items():
            row = averaged if role_of(key) in case.roles else self.weights[t]
            state[key] = row[columns].reshape(shape)
        if name == "recomputed statistics":
            state.update(self._recomputed(state))
        return {**state, "num_batches": np.array(self.counts[t])}

    def _recomputed(self, state):
        """Return the mean over the batches of each batch's own mean and variance."""
        features = [
            batch.flatten(1).numpy().astype("float64") @ state["first.weight"] + state["first.bias"]
            for batch in self.batches
        ]
        return {
            "bn._mean": np.mean([feature.mean(axis=0) for feature in features], axis=0),
            "bn._variance": np.mean([feature.var(axis=0) for feature in features], axis=0),
        }

    def _floats(self):
        state = float64_state(self.model)
        return {name: array for name, array in state.items() if array.dtype == np.float64}

    def _record(self, t):
        self.weights[t] = np.concatenate([array.ravel() for array in self._floats().values()])
        self.counts.append(int(self.model.num_batches))

    def _compare(self, t, averages):
        for name, average in averages.items():
            if name != "recomputed statistics":
                self.found[name, t] = copies(averages_of(name, average))
        # The last, as its pass over the batches is in train mode.
        average = averages["recomputed statistics"]
        average.recompute_statistics(self.batches)
        self.found["recomputed statistics", t] = copies(average.state_dict()["shadow"])

    def _keep(self, t, averages):
        self.states[f"step {t}"] = copies(self.model.state_dict())
        for width in ("0.05", "0.10"):
            shadow = averages[f"power function {width}"].state_dict()["shadow"]
            self.snapshots[t, width] = copies(shadow)


@pytest.fixture(scope="module")
def run():
    return Run()


@pytest.mark.parametrize("name", CASES)
def test_steps_equal_the_definition_with_a_resume_in_the_middle(run, name):
    for t in COMPARED_AT:
        found, expected = run.found[name, t], run.expected(name, t)
        if CASES[name].served:
            expected = {key: expected[key] for key in run.model.state_dict()}
        else:
            assert set(found) == set(expected) - set(NOT_IN_A_SHADOW)
            expected = {key: expected[key] for key in found}
        assert_close_to_twin(found, expected, CASES[name].tolerance)


@pytest.mark.parametrize("name", CASES)
def test_the_average_is_far_from_the_raw_weights_in_terms_of_its_tolerance(run, name):
    columns, shape = run.columns["first.weight"]
    raw = run.weights[NUM_STEPS][columns].reshape(shape)
    distance = np.abs(run.expected(name, NUM_STEPS)["first.weight"] - raw).max()
    assert distance > 100 * CASES[name].tolerance * np.abs(raw).max()


@pytest.mark.parametrize("name", CASES)
def test_constant_weights_stay_constant(name):
    model = Oddities()
    before = float64_state(model)
    average = CASES[name].make(model)
    for t in range(1, NUM_STEPS + 1):
        update(average, model)
        if t in (1, 10, NUM_STEPS):
            for key, tensor in averages_of(name, average).items():
                assert (tensor.numpy() == before[key]).all(), (t, key)


def test_a_soup_of_many_steps_is_their_mean(run):
    soup = uniform_soup(run.states)
    steps = [int(name.removeprefix("step ")) for name in run.states]
    mean = run.weights[steps].mean(axis=0)
    expected = {key: mean[where].reshape(shape) for key, (where, shape) in run.columns.items()}
    expected["num_batches"] = np.array(int(run.states["step 1000"]["num_batches"]))
    assert_close_to_twin(soup, {key: expected[key] for key in soup}, 1e-7)


def test_snapshots_make_the_average_that_was_tracked_within_one_percent(run):
    times, widths = zip(*run.snapshots)
    shares = posthoc_coefficients(times, [float(width) for width in widths], 1000, 0.15)

    def flat(tensors):
        return np.concatenate([t.numpy().ravel() for t in tensors.values()]).astype("float64")

    snapshots = [flat(snapshot) for snapshot in run.snapshots.values()]
    wanted = flat(run.found["tracked 0.15", NUM_STEPS])
    distances = [np.linalg.norm(snapshot - wanted) for snapshot in snapshots]
    error = np.linalg.norm(np.tensordot(shares, np.stack(snapshots), axes=1) - wanted)
    assert error < 0.01 * np.linalg.norm(wanted)
    # Any average of one run is near any other; this one is far nearer than what it is made of.
    assert error < 0.1 * min(distances)


def sgd_step(model, rate, optimizer):
    """Do a step of SGD; return the change of each weight as its definition gives it."""
    image, label = paddle.randn([8, 1, 28, 28]), paddle.randint(0, 10, [8])
    paddle.nn.functional.cross_entropy(model(image), label).backward()
    trained = {name: p for name, p in model.named_parameters() if p.grad is not None}
    changes = {name: -rate * p.grad.numpy().astype("float64") for name, p in trained.items()}
    optimizer.step()
    optimizer.clear_grad()
    return changes


def test_switch_ema_equals_a_twin_that_trains_and_switches_its_own_weights():
    paddle.seed(12)
    model, rate = Oddities(), 0.05
    optimizer = paddle.optimizer.SGD(rate, parameters=model.parameters())
    average = ExponentialMovingAverage(model, 0.98)
    weights = {n: a for n, a in float64_state(model).items() if n != "tied_again.weight"}
    shadow = dict(weights)
    for t in range(NUM_STEPS):
        changes = sgd_step(model, rate, optimizer)
        live = float64_state(model)
        for name in weights:
            is_trained = name in changes
            weights[name] = weights[name] + changes[name] if is_trained else live[name]
            d = min(0.98, (1 + t) / (10 + t)) if is_trained or role_of(name) == "statistic" else 0.0
            shadow[name] = d * shadow[name] + (1 - d) * weights[name]
        average.update()
        if t + 1 == RESUMED_AT - 1:
            state = pickle.loads(pickle.dumps(as_arrays(average.state_dict())))  # noqa: S301
            average = ExponentialMovingAverage(model, 0.98)
            average.set_state_dict(state)
        if (t + 1) % 100 == 0:
            assert_far(shadow, weights)
            average.switch()
            weights = {**shadow, "num_batches": weights["num_batches"]}
            served = average.averaged_state_dict()
            for name, tensor in model.state_dict().items():
                assert tensor.numpy().tobytes() == served[name].numpy().tobytes()
        if (t + 1) % 100 in (0, 1, 99):
            found = {name: model.state_dict()[name] for name in weights}
            assert_close_to_twin(found, weights, NEAR)
            served = average.averaged_state_dict()
            assert_close_to_twin({name: served[name] for name in weights}, shadow, NEAR)


def assert_far(shadow, weights):
    """A switch that does nothing must not go unnoticed."""
    difference = np.abs(shadow["first.weight"] - weights["first.weight"]).max()
    assert difference > 1e-3 * np.abs(weights["first.weight"]).max()
