"""The exponential moving average of a model's weights."""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence

from .average import WeightAverage
from .decay import ScheduleName, make_schedule, resolve_decay
from .shadow import BufferPolicy, ShadowDtype


class ExponentialMovingAverage(WeightAverage):
    """Keep ``shadow = decay_t * shadow + (1 - decay_t) * weight``, starting from the weights.

    t counts the calls of `update` from 0. Computed as ``shadow += (1 - decay_t) * (weight -
    shadow)`` with ``1 - decay_t`` in float64, which is the more accurate form. With
    `update_every` k the weights are folded in at every k-th call, with the product of the k
    decays, so that the window stays the same.

    Args:
        model: a paddle.nn.Layer of any dtype, on any place.
        decay: the limit of decay_t, in [0, 1); without it and half_life, 0.9998.
        thres_steps: take the schedule threshold, else constant, where `schedule` is None.
        schedule: constant: decay; threshold: min(decay, (1+t)/(10+t)); exponential:
            decay*(1-exp(-(t+1)/tau)); power: min(decay, 1-(1+t/gamma)**-power).
        tau: the time scale of the exponential schedule, in updates.
        gamma: the time scale of the power schedule, in updates.
        power: the exponent of the power schedule.
        half_life: in updates, in place of decay: 0.5 ** (1 / half_life).
        update_every, buffers, include, exclude, shadow_dtype, device: see WeightAverage.

    Raises:
        ArgumentError: an argument out of range, or a pattern that matches no parameter.
        ValueError: the model has nothing to average.
    Source: Polyak averaging with exponential weights; the names are those of
        paddle.static.ExponentialMovingAverage.
    """

    def __init__(
        self,
        model: Any,
        decay: Optional[float] = None,
        thres_steps: bool = True,
        *,
        schedule: Optional[ScheduleName] = None,
        tau: float = 2000,
        gamma: float = 1.0,
        power: float = 2 / 3,
        half_life: Optional[float] = None,
        update_every: int = 1,
        buffers: BufferPolicy = "average",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        shadow_dtype: ShadowDtype = "float32",
        device: Optional[str] = None,
    ) -> None:
        if schedule is None:
            schedule = "threshold" if thres_steps else "constant"
        limit = resolve_decay(decay, half_life)
        self.schedule = make_schedule(schedule, limit, tau, gamma, power)
        self._pending = 1.0
        super().__init__(
            model,
            update_every=update_every,
            buffers=buffers,
            include=include,
            exclude=exclude,
            shadow_dtype=shadow_dtype,
            device=device,
        )

    def register(self) -> None:
        """Start again from the model's current weights, at t = 0."""
        super().register()
        self._pending = 1.0

    def state_dict(self) -> dict[str, Any]:
        """Return all that an exact continuation needs; right while applied too."""
        return {**super().state_dict(), "pending_decay": self._pending}

    def _share_to_keep(self, t: int) -> float:
        decay = self._pending * self.schedule(t)
        if (t + 1) % self._update_every:
            self._pending = decay
            return 1.0
        self._pending = 1.0
        return decay

    def _check_counters(self, state: Mapping[str, Any]) -> None:
        super()._check_counters(state)
        pending = state["pending_decay"]
        if not isinstance(pending, float) or not 0.0 <= pending <= 1.0:
            raise ValueError(f"pending_decay must be a number in [0, 1], got {pending!r}")

    def _load_counters(self, state: Mapping[str, Any]) -> None:
        super()._load_counters(state)
        self._pending = state["pending_decay"]
