"""Learning-rate schedules that a config may name: Paddle's, in the run's units, and ppema's."""

from __future__ import annotations

import inspect
from typing import Any, Callable, Iterator, List, Mapping, Optional, Sequence, Union

import paddle
from paddle.optimizer import lr
from paddle.optimizer.lr import LRScheduler

from .averaging import SWALR, ArgumentError, CyclicSWALR, RunLength, to_whole_steps
from .averaging.horizon import Duration
from .signatures import Signed, keyword, plain_annotation

RATE = "learning_rate"
# What Paddle counts in calls of `step`, one a training step.
_DURATIONS = frozenset(
    {
        *("T_0", "T_max", "decay_steps", "step_size", "step_size_down", "step_size_up"),
        *("total_steps", "warmup_steps"),
    }
)
_LISTS_OF_DURATIONS = frozenset({"boundaries", "milestones"})
# The rate that others call `learning_rate`: what a config calls base_lr.
_NAMES_OF_RATE = {"CyclicLR": "base_learning_rate", "OneCycleLR": "max_learning_rate"}
# Functions, which a config cannot hold, and what is said of them.
_FUNCTIONS = frozenset({"lr_lambda", "scale_fn", "scale_mode"})
_TAKES_FUNCTION = (
    "takes a function, which a config cannot hold: derive a class from "
    "paddle.optimizer.lr.LRScheduler and name it by its import path"
)

SCHEDULER_HINTS = {
    "LRScheduler": "is the base of all others; name one of them, such as StepDecay",
    "LambdaDecay": _TAKES_FUNCTION,
    "MultiplicativeDecay": _TAKES_FUNCTION,
    "CosineDecay": "is CosineAnnealingDecay here: {name: CosineAnnealingDecay, T_max: 100 %}",
    "ExpWarmup": "is not here; LinearWarmup is: {name: LinearWarmup, warmup_steps: 100, "
    "start_factor: 0.001}",
    "max_epochs": "is T_max here, in steps, epochs or percent: T_max: 12 epochs",
    "min_lr_ratio": "is eta_min here, a rate and not a share of one: eta_min: 0.00001",
    "steps": "is warmup_steps here, in steps, epochs or percent: warmup_steps: 1 epoch",
    "epochs": "is warmup_steps here, in steps, epochs or percent: warmup_steps: 1 epoch",
    "max_learning_rate": "is LearningRate.base_lr here; leave it out",
    "base_learning_rate": "is LearningRate.base_lr here; leave it out",
}


class PaddleSchedule(Signed):
    """Make a schedule of paddle.optimizer.lr, durations in the units of a run.

    The rate is `learning_rate` in all of them. A schedule takes another one as its rate where
    Paddle's class does.
    """

    def __init__(self, cls: type) -> None:
        self._cls = cls
        super().__init__(self._parameters())

    def __call__(self, **arguments: Any) -> Any:
        """Return the schedule.

        Raises:
            ArgumentError: no duration, or rates that are not those of Paddle's class.
        """
        arguments = self.bind(arguments)
        run: Optional[RunLength] = arguments.pop("run", None)
        for name, value in arguments.items():
            if name in _DURATIONS and value is not None:
                arguments[name] = to_whole_steps(name, value, run)
            elif name in _LISTS_OF_DURATIONS:
                arguments[name] = [to_whole_steps(name, item, run) for item in value]
        rate = arguments.pop(RATE)
        _check(rate, arguments)
        name_of_rate = _NAMES_OF_RATE.get(self._cls.__name__, RATE)
        if name_of_rate in inspect.signature(self._cls).parameters:
            arguments[name_of_rate] = rate
        return self._cls(**arguments)

    def _parameters(self) -> Iterator[inspect.Parameter]:
        own = inspect.signature(self._cls).parameters
        name_of_rate = _NAMES_OF_RATE.get(self._cls.__name__, RATE)
        # Paddle's annotation stays, as `takes_schedule` goes by it.
        annotation = own[RATE].annotation if RATE in own else float
        takes_other = "LRScheduler" in str(annotation)
        yield keyword(RATE, Union[float, LRScheduler] if takes_other else float)
        for name, parameter in own.items():
            if name in (RATE, name_of_rate) or name in _FUNCTIONS:
                continue
            wanted = plain_annotation(parameter)
            if name in _DURATIONS:
                is_optional = parameter.default is None
                wanted = Optional[Duration] if is_optional else Duration
            elif name in _LISTS_OF_DURATIONS:
                wanted = List[Duration]
            elif name == "values":
                wanted = List[float]
            yield keyword(name, wanted, parameter.default)
        yield keyword("run", Optional[RunLength], None)


