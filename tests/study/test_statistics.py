"""Student's t by continued fraction and bisection, against printed tables and closed forms."""

from __future__ import annotations

import math

import pytest

from ppema.study.statistics import incomplete_beta, summarise, t_quantile, two_sided_p

# Percentage points of Student's t as any table has them.
TABLE = [
    (0.95, 1, 6.3138),
    (0.975, 1, 12.7062),
    (0.975, 2, 4.3027),
    (0.975, 4, 2.7764),
    (0.975, 9, 2.2622),
    (0.975, 30, 2.0423),
    (0.975, 120, 1.9799),
    (0.995, 4, 4.6041),
    (0.9995, 9, 4.7809),
]


@pytest.mark.parametrize(("probability", "degrees", "wanted"), TABLE)
def test_quantiles_are_those_of_the_tables(probability, degrees, wanted):
    assert t_quantile(probability, degrees) == pytest.approx(wanted, abs=5e-5)


@pytest.mark.parametrize(("probability", "degrees", "t"), TABLE)
def test_p_is_the_inverse_of_the_quantile(probability, degrees, t):
    assert two_sided_p(t, degrees) == pytest.approx(2 * (1 - probability), rel=1e-4)
    assert two_sided_p(-t, degrees) == two_sided_p(t, degrees)


@pytest.mark.parametrize("t", [0.1, 1.0, 3.0, 40.0, 1e6])
def test_p_has_its_closed_forms_at_one_and_two_degrees(t):
    assert two_sided_p(t, 1) == pytest.approx(1 - 2 / math.pi * math.atan(t), rel=1e-6, abs=1e-15)
    assert two_sided_p(t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("x", [0.0, 1e-9, 0.2, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("n", [1, 3, 40])
def test_the_beta_function_has_its_closed_forms(x, n):
    assert incomplete_beta(n, 1, x) == pytest.approx(x**n, rel=1e-12, abs=1e-300)
    expected = -math.expm1(n * math.log1p(-x)) if x < 1 else 1.0
    assert incomplete_beta(1, n, x) == pytest.approx(expected, rel=1e-12, abs=1e-15)
    # The chance of two or more of n + 1.
    tail = sum(math.comb(n + 1, k) * x**k * (1 - x) ** (n + 1 - k) for k in range(2, n + 2))
    assert incomplete_beta(2, n, x) == pytest.approx(tail, rel=1e-6, abs=1e-14)


def test_a_paired_test_by_hand():
    # Student's own sleep data, differences of the two drugs: t = 4.0621, p = 0.002833.
    found = summarise([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])
    assert (found.n, found.mean) == (10, pytest.approx(1.58))
    assert found.std == pytest.approx(1.2299955, rel=1e-7)
    assert found.p == pytest.approx(0.00283289, rel=1e-5)
    assert (found.low, found.high) == pytest.approx((0.7001142, 2.4598858), rel=1e-6)


def test_figures_that_are_all_the_same_leave_no_doubt():
    assert summarise([0.25, 0.25]).as_dict() == {
        **{"n": 2, "mean": 0.25, "std": 0.0, "low": 0.25, "high": 0.25},
        "p": 0.0,
    }
    assert summarise([0.0, 0.0, 0.0]).p == 1.0


def test_a_single_figure_has_no_interval_and_none_at_all_no_mean():
    assert summarise([3.0]).as_dict() == {
        **{"n": 1, "mean": 3.0, "std": None},
        **{"low": None, "high": None, "p": None},
    }
    with pytest.raises(ValueError, match="no values"):
        summarise([])
