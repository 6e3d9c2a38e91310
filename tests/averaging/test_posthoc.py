"""Post-hoc EMA: profiles on floats, checked against integrals and against a tracked average."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppema import ArgumentError, PowerFunctionEMA
from ppema.averaging.posthoc import posthoc_coefficients, posthoc_residual
from ppema.averaging.profile import (
    ExponentialProfile,
    PowerProfile,
    power_function_decay,
    sigma_rel_to_gamma,
)


@pytest.mark.parametrize("sigma_rel", [0.02, 0.05, 0.10, 0.20, 0.28])
def test_the_profile_has_the_width_asked_for(sigma_rel):
    gamma = sigma_rel_to_gamma(sigma_rel)
    t = (np.arange(1_000_000) + 0.5) / 1_000_000
    density = t**gamma / np.sum(t**gamma)
    mean = np.sum(t * density)
    assert np.sqrt(np.sum((t - mean) ** 2 * density)) == pytest.approx(sigma_rel, rel=1e-5)


def test_the_decays_give_the_profile():
    gamma = 3.0
    shares = np.zeros(50)
    for t in range(50):
        decay = power_function_decay(gamma, t)
        shares *= decay
        shares[t] = 1 - decay
    edges = (np.arange(51) / 50) ** (gamma + 1)
    np.testing.assert_allclose(shares, np.diff(edges), rtol=1e-9)


def profile(times, sigma_rel, end):
    gamma = sigma_rel_to_gamma(sigma_rel)
    return np.where(times <= end, (gamma + 1) * times**gamma / end ** (gamma + 1), 0.0)


def test_the_coefficients_are_the_least_squares_ones_over_sampled_profiles():
    snapshots = [(t, s) for t in (250.0, 500.0, 750.0, 1000.0) for s in (0.05, 0.10)]
    times, widths = zip(*snapshots)
    found = posthoc_coefficients(times, widths, 1000.0, 0.13)
    grid = (np.arange(400_000) + 0.5) / 400
    basis = np.stack([profile(grid, s, t) for t, s in snapshots], axis=1)
    wanted = profile(grid, 0.13, 1000.0)
    expected = np.linalg.lstsq(basis, wanted, rcond=None)[0]
    np.testing.assert_allclose(found, expected / expected.sum(), atol=1e-4)
    error = np.linalg.norm(basis @ found - wanted) / np.linalg.norm(wanted)
    assert posthoc_residual(times, widths, 1000.0, 0.13) == pytest.approx(error, rel=1e-3)


def exponential(times, half_life, end):
    density = np.where(times <= end, 0.5 ** ((end - times) / half_life), 0.0)
    return density / (density.sum() * (times[1] - times[0]))


@pytest.mark.parametrize("half_life", [20.0, 100.0, 700.0, 5000.0])
@pytest.mark.parametrize("end", [1000.0, 830.0])
def test_the_coefficients_for_a_half_life_are_the_least_squares_ones(half_life, end):
    snapshots = [(t, s) for t in (250.0, 500.0, 750.0, 1000.0) for s in (0.05, 0.10)]
    times, widths = zip(*snapshots)
    found = posthoc_coefficients(times, widths, end, half_life=half_life)
    assert found.sum() == pytest.approx(1.0, abs=1e-12)
    grid = (np.arange(400_000) + 0.5) / 400
    basis = np.stack([profile(grid, s, t) for t, s in snapshots], axis=1)
    wanted = exponential(grid, half_life, end)
    expected = np.linalg.lstsq(basis, wanted, rcond=None)[0]
    np.testing.assert_allclose(found, expected / expected.sum(), atol=2e-4)
    error = np.linalg.norm(basis @ found - wanted) / np.linalg.norm(wanted)
    residual = posthoc_residual(times, widths, end, half_life=half_life)
    assert residual == pytest.approx(error, rel=2e-3)


@pytest.mark.parametrize("ratio", [1e-7, 1e-3, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("sigma_rel", [0.005, 0.05, 0.28])
def test_the_quadrature_meets_a_fine_sum(ratio, sigma_rel):
    """Substituted by the time left as a logarithm, where both densities are smooth."""
    power = PowerProfile(1000.0, sigma_rel_to_gamma(sigma_rel))
    wanted = ExponentialProfile(1000.0, 1000.0 * ratio)
    left = np.logspace(-9, 3, 2_000_001)
    values = power.at(1000.0 - left) * wanted.at(1000.0 - left)
    expected = np.trapezoid(values * left, np.log(left)) if hasattr(np, "trapezoid") else None
    if expected is None:
        expected = np.trapz(values * left, np.log(left))
    assert wanted.inner(power) == pytest.approx(expected, rel=1e-4)
    # An average of one moment sees the other density at that moment.
    if ratio == 1e-7:
        assert wanted.inner(power) == pytest.approx(power.at(np.array(1000.0)), rel=1e-4)


@pytest.mark.parametrize("num_times", [1, 2, 4, 8, 64])
@pytest.mark.parametrize("sigma_rel", [0.03, 0.05, 0.13, 0.25])
def test_the_coefficients_sum_to_one(num_times, sigma_rel):
    times = [1000.0 * (i + 1) / num_times for i in range(num_times)] * 2
    widths = [0.05] * num_times + [0.10] * num_times
    coefficients = posthoc_coefficients(times, widths, 1000.0, sigma_rel)
    assert coefficients.sum() == pytest.approx(1.0, abs=1e-9)


def test_a_snapshot_of_the_wanted_average_is_taken_as_it_is():
    times, widths = [500.0, 1000.0, 500.0, 1000.0], [0.05, 0.05, 0.10, 0.10]
    found = posthoc_coefficients(times, widths, 1000.0, 0.10)
    np.testing.assert_allclose(found, [0, 0, 0, 1], atol=1e-9)
    assert posthoc_residual(times, widths, 1000.0, 0.10) == pytest.approx(0.0, abs=1e-6)


def test_the_synthesis_of_an_average_that_was_also_tracked_is_within_one_percent():
    paddle.seed(4)
    model = paddle.nn.Linear(30, 20)
    tracked = {s: PowerFunctionEMA(model, s, shadow_dtype="float64") for s in (0.05, 0.10, 0.15)}
    snapshots, times, widths = [], [], []
    for step in range(1, 1601):
        for parameter in model.parameters():
            parameter.set_value(parameter + 0.1 * paddle.randn(parameter.shape))
        for sigma_rel, average in tracked.items():
            average.update()
            if step % 100 == 0 and sigma_rel != 0.15:
                snapshots.append(average.state_dict()["shadow"]["weight"].numpy().copy())
                times.append(float(step))
                widths.append(sigma_rel)
    coefficients = posthoc_coefficients(times, widths, 1600.0, 0.15)
    made = np.tensordot(coefficients, np.stack(snapshots), axes=1)
    wanted = tracked[0.15].state_dict()["shadow"]["weight"].numpy()
    assert np.linalg.norm(made - wanted) / np.linalg.norm(wanted) < 0.01


@pytest.mark.parametrize(
    ("times", "widths", "time", "sigma_rel", "error"),
    [
        ([], [], 10, 0.1, ValueError),
        ([10], [0.1, 0.2], 10, 0.1, ValueError),
        ([0], [0.1], 10, 0.1, ArgumentError),
        ([float("nan")], [0.1], 10, 0.1, ArgumentError),
        ([10], [0.5], 10, 0.1, ArgumentError),
        ([10], [0.1], 10, 0.5, ArgumentError),
        ([10], [0.1], 11, 0.1, ArgumentError),
        ([10], [0.1], 0, 0.1, ArgumentError),
        ([10], [0.1], 10, None, ArgumentError),
    ],
)
def test_what_cannot_be_is_an_error(times, widths, time, sigma_rel, error):
    with pytest.raises(error):
        posthoc_coefficients(times, widths, time, sigma_rel)


@pytest.mark.parametrize("half_life", [0.0, -1.0, float("nan"), float("inf")])
def test_a_half_life_that_cannot_be_is_an_error(half_life):
    with pytest.raises(ArgumentError, match="half_life"):
        posthoc_coefficients([10], [0.1], 10, half_life=half_life)


def test_the_state_of_another_width_is_refused():
    model = paddle.nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"state is of sigma_rel 0\.1, this average of 0\.2"):
        PowerFunctionEMA(model, 0.2).set_state_dict(PowerFunctionEMA(model, 0.1).state_dict())


def test_the_profile_ends_with_the_update_that_was_folded_in_last():
    average = PowerFunctionEMA(paddle.nn.Linear(1, 1), update_every=4)
    ends = []
    for _ in range(9):
        average.update()
        ends.append(average.profile_end)
    assert ends == [0, 0, 0, 4, 4, 4, 4, 8, 8]


def test_a_snapshot_is_whole_and_in_the_shadows_own_dtype():
    model = paddle.nn.Sequential(paddle.nn.Linear(2, 2), paddle.nn.BatchNorm1D(2))
    model[0].register_buffer("count", paddle.to_tensor(3))
    model.to(dtype="bfloat16")
    average = PowerFunctionEMA(model, exclude=["0.bias"], buffers="recompute")
    average.update()
    state = average.snapshot()
    assert list(state) == list(model.state_dict())
    assert state["0.weight"].dtype == paddle.float32
    assert state["0.bias"].dtype == paddle.bfloat16
    # Statistics that are recomputed are those of the last time, so no average either.
    assert average.copied_names() == ["0.bias", "0.count", "1._mean", "1._variance"]
    before = state["0.weight"].numpy().copy()
    model[0].weight.set_value(model[0].weight + 1)
    average.update()
    np.testing.assert_array_equal(state["0.weight"].numpy(), before)
