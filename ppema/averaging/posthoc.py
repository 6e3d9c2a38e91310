"""Power-function EMA, and any other EMA made from its snapshots after the run.

Source of all formulas: Karras et al., https://arxiv.org/abs/2312.02696, section 3 and appendix C.
Times are in updates, from 1; a width `sigma_rel` is the standard deviation of the averaging
profile relative to the length of the run.
"""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence

import numpy as np
import numpy.typing as npt

from .average import Counters
from .decay import ArgumentError
from .ema import ScheduledAverage
from .shadow import BufferPolicy, ShadowDtype

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
    if not 0.0 < sigma_rel < MAX_SIGMA_REL:
        raise ArgumentError("sigma_rel", f"between 0 and {MAX_SIGMA_REL:.4f}", sigma_rel)
    s = float(sigma_rel) ** -2
    return float(np.roots([1.0, 7.0, 16.0 - s, 12.0 - s]).real.max())


def power_function_decay(gamma: float, t: int) -> float:
    """Return the decay of the update after `t`, ``(1 - 1 / (t + 1)) ** (gamma + 1)``.

    Source: section 3.1; the first update copies the weights.
    """
    return float((1.0 - 1.0 / (t + 1)) ** (gamma + 1.0))


class PowerFunctionEMA(ScheduledAverage):
    """Keep the average with the profile ``t ** gamma``: its window grows with the run.

    It needs no warm-up and no length of run beforehand, gives the initial weights no share, and
    its snapshots can be combined to an EMA of any other width afterwards.

    Args:
        model: a paddle.nn.Layer of any dtype, on any place.
        sigma_rel: the relative width, between 0 and 0.2887; 0.05 and 0.10 are the usual pair.
        update_every: see ScheduledAverage.
        buffers, include, exclude, shadow_dtype, device: see WeightAverage.

    Raises:
        ArgumentError: an argument out of range, or a pattern that matches no parameter.
    """

    def __init__(
        self,
        model: Any,
        sigma_rel: float = 0.10,
        *,
        update_every: int = 1,
        buffers: BufferPolicy = "average",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        shadow_dtype: ShadowDtype = "float32",
        device: Optional[str] = None,
    ) -> None:
        gamma = sigma_rel_to_gamma(sigma_rel)
        self.sigma_rel = float(sigma_rel)
        super().__init__(
            model,
            lambda t: power_function_decay(gamma, t),
            update_every=update_every,
            debias=False,
            buffers=buffers,
            include=include,
            exclude=exclude,
            shadow_dtype=shadow_dtype,
            device=device,
        )

    @property
    def profile_end(self) -> int:
        """Return the update that the average reaches up to: the last that was folded in."""
        return self.num_updates - self.num_updates % self._update_every

    def _initial_counters(self) -> Counters:
        return {**super()._initial_counters(), "sigma_rel": self.sigma_rel}

    def _checked_counters(self, state: Mapping[str, Any]) -> Counters:
        counters = super()._checked_counters(state)
        if counters["sigma_rel"] != self.sigma_rel:
            raise ValueError(
                f"the state is of sigma_rel {counters['sigma_rel']:g}, this average of "
                f"{self.sigma_rel:g}; give another width another name"
            )
        return counters


def posthoc_coefficients(
    times: Sequence[float], sigma_rels: Sequence[float], time: float, sigma_rel: float
) -> Floats:
    """Return how much of each snapshot makes the EMA of width `sigma_rel` at `time`.

    Args:
        times: of each snapshot, the update it was taken at.
        sigma_rels: of each snapshot, the width of the average it is of.
        time: of the wanted average, at most the last snapshot's.
        sigma_rel: of the wanted average.

    Returns:
        float64 [number of snapshots], summing to 1, by least squares over the profiles.

    Raises:
        ArgumentError: a time not above 0, a width out of range, or `time` after all snapshots.
        ValueError: no snapshots, or not one width for each time.
    Source: section 3.2 and appendix C; the division by the sum is theirs too.
    """
    solution = _least_squares(times, sigma_rels, time, sigma_rel)
    return np.asarray(solution / solution.sum())


def posthoc_residual(
    times: Sequence[float], sigma_rels: Sequence[float], time: float, sigma_rel: float
) -> float:
    """Return how far the combined profile is from the wanted one: an L2 norm, relative to it.

    Arguments and errors as for `posthoc_coefficients`; 0 means that the profile is met exactly.
    """
    x = posthoc_coefficients(times, sigma_rels, time, sigma_rel)
    t, gammas = _profiles(times, sigma_rels)
    wanted_t, wanted_gamma = _profiles([time], [sigma_rel])
    among = _inner_products(t, gammas, t, gammas)
    with_wanted = _inner_products(t, gammas, wanted_t, wanted_gamma)[:, 0]
    wanted = _inner_products(wanted_t, wanted_gamma, wanted_t, wanted_gamma)[0, 0]
    squared = x @ among @ x - 2.0 * x @ with_wanted + wanted
    return float(np.sqrt(max(squared, 0.0) / wanted))


def _least_squares(
    times: Sequence[float], sigma_rels: Sequence[float], time: float, sigma_rel: float
) -> Floats:
    if not len(times) or len(times) != len(sigma_rels):
        raise ValueError(f"{len(times)} snapshot times and {len(sigma_rels)} widths; give a pair")
    t, gammas = _profiles(times, sigma_rels)
    wanted_t, wanted_gamma = _profiles([time], [sigma_rel])
    if time > t.max():
        raise ArgumentError("time", f"at most that of the last snapshot, {t.max():g}", time)
    a = _inner_products(t, gammas, t, gammas)
    b = _inner_products(t, gammas, wanted_t, wanted_gamma)[:, 0]
    # lstsq, as close snapshots make the matrix singular to working precision.
    return np.asarray(np.linalg.lstsq(a, b, rcond=1e-14)[0], dtype=np.float64)


def _profiles(times: Sequence[float], sigma_rels: Sequence[float]) -> tuple[Floats, Floats]:
    t = np.asarray(times, dtype=np.float64)
    if not (t > 0).all() or not np.isfinite(t).all():
        raise ArgumentError("times", "finite numbers above 0", list(times))
    gammas = np.asarray([sigma_rel_to_gamma(width) for width in sigma_rels], dtype=np.float64)
    return t, gammas


def _inner_products(t_a: Floats, gamma_a: Floats, t_b: Floats, gamma_b: Floats) -> Floats:
    """Return the integrals of the products of all pairs of profiles, [len(a), len(b)].

    The profile of (T, gamma) is ``(gamma + 1) * t**gamma / T**(gamma + 1)`` up to T, 0 after.

    Source: appendix C.
    """
    ratio = t_a[:, None] / t_b[None, :]
    a, b = gamma_a[:, None], gamma_b[None, :]
    exponent = np.where(ratio < 1.0, b, -a)
    longest = np.maximum(t_a[:, None], t_b[None, :])
    return np.asarray((a + 1.0) * (b + 1.0) * ratio**exponent / ((a + b + 1.0) * longest))
