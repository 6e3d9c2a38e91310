"""Steps and seconds to an accuracy, from the records of a run."""

from __future__ import annotations

import pytest

from ppema.study.reached import first_reaching, seconds_by_step, seconds_to


def train(step, ips):
    return {"split": "train", "step": step, "ips": ips}


def evaluation(step, average, top1):
    return {"split": "eval", "step": step, "average": average, "top1": top1}


RECORDS = [
    train(10, 100.0),
    evaluation(10, "raw", 0.5),
    evaluation(10, "ema", 0.7),
    # A speed that was not finite is none in the record.
    train(15, None),
    train(20, 50.0),
    evaluation(20, "raw", 0.9),
    evaluation(20, "ema", 0.8),
    evaluation(30, "raw", 0.7),
]


def test_seconds_are_images_over_their_speed():
    # Ten steps of 10 images at 100 a second, then ten at 50.
    assert seconds_by_step(RECORDS, lambda step: 10 * step) == {0: 0.0, 10: 1.0, 20: 3.0}


def test_between_two_records_seconds_are_in_proportion_and_after_the_last_its_own():
    seconds = seconds_by_step(RECORDS, lambda step: 10 * step)
    assert [seconds_to(step, seconds) for step in (0, 5, 10, 15, 20, 25)] == pytest.approx(
        [0.0, 0.5, 1.0, 2.0, 3.0, 3.0]
    )


def test_the_first_evaluation_at_or_above_counts_even_where_later_ones_are_below():
    assert first_reaching(RECORDS, "raw", 0.7) == 20
    assert first_reaching(RECORDS, "ema", 0.7) == 10
    assert first_reaching(RECORDS, "ema", 0.9) is None