class LinearWarmup(PaddleSchedule):
    """Make Paddle's LinearWarmup; without `end_lr` it ends at the rate that goes on from there.

    `start_factor` says the first rate as a share of `end_lr`, in place of `start_lr`.
    """

    def __init__(self) -> None:
        super().__init__(lr.LinearWarmup)

    def __call__(self, **arguments: Any) -> Any:
        """Return the schedule.

        Raises:
            ArgumentError: no duration, or start_lr beside start_factor.
        """
        arguments = self.bind(arguments)
        start, factor = arguments.pop("start_lr", None), arguments.pop("start_factor", None)
        if factor is not None and start is not None:
            raise ArgumentError("start_factor", "left out where start_lr is given", factor)
        rate, end = arguments[RATE], arguments.pop("end_lr", None)
        if end is None:
            end = float(rate() if isinstance(rate, LRScheduler) else rate)
        if start is None:
            start = end * (0.0 if factor is None else factor)
        if not 0.0 <= start < end:
            name = "start_lr" if factor is None else "start_factor"
            limit = f"from 0 to below end_lr ({end:g})" if factor is None else "in [0, 1)"
            raise ArgumentError(name, limit, start if factor is None else factor)
        return super().__call__(**arguments, start_lr=start, end_lr=end)

    def _parameters(self) -> Iterator[inspect.Parameter]:
        for parameter in super()._parameters():
            is_rate = parameter.name in ("start_lr", "end_lr")
            yield keyword(parameter.name, Optional[float], None) if is_rate else parameter
        yield keyword("start_factor", Optional[float], None)


class ReduceOnPlateau(lr.ReduceOnPlateau):  # type: ignore[misc]
    """Lower the rate once the mean training loss has not fallen for some time.

    The trainer tells the loss of each step to `observe`, for which it waits for the device, and
    calls `step` as for any schedule. The loss is looked at every `every` steps, and `patience`
    and `cooldown` count those looks.

    Args:
        learning_rate: the first rate.
        every: steps between looks; or text such as "1 epoch", with `run`.
        factor, patience, threshold, threshold_mode, cooldown, min_lr, epsilon: see
            paddle.optimizer.lr.ReduceOnPlateau, whose `mode` is min here, as a loss should fall.
        run: how long the run is, for durations in other units than steps.
        verbose: see paddle.optimizer.lr.LRScheduler.

    Raises:
        ArgumentError: no duration.
    """

    # What the trainer asks for.
    takes_loss = True

    def __init__(
        self,
        learning_rate: float,
        every: Duration = "1 epoch",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        epsilon: float = 1e-8,
        *,
        run: Optional[RunLength] = None,
        verbose: bool = False,
    ) -> None:
        self.every = to_whole_steps("every", every, run)
        self._sum_of_losses, self._num_losses, self._num_steps = 0.0, 0, 0
        super().__init__(
            learning_rate,
            "min",
            factor,
            patience,
            threshold,
            threshold_mode,
            cooldown,
            min_lr,
            epsilon,
            verbose,
        )

    def observe(self, loss: float) -> None:
        """Take the loss of a step that moved the weights."""
        self._sum_of_losses += float(loss)
        self._num_losses += 1

    def step(self, metrics: Optional[float] = None, epoch: Optional[int] = None) -> None:
        """Go on by one step; a loss given here is looked at at once, as in Paddle's class."""
        if metrics is not None:
            super().step(metrics, epoch)
            return
        self._num_steps += 1
        if self._num_steps % self.every == 0 and self._num_losses:
            mean = self._sum_of_losses / self._num_losses
            self._sum_of_losses, self._num_losses = 0.0, 0
            super().step(mean)


def require_whole_run(schedule: Any, num_steps: int) -> None:
    """Raise ArgumentError where Paddle's OneCycleLR, which raises after its end, would end a run.

    Args:
        schedule: of the run, others in it.
        num_steps: of the run.
    """
    while isinstance(schedule, LRScheduler):
        if isinstance(schedule, lr.OneCycleLR) and schedule.total_steps < num_steps:
            raise ArgumentError(
                "total_steps",
                f"the {num_steps:,} steps of the run or more (100 %)",
                schedule.total_steps,
            )
        schedule = getattr(schedule, RATE, None)


def _check(rate: Any, arguments: Mapping[str, Any]) -> None:
    if isinstance(rate, lr.ReduceOnPlateau):
        raise ArgumentError(RATE, "a rate, or a schedule of steps alone", type(rate))
    values = arguments.get("values")
    if values is not None:
        _require_pieces(values, arguments["boundaries"], rate)


def _require_pieces(values: Sequence[float], boundaries: Sequence[int], rate: float) -> None:
    """Raise ArgumentError where Paddle's PiecewiseDecay would mean nothing, or end a run."""
    if len(values) != len(boundaries) + 1:
        raise ArgumentError(
            "values", f"{len(boundaries) + 1} rates, one more than boundaries", values
        )
    if values[0] != rate:
        raise ArgumentError("values", f"rates of which the first is base_lr ({rate:g})", values)


def _discover() -> dict[str, Callable[..., Any]]:
    own: dict[str, Callable[..., Any]] = {
        "LinearWarmup": LinearWarmup(),
        "ReduceOnPlateau": ReduceOnPlateau,
    }
    return {
        name: own[name] if name in own else PaddleSchedule(getattr(paddle.optimizer.lr, name))
        for name in paddle.optimizer.lr.__all__
        if name not in SCHEDULER_HINTS
    }


SCHEDULERS: Mapping[str, Callable[..., Any]] = {
    **_discover(),
    "CyclicSWALR": CyclicSWALR,
    "SWALR": SWALR,
}


def takes_schedule(cls: Callable[..., Any]) -> bool:
    """Return whether a schedule takes another one as its `learning_rate`, by its annotation."""
    parameter = inspect.signature(cls).parameters.get(RATE)
    # As text, since Python 3.9 cannot evaluate the `float | LRScheduler` of Paddle's LinearWarmup.
    return parameter is not None and "LRScheduler" in str(parameter.annotation)
