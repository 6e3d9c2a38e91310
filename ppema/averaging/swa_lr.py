"""The learning rates that SWA was published with: constant or cyclic, after another schedule."""

from __future__ import annotations

import math
from typing import Any, Literal, Mapping, Optional, Union

from paddle.optimizer.lr import LRScheduler, ReduceOnPlateau

from .decay import ArgumentError
from .horizon import Duration, RunLength, to_whole_steps
from .schedule_state import schedule_state, set_schedule_state

AnnealStrategy = Literal["cos", "linear"]


def annealed_rate(
    i: int, rate_before: float, swa_lr: float, anneal: int, strategy: AnnealStrategy
) -> float:
    """Return the rate of the i-th step, from 1, of an annealing over `anneal` steps.

    ``alpha * swa_lr + (1 - alpha) * rate_before`` with ``t = min(1, i / anneal)``, and alpha t
    (linear) or ``(1 - cos(pi * t)) / 2`` (cos): at the last of the steps it is swa_lr.

    Source: torch.optim.swa_utils.SWALR.
    """
    t = min(1.0, i / anneal) if anneal else 1.0
    alpha = t if strategy == "linear" else (1.0 - math.cos(math.pi * t)) / 2.0
    return alpha * swa_lr + (1.0 - alpha) * rate_before


def cyclic_rate(i: int, max_lr: float, min_lr: float, cycle: int) -> float:
    """Return the rate of the i-th step, from 1, of cycles that fall from max_lr to min_lr.

    ``(1 - t) * max_lr + t * min_lr`` with ``t = ((i - 1) mod cycle + 1) / cycle``: at the last
    step of each cycle it is min_lr.

    Source: Izmailov et al., https://arxiv.org/abs/1803.05407, section 3.1.
    """
    t = ((i - 1) % cycle + 1) / cycle
    return (1.0 - t) * max_lr + t * min_lr


