"""An average goes on from its weights and its count of updates alone."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from networks import TinyBN
from twins import copied_state

from ppema import ExponentialMovingAverage, PowerFunctionEMA
from ppema.averaging import ArgumentError


def move(model, seed):
    paddle.seed(seed)
    for parameter in model.parameters():
        parameter.set_value(paddle.rand(parameter.shape))


def step(model, average, times, first=0):
    for seed in range(first, first + times):
        move(model, seed)
        average.update()


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"schedule": "constant", "debias": True},
        {"schedule": "exponential", "update_every": 3, "debias": True},
        {"schedule": "power", "start": 5},
    ],
)
def test_the_bits_are_those_of_one_that_never_stopped(arguments):
    model = TinyBN()
    average = ExponentialMovingAverage(model, 0.9, **arguments)
    step(model, average, 14)
    other = ExponentialMovingAverage(model, 0.9, **arguments)
    other.continue_from(average.averaged_state_dict(), 14)
    assert other.diagnostics().never_moved == ()
    step(model, average, 4, 14)
    step(model, other, 4, 14)
    found, wanted = copied_state(other), copied_state(average)
    for name, shadow in wanted.pop("shadow").items():
        np.testing.assert_array_equal(found["shadow"][name].numpy(), shadow.numpy(), name)
    assert found.pop("shadow")
    assert found == wanted


def test_an_average_of_a_power_profile_goes_on_too():
    model = TinyBN()
    average, other = (PowerFunctionEMA(model, 0.1) for _ in range(2))
    step(model, average, 9)
    other.continue_from(average.averaged_state_dict(), 9)
    step(model, average, 2, 9)
    step(model, other, 2, 9)
    wanted = average.averaged_state_dict()
    for name, tensor in other.averaged_state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), wanted[name].numpy(), name)


def test_what_does_not_fit_changes_nothing():
    model = TinyBN()
    average = ExponentialMovingAverage(model, 0.9)
    step(model, average, 2)
    before = copied_state(average)
    weights = average.averaged_state_dict()
    with pytest.raises(ValueError, match=r"missing: fc\.bias; unexpected: more"):
        average.continue_from({**without(weights, "fc.bias"), "more": weights["fc.bias"]}, 3)
    for count in (-1, True, 2.0):
        with pytest.raises(ArgumentError, match="num_updates must be a whole number from 0"):
            average.continue_from(weights, count)
    with average.average_parameters(), pytest.raises(RuntimeError, match="continue_from"):
        average.continue_from(weights, 3)
    after = copied_state(average)
    assert after["num_updates"] == before["num_updates"]
    for name, shadow in before["shadow"].items():
        np.testing.assert_array_equal(after["shadow"][name].numpy(), shadow.numpy(), name)


def without(state, name):
    return {key: value for key, value in state.items() if key != name}
