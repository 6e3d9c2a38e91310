"""The gate: which losses it admits, what it counts, and that nothing non-finite gets through."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppema import (
    ArgumentError,
    ExponentialMovingAverage,
    LatestWeightAverage,
    LossGate,
    PowerFunctionEMA,
    StochasticWeightAverage,
)

NAN, INF = float("nan"), float("inf")


def test_a_loss_above_the_limit_is_left_out_and_counted():
    gate = LossGate(max_loss=2.0)
    assert [gate.admits(loss) for loss in (1.0, 2.0, 2.1, 50.0, 0.5)] == [
        True,
        True,
        False,
        False,
        True,
    ]
    assert gate.num_left_out == 2


def test_a_spike_above_the_running_median_is_left_out():
    gate = LossGate(max_loss_ratio=3.0, window=5)
    losses = [4.0, 2.0, 1.0, 1.0, 1.0, 3.1, 3.0, 1.0, 1.0]
    assert [gate.admits(loss) for loss in losses] == [True] * 5 + [False] + [True] * 3


def test_the_median_is_of_the_latest_losses_only():
    gate = LossGate(max_loss_ratio=2.0, window=3)
    for loss in (100.0, 100.0, 100.0, 1.0, 1.0):
        gate.admits(loss)
    assert not gate.admits(3.0)
    assert "2 times the median 1 of the latest 3" in gate.reason


@pytest.mark.parametrize("loss", [NAN, INF, -INF])
def test_a_loss_that_is_no_number_is_left_out_and_no_part_of_the_median(loss):
    gate = LossGate(max_loss_ratio=2.0)
    assert gate.admits(1.0)
    assert not gate.admits(loss)
    assert "not finite" in gate.reason
    assert not any(gate.admits(loss) for _ in range(3))
    assert gate.admits(1.9)
    assert not gate.admits(3.1)


def test_a_gate_goes_on_where_it_was_saved():
    straight, first = LossGate(max_loss_ratio=2.0, window=4), LossGate(max_loss_ratio=2.0, window=4)
    random = np.random.RandomState(0)
    losses = [float(x) for x in random.lognormal(size=60)]
    expected = [straight.admits(loss) for loss in losses]
    found = [first.admits(loss) for loss in losses[:31]]
    second = LossGate(max_loss_ratio=2.0, window=4)
    second.set_state_dict(first.state_dict())
    found += [second.admits(loss) for loss in losses[31:]]
    assert found == expected
    assert not all(expected)
    assert second.num_left_out == straight.num_left_out


def test_losses_that_are_not_above_zero_have_no_ratio():
    gate = LossGate(max_loss_ratio=3.0)
    assert all(gate.admits(loss) for loss in (-1.0, -1.0, 0.0, 1e-9, 5.0))


@pytest.mark.parametrize(
    "state", [{}, {"losses": ["x"], "num_left_out": 0}, {"losses": [1.0], "num_left_out": -3}]
)
def test_what_is_no_state_changes_nothing(state):
    gate = LossGate(max_loss_ratio=3.0)
    gate.admits(1.0)
    with pytest.raises(ValueError, match=r"losses|num_left_out"):
        gate.set_state_dict(state)
    assert not gate.admits(4.0)


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({}, "max_loss"),
        ({"max_loss": NAN}, "max_loss"),
        ({"max_loss_ratio": 1.0}, "max_loss_ratio"),
        ({"max_loss_ratio": INF}, "max_loss_ratio"),
        ({"max_loss": 1.0, "window": 0}, "window"),
        ({"max_loss": 1.0, "window": 2.5}, "window"),
    ],
)
def test_a_wrong_argument_is_named(arguments, argument):
    with pytest.raises(ArgumentError) as caught:
        LossGate(**arguments)
    assert caught.value.argument == argument


@pytest.mark.parametrize("fault", [NAN, INF, -INF])
@pytest.mark.parametrize(
    "kind",
    [
        ExponentialMovingAverage,
        lambda m: ExponentialMovingAverage(m, debias=True),
        StochasticWeightAverage,
        LatestWeightAverage,
        PowerFunctionEMA,
    ],
)
def test_weights_that_are_not_finite_are_never_averaged(kind, fault):
    paddle.seed(0)
    model = paddle.nn.Sequential(paddle.nn.Linear(3, 3), paddle.nn.Linear(3, 3))
    average = kind(model)
    for _ in range(3):
        model[0].weight.set_value(paddle.randn([3, 3]))
        average.update()
    before = {name: t.numpy().tobytes() for name, t in average.averaged_state_dict().items()}
    counters = {k: v for k, v in average.state_dict().items() if isinstance(v, (int, float))}
    weight = model[1].weight.numpy()
    weight[2, 1] = fault
    model[0].weight.set_value(paddle.randn([3, 3]))
    model[1].weight.set_value(weight)
    with pytest.raises(FloatingPointError, match=r"1\.weight holds NaN or Inf; the average stays"):
        average.update()
    after = {name: t.numpy().tobytes() for name, t in average.averaged_state_dict().items()}
    assert after == before
    assert counters == {k: v for k, v in average.state_dict().items() if k in counters}


def test_statistics_that_are_not_finite_are_never_averaged():
    model = paddle.nn.BatchNorm1D(4)
    average = ExponentialMovingAverage(model)
    model._variance.set_value(paddle.full([4], INF))
    with pytest.raises(FloatingPointError, match="_variance"):
        average.update()
    taken_live = ExponentialMovingAverage(model, buffers="copy")
    taken_live.update()
