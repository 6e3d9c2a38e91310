"""What `paddle.distributed.launch` tells each process that it starts, before Paddle is there."""

from __future__ import annotations

import os


def launched_rank() -> int:
    """Return the number of this process among those of the run, from 0."""
    # What is left of another run in the environment must not make one alone a second one.
    return _number("PADDLE_TRAINER_ID") if num_launched() > 1 else 0


def num_launched() -> int:
    """Return how many processes the run has; 1 without a launcher."""
    return max(1, _number("PADDLE_TRAINERS_NUM"))


def is_launched() -> bool:
    """Tell whether a launcher started this process, if only this one: it has its own signals."""
    return _number("PADDLE_TRAINERS_NUM") > 0


def is_first_on_machine() -> bool:
    """Tell whether this is the process of its machine that downloads what all of them read."""
    return _number("PADDLE_LOCAL_RANK") == 0


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else 0
