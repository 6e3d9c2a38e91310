"""What the ranks of a run have in common: the weights they save, and where a signal ends them."""

from __future__ import annotations

import hashlib
import time
from typing import Any, Mapping

from ..averaging import ranks
from ..errors import PpemaError
from .trainer import Trainer

# How long a signal to one rank may wait until the others are told, about.
_PATIENCE_S = 0.2
# So many steps may pass, since those to come may take longer than those that were measured.
_MOST_CALLS = 16


class RanksDifferError(PpemaError):
    """The processes of a run do not hold the same weights."""


class SignalAgreement:
    """Ask the other ranks now and then whether one of them was sent a signal.

    Called equally often by all. Asking takes as long as a step of a small network does, so it is
    done every few calls, about five times a second.
    """

    def __init__(self) -> None:
        self._calls = self._calls_left = 1
        self._asked_at = time.perf_counter()

    def __call__(self, number: int) -> int:
        """Return the signal that some rank was sent, told that of this one; 0 for none."""
        self._calls_left -= 1
        if self._calls_left > 0:
            return 0
        elapsed = time.perf_counter() - self._asked_at
        # The longest time of all, so that all wait for the same number of calls.
        received, elapsed = ranks.largest_of([number, elapsed])
        per_call = elapsed / self._calls
        self._calls = self._calls_left = max(1, min(_MOST_CALLS, int(_PATIENCE_S / per_call)))
        self._asked_at = time.perf_counter()
        return int(received)


def require_same_weights(trainer: Trainer) -> None:
    """Compare digests of all weights and averages over the ranks; all call it, before a save.

    Raises:
        RanksDifferError: on all ranks; it names the first that differs.
    """
    if ranks.num_ranks() == 1:
        return
    digests = ranks.gather(_digests(trainer))
    for rank, others in enumerate(digests):
        differing = [name for name, digest in digests[0].items() if others[name] != digest]
        if differing:
            raise RanksDifferError(
                f"step {trainer.step}: process {rank} does not hold the weights of process 0 "
                f"({differing[0]}, {len(differing)} of {len(digests[0])}); this step is not "
                "saved, the checkpoint before it stands"
            )


def _digests(trainer: Trainer) -> dict[str, str]:
    states: dict[str, Mapping[str, Any]] = {"raw": trainer.model.state_dict()}
    for name, average in trainer.averages.items():
        for key, value in average.state_dict().items():
            if isinstance(value, Mapping):
                states[name] = value
            # The latest snapshots, of an average that keeps some.
            elif isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
                states.update({f"{name} {key} {i}": item for i, item in enumerate(value)})
    return {
        f"{of}: {name}": hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        for of, state in states.items()
        for name, tensor in state.items()
    }
