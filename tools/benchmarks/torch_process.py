"""Torch's averages and its LeNet step, in a process of their own; run by torch's Python.

It imports torch and the standard library: the other packages may not be there.
"""

from __future__ import annotations

import math
import time
from typing import Any, Callable, Sequence

from .remote import serve

_MAX_REPEATS = 10_000
_PIECES: dict[str, Callable[[], Any]] = {}


def version() -> str:
    """Return torch's version."""
    import torch  # type: ignore[import-not-found]

    return str(torch.__version__)


def prepare_averages(shapes: Sequence[Sequence[int]], decay: float) -> None:
    """Make a model of these tensors, and the pieces `foreach` and `averaged_model`."""
    import torch  # type: ignore[import-not-found]
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn  # type: ignore[import-not-found]

    tensors = [torch.nn.Parameter(torch.randn(*shape)) for shape in shapes]
    model = torch.nn.ParameterList(tensors)
    averages = [tensor.detach().clone() for tensor in tensors]
    lives = [tensor.detach() for tensor in tensors]
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    _PIECES["foreach"] = lambda: torch._foreach_lerp_(averages, lives, 1.0 - decay)
    _PIECES["averaged_model"] = lambda: averaged.update_parameters(model)


def prepare_step(batch_size: int) -> None:
    """Make Paddle's LeNet in torch, and the piece `step`: one training step with Adam."""
    import torch  # type: ignore[import-not-found]
    from torch import nn  # type: ignore[import-not-found]

    model = nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2, 2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)),
    )
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    image = torch.randn(batch_size, 1, 28, 28)
    label = torch.randint(0, 10, (batch_size,))
    loss_fn = nn.CrossEntropyLoss()

    def step() -> None:
        loss_fn(model(image), label).backward()
        optimizer.step()
        optimizer.zero_grad()

    _PIECES["step"] = step


def measure(piece: str, threads: int, least_s: float) -> float:
    """Return the seconds that a piece takes on so many threads."""
    import torch  # type: ignore[import-not-found]

    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    function = _PIECES[piece]
    for _ in range(2):
        started = time.perf_counter()
        function()
        elapsed = time.perf_counter() - started
    repeats = max(1, min(_MAX_REPEATS, math.ceil(least_s / elapsed)))
    started = time.perf_counter()
    for _ in range(repeats):
        function()
    seconds = (time.perf_counter() - started) / repeats
    # OpenMP's threads spin for some milliseconds after their work; that must not meet the next.
    time.sleep(0.02)
    return seconds


if __name__ == "__main__":
    serve(
        {
            "version": version,
            "prepare_averages": prepare_averages,
            "prepare_step": prepare_step,
            "measure": measure,
        }
    )
