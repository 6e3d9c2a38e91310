"""The exponential moving average of a model's weights."""

from __future__ import annotations

from typing import Any, ClassVar, Optional, Sequence

from .average import WeightAverage
from .decay import (
    ArgumentError,
    Schedule,
    ScheduleName,
    initial_share,
    make_schedule,
    require_whole,
    resolve_decay,
)
from .fit import Counters
from .horizon import Duration, RunLength, to_steps, to_whole_steps
from .shadow import BufferPolicy, ShadowDtype


class ScheduledAverage(WeightAverage):
    """Keep ``shadow = decay_t * shadow + (1 - decay_t) * weight`` for any schedule of decays.

    Args:
        model: a paddle.nn.Layer of any dtype, on any place.
        schedule: from t, the updates done so far, to the decay of the next one.
        start: the step, counted from 1, whose weights are the first to be averaged in; until
            then the average is the weights of the last. t is 0 there.
        update_every: fold the weights in at every so many calls of `update`, with the product
            of their decays.
        debias: leave the initial weights out: the average is of the weights seen, each with its
            share divided by ``1 - decay_1 * … * decay_t``, whatever the schedule.
        buffers, include, exclude, shadow_dtype, device: see WeightAverage.

    Raises:
        ArgumentError: an argument out of range, or a pattern that matches no parameter.
    """

    # The updates before `start`, the decays of those that `update_every` left out, and the sum of
    # all shares so far.
    _COUNTERS: ClassVar[Counters] = {
        "updates_before_start": 0,
        "pending_decay": 1.0,
        "normalizer": 0.0,
    }

    def __init__(
        self,
        model: Any,
        schedule: Schedule,
        *,
        start: int,
        update_every: int,
        debias: bool,
        buffers: BufferPolicy,
        include: Sequence[str],
        exclude: Sequence[str],
        shadow_dtype: ShadowDtype,
        device: Optional[str],
    ) -> None:
        require_whole("update_every", update_every)
        self.schedule = schedule
        self._start, self._update_every, self._debias = start, update_every, debias
        super().__init__(
            model,
            buffers=buffers,
            include=include,
            exclude=exclude,
            shadow_dtype=shadow_dtype,
            device=device,
        )

    @property
    def first_step(self) -> int:
        """Return the step that is the first to be folded in."""
        return self._start + self._update_every - 1

    def expected_initial_share(self, num_steps: int) -> float:
        """Return the share that the weights before `start` will have after so many steps."""
        averaged = max(0, num_steps - self._start + 1)
        folded = averaged - averaged % self._update_every
        return 0.0 if self._debias and folded else initial_share(self.schedule, folded)

    def _share_to_keep(self, t: int) -> float:
        if self.num_steps + 1 < self._start:
            # A resume may have made `start` later: what was averaged until then is left out.
            self._counters.update(updates_before_start=t + 1, pending_decay=1.0, normalizer=0.0)
            return 0.0
        t -= int(self._counters["updates_before_start"])
        decay = self._counters["pending_decay"] * self.schedule(t)
        if (t + 1) % self._update_every:
            self._counters["pending_decay"] = decay
            return 1.0
        self._counters["pending_decay"] = 1.0
        new_share = 1.0 - decay
        self._counters["normalizer"] = decay * self._counters["normalizer"] + new_share
        if self._debias and new_share > 0.0:
            # Dividing the shares as they come keeps the shadow itself debiased at every step.
            return 1.0 - new_share / self._counters["normalizer"]
        return decay


class ExponentialMovingAverage(ScheduledAverage):
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
        half_life: in place of decay, 0.5 ** (1 / half_life): in updates, or text in another unit
            such as "5 %", "2 epochs", "64000 images", with `run`.
        decay_batch_size: the images a step had where `decay` was found; with κ times as many it
            becomes ``decay ** κ``, the same window in images. Needs `run`.
        start: see ScheduledAverage; or text in another unit, such as "10 %", with `run`.
        update_every, debias: see ScheduledAverage.
        run: how long the run is, for durations in other units than updates.
        buffers, include, exclude, shadow_dtype, device: see WeightAverage.

    Raises:
        ArgumentError: an argument out of range, or a pattern that matches no parameter.
        ValueError: the model has nothing to average.
    Source: Polyak averaging with exponential weights; the names are those of
        paddle.static.ExponentialMovingAverage. decay_batch_size: https://arxiv.org/abs/2307.13813.
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
        half_life: Optional[Duration] = None,
        decay_batch_size: Optional[int] = None,
        start: Duration = 1,
        update_every: int = 1,
        debias: bool = False,
        buffers: BufferPolicy = "average",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        shadow_dtype: ShadowDtype = "float32",
        device: Optional[str] = None,
        run: Optional[RunLength] = None,
    ) -> None:
        if schedule is None:
            schedule = "threshold" if thres_steps else "constant"
        steps = None if half_life is None else to_steps("half_life", half_life, run)
        limit = resolve_decay(decay, steps if decay is None else half_life)
        if decay_batch_size is not None:
            limit **= _batch_ratio(decay, decay_batch_size, run)
        super().__init__(
            model,
            make_schedule(schedule, limit, tau, gamma, power),
            start=to_whole_steps("start", start, run),
            update_every=update_every,
            debias=debias,
            buffers=buffers,
            include=include,
            exclude=exclude,
            shadow_dtype=shadow_dtype,
            device=device,
        )


def _batch_ratio(decay: Optional[float], batch_size: int, run: Optional[RunLength]) -> float:
    """Return κ, how many times as many images a step has as where the decay was found."""
    if decay is None:
        raise ArgumentError("decay_batch_size", "left out where decay is not given", batch_size)
    if run is None:
        raise ArgumentError("decay_batch_size", "left out where no run is given", batch_size)
    require_whole("decay_batch_size", batch_size)
    return run.images_per_step / batch_size
