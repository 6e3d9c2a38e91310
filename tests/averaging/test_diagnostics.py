"""The figures that show what an average is made of, beside their definitions."""

from __future__ import annotations

import math

import paddle
import pytest
from networks import Oddities

from ppema import (
    ExponentialMovingAverage,
    LatestWeightAverage,
    PowerFunctionEMA,
    StochasticWeightAverage,
)


def shares_of(make, num_updates):
    """Return the share of the initial weights and of each update, by moving one weight at a time.

    The model's one weight is 1 at one moment and 0 at all others, so the average is its share.
    """
    shares = []
    for moment in range(num_updates + 1):
        model = paddle.nn.Linear(1, 1, bias_attr=False)
        model.weight.set_value(paddle.full([1, 1], float(moment == 0)))
        average = make(model)
        for t in range(1, num_updates + 1):
            model.weight.set_value(paddle.full([1, 1], float(moment == t)))
            average.update()
        shares.append(average.averaged_state_dict()["weight"].item())
    return shares, average.diagnostics()


@pytest.mark.parametrize("num_updates", [1, 7, 20])
@pytest.mark.parametrize(
    "make",
    [
        lambda m: ExponentialMovingAverage(m, 0.9, shadow_dtype="float64"),
        lambda m: ExponentialMovingAverage(m, 0.9, schedule="constant", shadow_dtype="float64"),
        lambda m: ExponentialMovingAverage(m, 0.9, debias=True, shadow_dtype="float64"),
        lambda m: ExponentialMovingAverage(m, 0.9, update_every=3, shadow_dtype="float64"),
        lambda m: StochasticWeightAverage(m, start=4, every=3, shadow_dtype="float64"),
        lambda m: LatestWeightAverage(m, k=3, every=2, shadow_dtype="float64"),
        lambda m: PowerFunctionEMA(m, 0.1, shadow_dtype="float64"),
    ],
)
def test_window_and_initial_share_are_those_of_the_shares(make, num_updates):
    shares, diagnostics = shares_of(make, num_updates)
    assert math.fsum(shares) == pytest.approx(1.0)
    assert diagnostics.initial_share == pytest.approx(shares[0], abs=1e-6)
    window = 1 / math.fsum(share**2 for share in shares)
    assert diagnostics.effective_window == pytest.approx(window, rel=1e-5)


def test_a_long_ema_has_the_window_of_the_formula():
    model = paddle.nn.Linear(1, 1)
    average = ExponentialMovingAverage(model, 0.99)
    for _ in range(3000):
        average.update()
    assert average.diagnostics().effective_window == pytest.approx(1.99 / 0.01, rel=1e-6)


def test_the_figures_go_on_across_a_resume():
    model = paddle.nn.Linear(1, 1)
    straight, resumed = (ExponentialMovingAverage(model, 0.95) for _ in range(2))
    for step in range(20):
        if step == 9:
            state = resumed.state_dict()
            resumed = ExponentialMovingAverage(model, 0.95)
            resumed.set_state_dict(state)
        straight.update()
        resumed.update()
    found, expected = resumed.diagnostics(), straight.diagnostics()
    assert found.effective_window == expected.effective_window
    assert found.initial_share == expected.initial_share < 1.0


def test_tensors_that_never_moved_are_named_and_frozen_ones_are_not():
    paddle.seed(0)
    model = Oddities()
    ema = ExponentialMovingAverage(model, 0.9)
    assert ema.diagnostics().never_moved_share == 1.0
    names = set(ema.diagnostics().never_moved)
    assert not any(name.startswith(("frozen", "empty")) for name in names)
    # A tied weight has one name, and is moved under either.
    model.tied_again.weight.set_value(model.tied.weight + 1)
    model.scale.set_value(model.scale + 1)
    ema.update()
    found = ema.diagnostics()
    assert names - set(found.never_moved) == {"tied.weight", "scale"}
    assert found.never_moved_share == len(found.never_moved) / found.num_tensors
    # Reading changes nothing, and a resume neither.
    assert ema.diagnostics().never_moved == found.never_moved
    resumed = ExponentialMovingAverage(model, 0.9)
    resumed.set_state_dict(ema.state_dict())
    assert resumed.diagnostics() == found


def test_statistics_that_are_recomputed_are_not_called_stuck():
    model = paddle.nn.BatchNorm1D(4)
    ema = ExponentialMovingAverage(model, buffers="recompute")
    assert ema.diagnostics().never_moved == ("weight", "bias")


def test_starting_again_starts_the_watch_again():
    model = paddle.nn.Linear(1, 1)
    ema = ExponentialMovingAverage(model, 0.5)
    model.weight.set_value(model.weight + 1)
    ema.update()
    assert ema.diagnostics().never_moved == ("bias",)
    ema.register()
    assert ema.diagnostics().never_moved == ("weight", "bias")


def test_one_element_of_many_is_seen_to_move():
    model = paddle.nn.Linear(100, 77)
    ema = ExponentialMovingAverage(model, 0.5)
    weight = model.weight.numpy()
    weight[63, 50] += 1
    model.weight.set_value(weight)
    ema.update()
    assert ema.diagnostics().never_moved == ("bias",)


@pytest.mark.parametrize(
    "wrong",
    [
        {"share_squares": 0.0},
        {"share_squares": 1.5},
        {"initial_share": 7.0},
        {"never_moved": "weight"},
        {"never_moved": [3]},
        {"num_skipped": -1},
    ],
)
def test_a_state_that_cannot_be_is_refused(wrong):
    ema = ExponentialMovingAverage(paddle.nn.Linear(1, 1), 0.5)
    with pytest.raises(ValueError, match=r"state|num_skipped"):
        ema.set_state_dict({**ema.state_dict(), **wrong})


def test_the_distance_is_that_of_raw_and_average():
    model = paddle.nn.Linear(2, 1)
    ema = ExponentialMovingAverage(model, 0.0)
    model.weight.set_value(model.weight + paddle.to_tensor([[3.0], [4.0]]))
    assert ema.diagnostics().distance == pytest.approx(5.0)
    with ema.average_parameters(), pytest.raises(RuntimeError, match="call restore"):
        ema.diagnostics()
