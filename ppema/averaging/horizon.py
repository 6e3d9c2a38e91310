"""How long a window is, in the unit that the user thinks in: steps, images, epochs or percent."""

from __future__ import annotations

import math
import re
from typing import NamedTuple, Optional, Union

from .decay import ArgumentError

# A number of steps, or text such as "5 %", "2 epochs", "64000 images", "500 steps".
Duration = Union[int, float, str]

_TEXT = re.compile(r"\s*([0-9.eE+-]+)\s*(steps?|images?|epochs?|%|percent)\s*")


class RunLength(NamedTuple):
    """How long a run is and what a step of it is; a step is one call of `update`."""

    num_steps: int
    steps_per_epoch: int
    images_per_step: int


def to_steps(
    argument: str, duration: Duration, run: Optional[RunLength], allows_zero: bool = False
) -> float:
    """Return a duration in steps; a bare number is one already.

    Counted in images, epochs or percent, a window stays as long when the batch size changes:
    a batch κ times as large gives ``decay ** κ`` (https://arxiv.org/abs/2307.13813).

    Raises:
        ArgumentError: text that is no duration, below 0 or (unless allowed) 0, or in a unit
            that needs `run`.
    """
    if not isinstance(duration, str):
        steps = float(duration)
    else:
        match = _TEXT.fullmatch(duration)
        number = _number(match[1]) if match else math.nan
        if match is None or math.isnan(number):
            raise ArgumentError(
                argument, "a number of steps, or such as 5 %, 2 epochs, 64000 images", duration
            )
        steps = number * _steps_in_one(argument, match[2][0], duration, run)
    if not (0.0 < steps < math.inf or (allows_zero and steps == 0.0)):
        raise ArgumentError(argument, f"a finite duration{_bound(allows_zero)}", duration)
    return steps


def to_whole_steps(
    argument: str, duration: Duration, run: Optional[RunLength], allows_zero: bool = False
) -> int:
    """Return a duration in whole steps, at least one unless 0 is allowed.

    Raises:
        ArgumentError: as for `to_steps`, or a bare number that is not whole.
    """
    steps = to_steps(argument, duration, run, allows_zero)
    if isinstance(duration, bool) or (not isinstance(duration, str) and steps != int(steps)):
        raise ArgumentError(argument, f"a whole number{_bound(allows_zero)}", duration)
    return max(1, round(steps)) if steps else 0


def _bound(allows_zero: bool) -> str:
    return ", 0 or more" if allows_zero else " above 0"


def _steps_in_one(argument: str, unit: str, duration: str, run: Optional[RunLength]) -> float:
    if unit == "s":
        return 1.0
    if run is None:
        raise ArgumentError(argument, "in steps where no run (RunLength) is given", duration)
    return {
        "i": 1.0 / run.images_per_step,
        "e": float(run.steps_per_epoch),
        "%": run.num_steps / 100.0,
        "p": run.num_steps / 100.0,
    }[unit]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
