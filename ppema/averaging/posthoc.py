"""Power-function EMA, and any other EMA made from its snapshots after the run.

Source of all formulas: Karras et al., https://arxiv.org/abs/2312.02696, section 3 and appendix C.
Times are in updates, from 1; a width `sigma_rel` is the standard deviation of the averaging
profile relative to the length of the run.
"""

from __future__ import annotations

import math
from typing import Any, Mapping, Optional, Sequence

import numpy as np

from .decay import ArgumentError
from .ema import ScheduledAverage
from .fit import Counters
from .profile import (
    ExponentialProfile,
    Floats,
    PowerProfile,
    Profile,
    power_function_decay,
    sigma_rel_to_gamma,
)
from .shadow import BufferPolicy, ShadowDtype


class PowerFunctionEMA(ScheduledAverage):
    """Keep the average with the profile ``t ** gamma``: its window grows with the run.

    It needs no warm-up and no length of run beforehand, gives the initial weights no share from
    the first weights on that are folded in, and
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
            start=1,
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

    def snapshot(self) -> dict[str, Any]:
        """Return copies of the model's state with the averages in it, in the shadows' dtypes.

        BN statistics that are to be recomputed are those of the last time that they were.
        """
        self._store.check_model()
        return self._store.model_state(in_model_dtypes=False)

    def copied_names(self) -> list[str]:
        """Return the names in the model's state that updates do not average.

        Excluded weights, integers, and BN statistics that are taken live or recomputed.
        """
        return self._store.copied_names()

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
    times: Sequence[float],
    sigma_rels: Sequence[float],
    time: float,
    sigma_rel: Optional[float] = None,
    half_life: Optional[float] = None,
) -> Floats:
    """Return how much of each snapshot makes the wanted EMA, as it would have been at `time`.

    Args:
        times: of each snapshot, the update it was taken at.
        sigma_rels: of each snapshot, the width of the average it is of.
        time: of the wanted average, at most the last snapshot's.
        sigma_rel: of the wanted average, a power function; or
        half_life: of the wanted average, an exponential one, in updates.

    Returns:
        float64 [number of snapshots], summing to 1, by least squares over the profiles.

    Raises:
        ArgumentError: a time not above 0, a width out of range, or `time` after all snapshots.
        ValueError: no snapshots, or not one width for each time.
    Source: section 3.2 and appendix C; the division by the sum is theirs too.
    """
    tracked = _tracked_profiles(times, sigma_rels)
    return _solve(tracked, _wanted_profile(tracked, time, sigma_rel, half_life))


def posthoc_residual(
    times: Sequence[float],
    sigma_rels: Sequence[float],
    time: float,
    sigma_rel: Optional[float] = None,
    half_life: Optional[float] = None,
) -> float:
    """Return how far the combined profile is from the wanted one: an L2 norm, relative to it.

    Arguments and errors as for `posthoc_coefficients`; 0 means that the profile is met exactly.
    """
    tracked = _tracked_profiles(times, sigma_rels)
    wanted = _wanted_profile(tracked, time, sigma_rel, half_life)
    x = _solve(tracked, wanted)
    a, b = _inner_products(tracked), _inner_with(tracked, wanted)
    norm = wanted.squared_norm()
    squared = float(x @ a @ x - 2.0 * x @ b) + norm
    return math.sqrt(max(squared, 0.0) / norm)


def _solve(tracked: Sequence[PowerProfile], wanted: Profile) -> Floats:
    # lstsq, as close snapshots make the matrix singular to working precision.
    solution = np.linalg.lstsq(_inner_products(tracked), _inner_with(tracked, wanted), rcond=1e-14)
    return np.asarray(solution[0] / solution[0].sum(), dtype=np.float64)


def _tracked_profiles(times: Sequence[float], sigma_rels: Sequence[float]) -> list[PowerProfile]:
    if not len(times) or len(times) != len(sigma_rels):
        raise ValueError(f"{len(times)} snapshot times and {len(sigma_rels)} widths; give a pair")
    if not all(0.0 < time < math.inf for time in times):
        raise ArgumentError("times", "finite numbers above 0", list(times))
    return [
        PowerProfile(float(time), sigma_rel_to_gamma(sigma_rel))
        for time, sigma_rel in zip(times, sigma_rels)
    ]


def _wanted_profile(
    tracked: Sequence[PowerProfile],
    time: float,
    sigma_rel: Optional[float],
    half_life: Optional[float],
) -> Profile:
    last = max(profile.end for profile in tracked)
    if not 0.0 < time <= last:
        raise ArgumentError("time", f"above 0 and at most the last snapshot's, {last:g}", time)
    if (sigma_rel is None) == (half_life is None):
        raise ArgumentError("sigma_rel", "given where half_life is not, and only there", sigma_rel)
    if sigma_rel is not None:
        return PowerProfile(float(time), sigma_rel_to_gamma(sigma_rel))
    assert half_life is not None
    if not 0.0 < half_life < math.inf:
        raise ArgumentError("half_life", "a finite number above 0", half_life)
    return ExponentialProfile(float(time), float(half_life))


def _inner_products(tracked: Sequence[PowerProfile]) -> Floats:
    return np.array([[one.inner(other) for other in tracked] for one in tracked])


def _inner_with(tracked: Sequence[PowerProfile], wanted: Profile) -> Floats:
    return np.array([wanted.inner(profile) for profile in tracked])
