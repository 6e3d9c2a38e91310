"""Steps that are left out: windows in steps go on, and points stay where they were due."""

from __future__ import annotations

import paddle
import pytest

from ppema import (
    CyclicSWALR,
    ExponentialMovingAverage,
    LatestWeightAverage,
    PowerFunctionEMA,
    StochasticWeightAverage,
)
from ppema.averaging.profile import power_function_decay, sigma_rel_to_gamma


class OneWeight(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.weight = self.create_parameter([])

    def become(self, value):
        self.weight.set_value(paddle.to_tensor(float(value)))


def run(average, model, steps, skipped):
    """Let the weight of step k be k; return the average after each step."""
    found = []
    for step in steps:
        model.become(step)
        average.skip() if step in skipped else average.update()
        found.append(average.averaged_state_dict()["weight"].item())
    return found


def test_a_point_that_is_left_out_is_taken_late_and_the_next_are_where_they_were_due():
    model = OneWeight()
    swa = StochasticWeightAverage(model, start=3, every=4)
    found = run(swa, model, range(1, 17), skipped={2, 7, 8, 12})
    # Due at 3, 7, 11 and 15; that of 7 is taken at 9.
    assert found[15] == pytest.approx((3 + 9 + 11 + 15) / 4)
    assert (swa.num_points, swa.num_updates, swa.num_steps) == (4, 12, 16)


def test_snapshots_of_the_latest_keep_their_grid():
    model = OneWeight()
    latest = LatestWeightAverage(model, k=2, every=5)
    found = run(latest, model, range(1, 18), skipped={1, 10, 11})
    # Due at 5, 10 and 15; that of 10 is taken at 12.
    assert found[4:] == [5.0] * 7 + [8.5] * 3 + [13.5] * 3


def test_points_stay_at_the_ends_of_cycles_where_steps_are_left_out():
    model = OneWeight()
    schedule = CyclicSWALR(0.5, max_lr=1.0, min_lr=0.0, start=4, cycle=5)
    swa = StochasticWeightAverage(model, start=9, every=5)
    rates = []
    for step in range(1, 30):
        before = swa.num_points
        swa.skip() if step in (2, 3, 11) else swa.update()
        if swa.num_points > before:
            rates.append(schedule())
        schedule.step()
    assert rates == [0.0] * 5


def test_t_counts_what_is_averaged():
    model = OneWeight()
    straight, skipping = (ExponentialMovingAverage(model, 0.9) for _ in range(2))
    for step in range(20):
        model.become(step)
        if step % 3 == 1:
            skipping.skip()
            continue
        assert skipping.update() == straight.update()


def test_a_late_start_is_a_step_whatever_was_left_out():
    model = OneWeight()
    late = ExponentialMovingAverage(model, 0.5, False, start=5)
    found = run(late, model, range(1, 7), skipped={2, 3})
    assert found == [1.0, 1.0, 1.0, 4.0, 4.5, 5.25]


def test_a_power_function_is_over_what_was_averaged():
    model = OneWeight()
    power = PowerFunctionEMA(model, 0.1)
    run(power, model, range(1, 10), skipped={1, 2, 5})
    assert power.profile_end == 6
    gamma = sigma_rel_to_gamma(0.1)
    expected = 0.0
    for t, weight in enumerate((3, 4, 6, 7, 8, 9)):
        decay = power_function_decay(gamma, t)
        expected = decay * expected + (1 - decay) * weight
    assert power.averaged_state_dict()["weight"].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("stop", [6, 8, 11])
@pytest.mark.parametrize(
    "make",
    [
        lambda m: StochasticWeightAverage(m, start=3, every=4),
        lambda m: LatestWeightAverage(m, k=2, every=4),
        lambda m: ExponentialMovingAverage(m, 0.9, start=5, update_every=2),
    ],
)
def test_what_was_left_out_is_remembered_across_a_resume(make, stop):
    model = OneWeight()
    skipped = {2, 7, 8, 12}
    straight = run(make(model), model, range(1, 17), skipped)
    first, second = make(model), make(model)
    found = run(first, model, range(1, stop + 1), skipped)
    second.set_state_dict(first.state_dict())
    assert found + run(second, model, range(stop + 1, 17), skipped) == straight


def test_skipping_while_applied_is_refused():
    ema = ExponentialMovingAverage(OneWeight())
    with ema.average_parameters(), pytest.raises(RuntimeError, match="skip"):
        ema.skip()
