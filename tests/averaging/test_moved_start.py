"""An average that joins a run half way, or whose start a resume moves, is of its own window."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppema import ExponentialMovingAverage, LatestWeightAverage, StochasticWeightAverage


class Scalar(paddle.nn.Layer):
    """One weight, whose value after step k is set to k squared."""

    def __init__(self):
        super().__init__()
        self.weight = self.create_parameter([1])

    def forward(self, x):
        return x * self.weight


def value_after(step):
    return float(step * step)


def set_weight(model, step):
    model.weight.set_value(np.array([value_after(step)], "float32"))


def run(average, model, first, last):
    """Do the steps from `first` to `last`."""
    for step in range(first, last + 1):
        set_weight(model, step)
        average.update()


def averaged(average):
    return average.averaged_state_dict()["weight"].item()


def mean(*steps):
    return float(np.mean([value_after(step) for step in steps]))


def moved(model, cls, last_before, before, after):
    """Return an average that did steps 1 to `last_before`, with other arguments from there on."""
    first = cls(model, **before)
    run(first, model, 1, last_before)
    second = cls(model, **after)
    second.set_state_dict(first.state_dict())
    return second


def test_points_before_a_start_that_moved_later_do_not_count():
    model = Scalar()
    swa = moved(model, StochasticWeightAverage, 7, {"start": 3}, {"start": 10})
    run(swa, model, 8, 9)
    assert averaged(swa) == value_after(9)
    run(swa, model, 10, 12)
    assert averaged(swa) == pytest.approx(mean(10, 11, 12))
    assert swa.num_points == 3


def test_a_start_that_moved_earlier_is_now():
    model = Scalar()
    swa = moved(model, StochasticWeightAverage, 7, {"start": 10}, {"start": 4, "every": 2})
    run(swa, model, 8, 10)
    assert averaged(swa) == pytest.approx(mean(8, 10))


@pytest.mark.parametrize("debias", [False, True])
def test_an_ema_whose_start_moved_later_begins_there_as_if_it_never_had(debias):
    model = Scalar()
    arguments = {"decay": 0.9, "schedule": "threshold", "update_every": 2, "debias": debias}
    ema = ExponentialMovingAverage
    late = moved(model, ema, 5, {"start": 2, **arguments}, {"start": 9, **arguments})
    run(late, model, 6, 14)
    straight = ema(model, start=9, **arguments)
    run(straight, model, 1, 14)
    assert averaged(late) == averaged(straight)


@pytest.mark.parametrize("join", [4, 5, 6, 7, 8])
def test_an_average_that_joins_takes_the_next_points_of_the_run(join):
    model = Scalar()
    swa = StochasticWeightAverage(model, start=5, every=3)  # 5, 8, 11, 14
    latest = LatestWeightAverage(model, k=2, every=4)  # 4, 8, 12
    ema = ExponentialMovingAverage(model, decay=0.9, start=9)
    for average in (swa, latest, ema):
        set_weight(model, join)
        average.register(join)
        run(average, model, join + 1, 14)
    points = [step for step in (5, 8, 11, 14) if step > join]
    assert averaged(swa) == pytest.approx(mean(*points))
    assert averaged(latest) == pytest.approx(mean(8, 12) if join < 8 else mean(12))
    straight = ExponentialMovingAverage(model, decay=0.9, start=9)
    run(straight, model, 1, 14)
    assert averaged(ema) == averaged(straight)


def test_until_its_first_point_one_that_joined_is_the_weights_of_now():
    model = Scalar()
    swa, latest = StochasticWeightAverage(model, every=5), LatestWeightAverage(model, every=5)
    for average in (swa, latest):
        average.register(7)
        run(average, model, 8, 9)
        assert averaged(average) == value_after(9)
