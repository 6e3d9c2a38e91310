"""SWA, the latest k, power-function EMA and the debiased EMA, each beside its definition."""

from __future__ import annotations

import paddle
import pytest
from networks import Oddities
from test_ema_twin import make_optimizer, train_step
from twins import WeightedTwin, assert_close_to_twin, copied_state

from ppema import (
    ArgumentError,
    ExponentialMovingAverage,
    LatestWeightAverage,
    PowerFunctionEMA,
    StochasticWeightAverage,
)


def debiased_shares(t):
    decays = [min(0.98, (1 + i) / (10 + i)) for i in range(t + 1)]
    shares = []
    for i in range(t + 1):
        share = 1 - decays[i]
        for decay in decays[i + 1 :]:
            share *= decay
        shares.append(share)
    return shares


def swa_shares(t):
    """From call 11 on, every 3rd; before it the last weights."""
    if t < 10:
        return [0] * t + [1]
    return [int(i >= 10 and (i - 10) % 3 == 0) for i in range(t + 1)]


def latest_shares(t):
    """The last 4 of the calls 5, 10, 15, …; before the first of them the last weights."""
    if t < 4:
        return [0] * t + [1]
    snapshots = [i for i in range(t + 1) if (i + 1) % 5 == 0][-4:]
    return [int(i in snapshots) for i in range(t + 1)]


def power_shares(t):
    """The profile t**gamma, summed over each step: shares that telescope to (i / t)**(gamma+1)."""
    gamma = 6.937203937601809
    return [(i + 1) ** (gamma + 1) - i ** (gamma + 1) for i in range(t + 1)]


AVERAGES = {
    "debiased": (
        lambda model: ExponentialMovingAverage(model, 0.98, debias=True),
        debiased_shares,
    ),
    "swa": (lambda model: StochasticWeightAverage(model, start=11, every=3), swa_shares),
    "latest": (lambda model: LatestWeightAverage(model, k=4, every=5), latest_shares),
    "power": (lambda model: PowerFunctionEMA(model, 0.10), power_shares),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_steps_equal_the_definition_with_a_resume_in_the_middle(name):
    make, shares = AVERAGES[name]
    paddle.seed(1)
    model = Oddities()
    optimizer = make_optimizer(model)
    average, twin = make(model), WeightedTwin(model, shares)
    for step in range(60):
        train_step(model, optimizer)
        average.update()
        twin.update()
        if step == 32:
            state = copied_state(average)
            average = make(model)
            average.set_state_dict(state)
        if step in (0, 3, 10, 32, 59):
            assert_close_to_twin(average.averaged_state_dict(), twin.shadow, 5e-6)


@pytest.mark.parametrize("num_updates", [1, 10, 1000])
@pytest.mark.parametrize("name", AVERAGES)
def test_constant_weights_stay_constant(name, num_updates):
    model = Oddities()
    average = AVERAGES[name][0](model)
    before = {name: t.numpy().copy() for name, t in model.state_dict().items()}
    for _ in range(num_updates):
        average.update()
    for name_, tensor in average.averaged_state_dict().items():
        assert tensor.numpy().tobytes() == before[name_].tobytes()


@pytest.mark.parametrize("name", AVERAGES)
def test_a_resumed_average_goes_on_bit_for_bit(name):
    make, _ = AVERAGES[name]
    paddle.seed(2)
    model = Oddities()
    straight, resumed = make(model), make(model)
    for step in range(40):
        for parameter in model.parameters():
            parameter.set_value(parameter * 1.01)
        straight.update()
        resumed.update()
        if step % 7 == 0:
            state = copied_state(resumed)
            resumed = make(model)
            resumed.set_state_dict(state)
    right = resumed.averaged_state_dict()
    for name_, tensor in straight.averaged_state_dict().items():
        assert tensor.numpy().tobytes() == right[name_].numpy().tobytes()


def test_update_every_keeps_the_profile_of_a_power_function():
    model = paddle.nn.Linear(1, 1)
    each, tenth = PowerFunctionEMA(model, 0.1), PowerFunctionEMA(model, 0.1, update_every=10)
    shares = [each.update() for _ in range(1000)]
    kept = [tenth.update() for _ in range(1000)]
    expected = shares[989]
    for share in shares[990:]:
        expected *= share
    assert kept[999] == pytest.approx(expected / shares[989], rel=1e-12)
    assert kept[998] == 1.0


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda m: StochasticWeightAverage(m, start=0), "start"),
        (lambda m: StochasticWeightAverage(m, every=0.5), "every"),
        (lambda m: LatestWeightAverage(m, k=0), "k"),
        (lambda m: LatestWeightAverage(m, every=-1), "every"),
        (lambda m: PowerFunctionEMA(m, 0.0), "sigma_rel"),
        (lambda m: PowerFunctionEMA(m, 0.3), "sigma_rel"),
        (lambda m: PowerFunctionEMA(m, float("nan")), "sigma_rel"),
    ],
)
def test_a_wrong_argument_is_named(make, argument):
    with pytest.raises(ArgumentError) as caught:
        make(paddle.nn.Linear(1, 1))
    assert caught.value.argument == argument


def test_snapshots_that_do_not_fit_change_nothing():
    model = paddle.nn.Linear(2, 2)
    average = LatestWeightAverage(model, k=2)
    average.update()
    state = copied_state(average)
    state["snapshots"][0]["weight"] = paddle.zeros([3, 3])
    with pytest.raises(ValueError, match=r"snapshot 0: 1 of 2 fit; weight: file \[3,3\]"):
        average.set_state_dict(state)
    assert average.num_updates == 1


def test_a_smaller_k_keeps_the_latest_snapshots():
    model = paddle.nn.Linear(1, 1)
    wide, narrow = LatestWeightAverage(model, k=3), LatestWeightAverage(model, k=2)
    for value in (1.0, 2.0, 4.0):
        model.weight.set_value(paddle.full([1, 1], value))
        wide.update()
    narrow.set_state_dict(copied_state(wide))
    assert narrow.averaged_state_dict()["weight"].item() == 3.0
    assert narrow.diagnostics().effective_window == 2.0
    model.weight.set_value(paddle.full([1, 1], 8.0))
    narrow.update()
    assert narrow.averaged_state_dict()["weight"].item() == 6.0


def test_starting_again_forgets_points_and_snapshots():
    model = paddle.nn.Linear(1, 1)
    for average in (StochasticWeightAverage(model), LatestWeightAverage(model, k=9)):
        model.weight.set_value(paddle.full([1, 1], 5.0))
        average.update()
        average.register()
        model.weight.set_value(paddle.full([1, 1], 7.0))
        average.update()
        assert average.averaged_state_dict()["weight"].item() == 7.0


@pytest.mark.parametrize(
    "state",
    [
        *(None, 3, {"snapshots": 3}, {"snapshots": [3]}),
        {"snapshots": [{"weight": 3, "bias": 3}]},
    ],
)
def test_what_is_no_state_is_refused_by_the_latest_too(state):
    latest = LatestWeightAverage(paddle.nn.Linear(1, 1))
    if isinstance(state, dict):
        state = {**latest.state_dict(), **state}
    with pytest.raises(ValueError, match="state"):
        latest.set_state_dict(state)
