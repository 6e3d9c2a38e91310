"""Means, deviations and paired tests of a few figures; plain floats, no model."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Optional, Sequence

_CONFIDENCE = 0.95
# Of a continued fraction that converges in some ten terms; and against a division by zero.
_MOST_TERMS, _TINY = 10_000, 1e-300


@dataclass(frozen=True)
class Sample:
    """Figures of independent runs in short.

    Attributes:
        n: how many there are.
        mean: of them.
        std: the sample standard deviation, by n - 1; None of a single figure.
        low: of the 95 % interval of the mean, by Student's t; None of a single figure.
        high: likewise.
        p: of the two-sided t-test that the mean is 0; None of a single figure.
    """

    n: int
    mean: float
    std: Optional[float]
    low: Optional[float]
    high: Optional[float]
    p: Optional[float]

    def as_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        return asdict(self)


def summarise(values: Sequence[float]) -> Sample:
    """Return the mean of one or more values with its interval and its test against 0.

    Of differences between pairs it is the paired t-test. Values that are all the same have an
    interval of no width, and p is 0, or 1 where they are 0.

    Raises:
        ValueError: no values.
    """
    n = len(values)
    mean, std = mean_and_std(values)
    if std is None:
        return Sample(n, mean, None, None, None, None)
    error = std / math.sqrt(n)
    half = t_quantile(0.5 + _CONFIDENCE / 2, n - 1) * error
    t = mean / error if error else math.copysign(math.inf, mean) if mean else 0.0
    return Sample(n, mean, std, mean - half, mean + half, two_sided_p(t, n - 1))


def mean_and_std(values: Sequence[float]) -> tuple[float, Optional[float]]:
    """Return the mean of one or more values and their sample deviation, None of a single value.

    Raises:
        ValueError: no values.
    """
    n = len(values)
    if not n:
        raise ValueError("no values to take the mean of")
    mean = math.fsum(values) / n
    if n == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))


def two_sided_p(t: float, degrees: int) -> float:
    """Return the probability of a |t| at least as large, under Student's distribution.

    Source: https://dlmf.nist.gov/8.17, I_x(degrees / 2, 1 / 2) at x = degrees / (degrees + t²).
    """
    return incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t))


def t_quantile(probability: float, degrees: int) -> float:
    """Return the t that is not exceeded with a probability in [0.5, 1), by bisection."""
    low, high = 0.0, 1.0
    while 1 - two_sided_p(high, degrees) / 2 < probability:
        high *= 2
    # To the last bit: there are no more doubles in between than that.
    for _ in range(200):
        middle = (low + high) / 2
        if 1 - two_sided_p(middle, degrees) / 2 < probability:
            low = middle
        else:
            high = middle
    return high


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b), for a, b > 0 and x in [0, 1].

    Source: https://dlmf.nist.gov/8.17.E22 (a continued fraction) and 8.17.E4 (the symmetry that
    keeps it where it converges fast).
    """
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, 1 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    log_front += a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) / (a * _beta_fraction(a, b, x))


def _beta_fraction(a: float, b: float, x: float) -> float:
    """Return 1 + d_1 / (1 + d_2 / (1 + …)), by Lentz's algorithm from the front."""
    found, upper, lower = 1.0, 1.0, 0.0
    for term in range(1, _MOST_TERMS):
        m = term // 2
        if term % 2:
            d = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        upper = 1 + d / upper or _TINY
        lower = 1 / (1 + d * lower or _TINY)
        found *= upper * lower
        if abs(upper * lower - 1) < 1e-15:
            break
    return found
