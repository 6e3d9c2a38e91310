"""How far a learning-rate schedule is, and the schedule inside it, so that both go on exactly."""

from __future__ import annotations

import copy
import inspect
from typing import Any, Mapping

import numpy as np
from paddle.optimizer.lr import LRScheduler


def schedule_state(schedule: Any) -> dict[str, Any]:
    """Return what moves in a paddle.optimizer.lr.LRScheduler: numbers, text, lists of them.

    A schedule that it holds, as LinearWarmup does, stands in it as a dict of its own. Arguments
    are left out. Paddle's own state_dict lacks fields that some schedules need (T_cur, say).
    """
    arguments = _arguments(schedule)
    state: dict[str, Any] = {}
    for name, value in vars(schedule).items():
        if isinstance(value, LRScheduler):
            state[name] = schedule_state(value)
        elif name not in arguments and _is_plain(value):
            state[name] = copy.deepcopy(value)
    return state


def set_schedule_state(schedule: Any, state: Mapping[str, Any]) -> None:
    """Put back how far a schedule is; its arguments stay its own, also where they changed.

    Raises:
        ValueError: the state is of another kind of schedule; nothing is changed then.
    """
    _require_fit(schedule, state, type(schedule).__name__)
    _put_back(schedule, state)


def _put_back(schedule: Any, state: Mapping[str, Any]) -> None:
    arguments = _arguments(schedule)
    for name, value in state.items():
        held = vars(schedule).get(name)
        if isinstance(held, LRScheduler):
            _put_back(held, value)
        elif name not in arguments:
            setattr(schedule, name, copy.deepcopy(value))


def _require_fit(schedule: Any, state: Mapping[str, Any], path: str) -> None:
    held = {name: value for name, value in vars(schedule).items() if isinstance(value, LRScheduler)}
    missing = [name for name in ("last_epoch", "last_lr", *held) if name not in state]
    if missing:
        raise ValueError(f"the state of {path} lacks {', '.join(missing)}")
    for name, value in held.items():
        if not isinstance(state[name], Mapping):
            raise ValueError(f"the state of {path}.{name} is not that of a schedule")
        _require_fit(value, state[name], f"{path}.{name}")


def _arguments(schedule: Any) -> set[str]:
    # `_var_name` is an automatic name, which depends on what else this process has built.
    return {"base_lr", "_var_name", *inspect.signature(type(schedule)).parameters} - {"last_epoch"}


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str, np.generic))
