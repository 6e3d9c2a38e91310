"""Averaging profiles: how much each moment of a run counts in an average; floats only.

A profile is a density over time, from 0 to the moment its average is of. Times are in updates; a
width `sigma_rel` is the standard deviation of a profile relative to its length.

Source of all formulas but the exponential ones: Karras et al.,
https://arxiv.org/abs/2312.02696, section 3 and appendix C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Union

import numpy as np
import numpy.typing as npt

from .decay import ArgumentError

Floats = npt.NDArray[np.float64]

# As gamma falls to 0 the profile becomes flat, and the width of a flat one is 1 / sqrt(12).
MAX_SIGMA_REL = 12**-0.5


def sigma_rel_to_gamma(sigma_rel: float) -> float:
    """Return the exponent of the profile ``t ** gamma`` that has the relative width `sigma_rel`.

    Raises:
        ArgumentError: sigma_rel is not between 0 and 12 ** -0.5 (0.2887).
    Source: appendix C, the largest root of ``gamma**3 + 7*gamma**2 + (16 - s)*gamma + (12 - s)``
        with ``s = sigma_rel ** -2``.
    """
    # Below 1e-9 its square leaves the range of floats, and no run has so many steps.
    if not 1e-9 < sigma_rel < MAX_SIGMA_REL:
        raise ArgumentError("sigma_rel", f"between 0 and {MAX_SIGMA_REL:.4f}", sigma_rel)
    s = float(sigma_rel) ** -2
    return float(np.roots([1.0, 7.0, 16.0 - s, 12.0 - s]).real.max())


def power_function_decay(gamma: float, t: int) -> float:
    """Return the decay of the update after `t`, ``(1 - 1 / (t + 1)) ** (gamma + 1)``.

    Source: section 3.1; the first update copies the weights.
    """
    return float((1.0 - 1.0 / (t + 1)) ** (gamma + 1.0))


@dataclass(frozen=True)
class PowerProfile:
    """The density ``(gamma + 1) * t**gamma / end**(gamma + 1)`` on [0, end]."""

    end: float
    gamma: float

    def inner(self, other: PowerProfile) -> float:
        """Return the integral of the product with another power profile.

        Source: appendix C.
        """
        first, second = (self, other) if self.end <= other.end else (other, self)
        # As logarithms: end ** gamma of a narrow profile leaves the range of floats.
        ratio = math.exp(second.gamma * math.log(first.end / second.end))
        a, b = first.gamma, second.gamma
        return (a + 1.0) * (b + 1.0) * ratio / ((a + b + 1.0) * second.end)

    def squared_norm(self) -> float:
        """Return the integral of the square."""
        return self.inner(self)

    def at(self, t: Floats) -> Floats:
        """Return the density at times in [0, end]."""
        return np.asarray((self.gamma + 1.0) * (t / self.end) ** self.gamma / self.end)


@dataclass(frozen=True)
class ExponentialProfile:
    """The density of an EMA: it halves every `half_life` before `end`, and is 0 before 0."""

    end: float
    half_life: float

    def inner(self, power: PowerProfile) -> float:
        """Return the integral of the product with a power profile.

        By Gauss-Legendre quadrature, on panels that shrink towards both ends, where either
        density may be steep.
        """
        nodes, weights = _quadrature(min(self.end, power.end))
        return float(np.sum(weights * self.at(nodes) * power.at(nodes)))

    def squared_norm(self) -> float:
        """Return the integral of the square."""
        rate = math.log(2.0) / self.half_life
        whole = -math.expm1(-rate * self.end)
        return rate * -math.expm1(-2.0 * rate * self.end) / (2.0 * whole**2)

    def at(self, t: Floats) -> Floats:
        """Return the density at times in [0, end]."""
        rate = math.log(2.0) / self.half_life
        return np.asarray(rate * np.exp(-rate * (self.end - t)) / -math.expm1(-rate * self.end))


Profile = Union[PowerProfile, ExponentialProfile]

_NUM_PANELS = 40
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


def _quadrature(end: float) -> tuple[Floats, Floats]:
    """Return nodes in [0, end] and their weights."""
    shrinking = 0.5 ** np.arange(1, _NUM_PANELS + 1)
    edges = end * np.concatenate([[0.0], shrinking[::-1], 1.0 - shrinking[1:], [1.0]])
    middle, half = (edges[1:] + edges[:-1]) / 2.0, (edges[1:] - edges[:-1]) / 2.0
    nodes = (middle[:, None] + half[:, None] * _NODES).ravel()
    return nodes, (half[:, None] * _WEIGHTS).ravel()
