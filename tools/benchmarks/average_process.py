"""An average in each of several processes: whole, or spread over them; asked for piece by piece."""

from __future__ import annotations

import time
from typing import Any, Callable

import paddle
from paddle.base import core

import ppema
from ppema import builder
from ppema.averaging import ranks
from ppema.averaging.batch_norm import batch_norm_statistics

from .paths import by_kernels, load_compiled
from .remote import serve

_HELD: dict[str, Any] = {}


def prepare(model: str) -> dict[str, int]:
    """Make the model and both averages; return their bytes here."""
    paddle.seed(0)
    layer = getattr(paddle.vision.models, model)()
    whole, whole_bytes = _held_by(lambda: ppema.ExponentialMovingAverage(layer))
    spread, spread_bytes = _held_by(
        lambda: ppema.ShardedAverage(ppema.ExponentialMovingAverage(layer))
    )
    # As in a trainer, which has looked at the weights already.
    whole.checks_finite = spread.local.checks_finite = False
    _HELD.update(whole=whole, spread=spread)
    statistics = batch_norm_statistics(layer)
    sizes = {id(p): int(p.size) * p.element_size() for p in layer.parameters()}
    return {
        "weights": sum(sizes.values()),
        "statistics": sum(sizes[key] for key in statistics),
        "whole": whole_bytes,
        "spread": spread_bytes,
    }


def _held_by(make: Callable[[], Any]) -> tuple[Any, int]:
    before = core.host_memory_stat_current_value("Allocated", 0)
    made = make()
    return made, int(core.host_memory_stat_current_value("Allocated", 0) - before)


_PIECES: dict[str, Callable[[], Any]] = {
    "whole": lambda: _HELD["whole"].update(),
    "spread": lambda: _HELD["spread"].update(),
    "statistics": lambda: _HELD["whole"].all_reduce_statistics(),
    "gather": lambda: _HELD["spread"].averaged_state_dict(everywhere=False),
}


def measure(piece: str, repeats: int, together: bool = True) -> float:
    """Return the seconds that one of so many calls takes; `together`, all ranks begin at once."""
    function = _PIECES[piece]
    with by_kernels(load_compiled()):
        function()
        if together:
            ranks.barrier()
        started = time.perf_counter()
        for _ in range(repeats):
            function()
        return (time.perf_counter() - started) / repeats


if __name__ == "__main__":
    paddle.set_device("cpu")
    with builder.joined("cpu"):
        serve({"prepare": prepare, "measure": measure})
