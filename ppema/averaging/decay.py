"""From the number of updates to the decay of an average: floats only, no tensors."""

from __future__ import annotations

import math
from typing import Any, Callable, Literal, Optional

DEFAULT_DECAY = 0.9998

ScheduleName = Literal["constant", "threshold", "exponential", "power"]
Schedule = Callable[[int], float]


class ArgumentError(ValueError):
    """Name the argument that is wrong, so that a config reader can name its line."""

    def __init__(self, argument: str, requirement: str, found: object) -> None:
        super().__init__(f"{argument} must be {requirement}, got {found!r}")
        self.argument = argument


def threshold_decay(decay: float, t: int) -> float:
    """Return ``min(decay, (1 + t) / (10 + t))``, t counted from 0.

    Source: ``thres_steps`` of paddle.static.ExponentialMovingAverage.
    """
    return min(decay, (1 + t) / (10 + t))


def exponential_decay(decay: float, t: int, tau: float) -> float:
    """Return ``decay * (1 - exp(-(t + 1) / tau))``, t counted from 0.

    Source: ``ema_decay_type: exponential`` of PaddleDetection.
    """
    return decay * -math.expm1(-(t + 1) / tau)


def power_decay(decay: float, t: int, gamma: float, power: float) -> float:
    """Return ``min(decay, 1 - (1 + t / gamma) ** -power)``, t counted from 0.

    Source: https://github.com/lucidrains/ema-pytorch, ``inv_gamma`` and ``power``.
    """
    return min(decay, 1.0 - math.pow(1.0 + t / gamma, -power))


def half_life_to_decay(half_life: float) -> float:
    """Return the decay that halves a weight's influence every `half_life` steps.

    Raises:
        ArgumentError: half_life is not a finite number above 0.
    Source: definition of half-life, ``0.5 ** (1 / half_life)``.
    """
    _require_positive("half_life", half_life)
    decay = float(0.5 ** (1.0 / half_life))
    if decay == 1.0:
        raise ArgumentError("half_life", "short enough for the average to move", half_life)
    return decay


def resolve_decay(decay: Optional[float], half_life: Any) -> float:
    """Return the decay meant by `decay` or by `half_life`, DEFAULT_DECAY if by neither.

    Raises:
        ArgumentError: both are given, or the one given is out of range.
    """
    if half_life is not None:
        if decay is not None:
            allowed = "left out where decay is given (decay: null drops a decay)"
            raise ArgumentError("half_life", allowed, half_life)
        return half_life_to_decay(half_life)
    if decay is None:
        return DEFAULT_DECAY
    if not 0.0 <= decay < 1.0:
        raise ArgumentError("decay", "in [0, 1)", decay)
    return float(decay)


def make_schedule(
    schedule: ScheduleName, decay: float, tau: float, gamma: float, power: float
) -> Schedule:
    """Return the function from t, the updates done so far, to the decay of the next one.

    Raises:
        ArgumentError: an unknown schedule, or tau, gamma or power not above 0.
    """
    for name, value in (("tau", tau), ("gamma", gamma), ("power", power)):
        _require_positive(name, value)
    schedules: dict[str, Schedule] = {
        "constant": lambda t: decay,
        "threshold": lambda t: threshold_decay(decay, t),
        "exponential": lambda t: exponential_decay(decay, t, tau),
        "power": lambda t: power_decay(decay, t, gamma, power),
    }
    if schedule not in schedules:
        raise ArgumentError("schedule", f"one of {', '.join(schedules)}", schedule)
    return schedules[schedule]


def initial_share(schedule: Schedule, num_updates: int) -> float:
    """Return the share of the initial weights left in the average after `num_updates`."""
    share = 1.0
    for t in range(num_updates):
        decay = schedule(t)
        if decay == schedule(num_updates):
            # Schedules never fall: from here on the decay is the same, however long the run.
            return float(share * decay ** (num_updates - t))
        share *= decay
        if share < 1e-12:
            return 0.0
    return share


def require_whole(argument: str, value: object) -> None:
    """Raise ArgumentError where a value is no whole number above 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ArgumentError(argument, "a whole number above 0", value)


def _require_positive(argument: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ArgumentError(argument, "a finite number above 0", value)
