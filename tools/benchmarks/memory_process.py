"""The memory that an average of a model takes, seen from inside a process of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Callable

import paddle
from paddle.base import core

import ppema
from ppema.checkpoint import CheckpointStore
from ppema.engine.run_state import checkpoint_files
from ppema.engine.trainer import Trainer

from .allocated import peak_bytes, polled_peak_bytes
from .paths import by_kernels, load_compiled
from .remote import serve
from .resident import resident_peak_bytes

_HELD: dict[str, Any] = {}


def prepare(model: str) -> dict[str, int]:
    """Make the model, its average and its optimizer's state; return the bytes of the first two."""
    layer = getattr(paddle.vision.models, model)(num_classes=1000)
    optimizer = paddle.optimizer.Momentum(0.1, parameters=layer.parameters())
    # An image so small that activations are nothing beside the weights.
    layer(paddle.zeros([2, 3, 32, 32])).sum().backward()
    optimizer.step()
    optimizer.clear_grad()
    before = core.host_memory_stat_current_value("Allocated", 0)
    average = ppema.ExponentialMovingAverage(layer)
    shadow_bytes = core.host_memory_stat_current_value("Allocated", 0) - before
    loss_fn = paddle.nn.CrossEntropyLoss()
    _HELD["average"] = average
    _HELD["trainer"] = Trainer(layer, loss_fn, optimizer, [], {"ema": average}, num_epochs=1)
    weight_bytes = sum(int(p.size) * p.element_size() for p in layer.parameters())
    return {"weights": weight_bytes, "shadows": int(shadow_bytes)}


def update() -> None:
    """Update by the compiled kernels, where numba is there."""
    with by_kernels(load_compiled()):
        _HELD["average"].update()


def update_plainly() -> None:
    """Update by NumPy."""
    with by_kernels(None):
        _HELD["average"].update()


def swap() -> None:
    """Put the average in and out."""
    with _HELD["average"].average_parameters():
        pass


def save() -> None:
    """Save a checkpoint."""
    trainer = _HELD["trainer"]
    with tempfile.TemporaryDirectory() as folder:
        trainer.step += 1
        path = CheckpointStore(folder, 1).save(trainer.step, checkpoint_files(trainer), {})
        _HELD["largest_file"] = max(file.stat().st_size for file in Path(path).iterdir())


_OPERATIONS: dict[str, Callable[[], None]] = {
    "update": update,
    "update_plainly": update_plainly,
    "swap": swap,
    "save": save,
}


def measure(operation: str) -> dict[str, int]:
    """Return the most bytes, resident and allocated, that an operation holds beside the rest."""
    function = _OPERATIONS[operation]
    function()
    return {
        "resident": resident_peak_bytes(function),
        "allocated": (polled_peak_bytes if function is save else peak_bytes)(function),
        "largest_file": _HELD.get("largest_file", 0),
    }


if __name__ == "__main__":
    serve({"prepare": prepare, "measure": measure})