class RateAfterStart(LRScheduler):
    """Follow one rate or schedule for `start` steps and the rate of a subclass after them.

    Call `step` after each optimizer step, as with any schedule of Paddle: step k of the
    optimizer, from 1, then has the rate at ``last_epoch == k - 1``. Steps 1 to `start` have
    the rate before, and step ``start + i`` is the i-th of the subclass. Where an average's
    `update` (or `skip`) is called once for each optimizer step, its k-th call sees the weights
    that step k made: ``StochasticWeightAverage(start=start + c, every=c)`` takes the last step
    of each cycle of c steps.

    A schedule before is stepped as it would be alone, and stays at the rate of step `start`
    from there on. A schedule around this one that begins to step it later, as LinearWarmup
    does, makes `start` later by as much: give the warmup to this one instead.
    """

    def __init__(
        self,
        learning_rate: Union[float, LRScheduler],
        start: Duration,
        run: Optional[RunLength],
        last_epoch: int,
        verbose: bool,
    ) -> None:
        if not isinstance(learning_rate, LRScheduler):
            _require_rate("learning_rate", learning_rate, allows_zero=True)
        if isinstance(learning_rate, ReduceOnPlateau):
            raise ArgumentError(
                "learning_rate", "a rate, or a schedule of steps alone", type(learning_rate)
            )
        self.learning_rate = learning_rate
        self.start = to_whole_steps("start", start, run, allows_zero=True)
        super().__init__(self._rate_before(), last_epoch, verbose)

    def get_lr(self) -> float:
        """Return the rate at `last_epoch`."""
        i = self.last_epoch - self.start + 1
        return self._rate_before() if i < 1 else self._rate_after(i, self._rate_before())

    def step(self, epoch: Optional[int] = None) -> None:
        """Go on by one step, or to `epoch`, with the schedule before as far as it is in force."""
        target = self.last_epoch + 1 if epoch is None else epoch
        if isinstance(self.learning_rate, LRScheduler):
            _go_to(self.learning_rate, min(target, max(0, self.start - 1)))
        super().step(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return how far this schedule is, and the one before: plain numbers."""
        return schedule_state(self)

    def set_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave; arguments stay as they were given here.

        Raises:
            ValueError: the state is of another kind of schedule; nothing is changed then.
        """
        set_schedule_state(self, state_dict)

    # Paddle's alias would go on to the base class.
    set_dict = set_state_dict

    def _rate_before(self) -> float:
        before = self.learning_rate
        return float(before() if isinstance(before, LRScheduler) else before)

    def _rate_after(self, i: int, rate_before: float) -> float:
        """Return the rate of the i-th step, from 1, after the first `start`."""
        raise NotImplementedError


class SWALR(RateAfterStart):
    """Go from a schedule to a constant rate for SWA, at once or by annealing.

    Steps 1 to `start` have the rate before, the next `anneal` go from it to `swa_lr`, all later
    ones have `swa_lr`. Which step has which rate, beside an average: see RateAfterStart.

    Args:
        learning_rate: the rate before, or a schedule.
        swa_lr: the rate to stay at, above 0.
        start: steps with the rate before; or text in another unit, such as "75 %" or
            "3 epochs", with `run`.
        anneal: steps from the one rate to the other, likewise; none or 0 to jump.
        strategy: the annealing is along a cosine (cos) or a line (linear).
        run: how long the run is, for durations in other units than steps.
        last_epoch, verbose: see paddle.optimizer.lr.LRScheduler.

    Raises:
        ArgumentError: an argument out of range.
    Source: torch.optim.swa_utils.SWALR; Izmailov et al., https://arxiv.org/abs/1803.05407.
    """

    def __init__(
        self,
        learning_rate: Union[float, LRScheduler],
        swa_lr: float,
        start: Duration,
        anneal: Optional[Duration] = None,
        strategy: AnnealStrategy = "cos",
        *,
        run: Optional[RunLength] = None,
        last_epoch: int = -1,
        verbose: bool = False,
    ) -> None:
        _require_rate("swa_lr", swa_lr, allows_zero=False)
        if strategy not in ("cos", "linear"):
            raise ArgumentError("strategy", "cos or linear", strategy)
        self.swa_lr, self.strategy = float(swa_lr), strategy
        self.anneal = (
            0 if anneal is None else to_whole_steps("anneal", anneal, run, allows_zero=True)
        )
        super().__init__(learning_rate, start, run, last_epoch, verbose)

    def _rate_after(self, i: int, rate_before: float) -> float:
        return annealed_rate(i, rate_before, self.swa_lr, self.anneal, self.strategy)


class CyclicSWALR(RateAfterStart):
    """Go from a schedule to the cyclic rate of SWA: linear falls from `max_lr` to `min_lr`.

    Steps 1 to `start` have the rate before; after them step i of a cycle has
    ``max_lr + (min_lr - max_lr) * i / cycle``, i from 1, and the next cycle jumps up again. For
    SWA take the end of each cycle, ``StochasticWeightAverage(start=start + cycle, every=cycle)``;
    for fast-SWA several points a cycle. Which step has which rate: see RateAfterStart. Of texts
    that are no whole number of steps each is rounded on its own, and the points may then fall
    beside the ends: say both in steps, or in whole epochs.

    Args:
        learning_rate: the rate before, or a schedule.
        max_lr: the rate that each cycle falls from (alpha_1 in the paper), above 0.
        min_lr: the rate of its last step (alpha_2), from 0 to max_lr.
        start: steps with the rate before; or text in another unit, such as "75 %" or
            "3 epochs", with `run`.
        cycle: steps in a cycle, likewise.
        run: how long the run is, for durations in other units than steps.
        last_epoch, verbose: see paddle.optimizer.lr.LRScheduler.

    Raises:
        ArgumentError: an argument out of range.
    Source: Izmailov et al., https://arxiv.org/abs/1803.05407, section 3.1; fast-SWA:
        Athiwaratkun et al., https://arxiv.org/abs/1806.05594.
    """

    def __init__(
        self,
        learning_rate: Union[float, LRScheduler],
        max_lr: float,
        min_lr: float,
        start: Duration,
        cycle: Duration,
        *,
        run: Optional[RunLength] = None,
        last_epoch: int = -1,
        verbose: bool = False,
    ) -> None:
        _require_rate("max_lr", max_lr, allows_zero=False)
        _require_rate("min_lr", min_lr, allows_zero=True)
        if min_lr > max_lr:
            raise ArgumentError("min_lr", f"max_lr ({max_lr:g}) or less", min_lr)
        self.max_lr, self.min_lr = float(max_lr), float(min_lr)
        self.cycle = to_whole_steps("cycle", cycle, run)
        super().__init__(learning_rate, start, run, last_epoch, verbose)

    def _rate_after(self, i: int, rate_before: float) -> float:
        return cyclic_rate(i, self.max_lr, self.min_lr, self.cycle)


def _require_rate(argument: str, rate: Any, allows_zero: bool) -> None:
    is_number = isinstance(rate, (int, float)) and not isinstance(rate, bool)
    if not (is_number and math.isfinite(rate) and (rate > 0 or (allows_zero and rate == 0))):
        bound = ", 0 or more" if allows_zero else " above 0"
        raise ArgumentError(argument, f"a finite number{bound}", rate)


def _go_to(schedule: LRScheduler, step: int) -> None:
    # One by one, as it would be stepped alone: some schedules take their rate from the last.
    while schedule.last_epoch < step:
        schedule.step()
    if schedule.last_epoch > step:
        schedule.step(step)
