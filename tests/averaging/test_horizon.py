"""Durations: one window, said in steps, images, epochs or percent."""

from __future__ import annotations

import paddle
import pytest

from ppema import (
    ArgumentError,
    ExponentialMovingAverage,
    LatestWeightAverage,
    RunLength,
    StochasticWeightAverage,
)
from ppema.averaging.horizon import to_steps, to_whole_steps

RUN = RunLength(num_steps=4690, steps_per_epoch=938, images_per_step=64)


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        *((100, 100.0), (0.5, 0.5), ("100 steps", 100.0), ("1 step", 1.0), ("2 epochs", 1876.0)),
        *(("0.5 epoch", 469.0), ("5 %", 234.5), ("5%", 234.5), ("5 percent", 234.5)),
        *(("64000 images", 1000.0), ("6.4e4 images", 1000.0)),
    ],
)
def test_each_unit_is_counted_in_steps(duration, steps):
    assert to_steps("half_life", duration, RUN) == pytest.approx(steps)


@pytest.mark.parametrize(
    "duration", ["", "5", "5 years", "% 5", "1e999 steps", "nan %", "-1 epochs", "0 %", 0, -3.0]
)
def test_what_is_no_duration_is_refused(duration):
    with pytest.raises(ArgumentError, match=r"half_life must be") as caught:
        to_steps("half_life", duration, RUN)
    assert caught.value.argument == "half_life"


def test_other_units_need_a_run():
    assert to_steps("every", "7 steps", None) == 7.0
    with pytest.raises(ArgumentError, match=r"where no run \(RunLength\) is given, got '1 epochs'"):
        to_steps("every", "1 epochs", None)


def test_whole_steps_are_rounded_from_text_and_demanded_of_numbers():
    assert to_whole_steps("every", "5 %", RUN) == 234
    assert to_whole_steps("every", "0.001 %", RUN) == 1
    for wrong in (1.5, True):
        with pytest.raises(ArgumentError, match="every must be a whole number above 0"):
            to_whole_steps("every", wrong, RUN)


def decay_of(**arguments):
    return ExponentialMovingAverage(paddle.nn.Linear(1, 1), thres_steps=False, **arguments).update()


def test_a_half_life_in_images_does_not_move_with_the_batch_size():
    small = decay_of(half_life="64000 images", run=RUN)
    large = decay_of(half_life="64000 images", run=RUN._replace(images_per_step=512))
    assert small == pytest.approx(0.5 ** (1 / 1000))
    assert large == pytest.approx(small**8)


def test_a_decay_for_one_batch_size_is_the_same_window_at_another():
    small = decay_of(decay=0.998, decay_batch_size=64, run=RUN)
    large = decay_of(decay=0.998, decay_batch_size=64, run=RUN._replace(images_per_step=512))
    assert (small, large) == (0.998, pytest.approx(0.998**8))
    for wrong in (
        {"decay": 0.9, "decay_batch_size": 0, "run": RUN},
        {"decay": 0.9, "decay_batch_size": 2.5, "run": RUN},
        {"decay": 0.9, "decay_batch_size": 64},
        {"half_life": 5, "decay_batch_size": 64, "run": RUN},
        {"decay_batch_size": 64, "run": RUN},
    ):
        with pytest.raises(ArgumentError) as caught:
            decay_of(**wrong)
        assert caught.value.argument == "decay_batch_size"


def test_a_start_may_be_in_any_unit_and_counts_in_the_warning():
    model = paddle.nn.Linear(1, 1)
    late = ExponentialMovingAverage(model, 0.9, False, start="10 epochs", run=RUN)
    kept = [late.update() for _ in range(9382)]
    assert kept == [0.0] * 9379 + [0.9] * 3
    assert late.expected_initial_share(9382) == pytest.approx(0.9**3)
    assert late.expected_initial_share(5) == 1.0
    with pytest.raises(ArgumentError, match=r"start must be a whole number above 0, got 0\.5"):
        ExponentialMovingAverage(model, start=0.5)


def test_averages_take_durations_in_any_unit():
    model = paddle.nn.Linear(1, 1)
    by_percent = StochasticWeightAverage(model, start="50 %", every="1 epochs", run=RUN)
    by_steps = StochasticWeightAverage(model, start=2345, every=938)
    latest = LatestWeightAverage(model, k=3, every="10 epochs", run=RUN._replace(steps_per_epoch=1))
    every_tenth = LatestWeightAverage(model, k=3, every=10)
    for _ in range(4690):
        assert by_percent.update() == by_steps.update()
        assert latest.update() == every_tenth.update()
    assert by_percent.num_points == 3
