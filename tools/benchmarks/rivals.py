"""What Paddle's users have today, written anew: three ways to keep an average."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle


class CopiedAverage:
    """The class that is copied from blog to blog: a dict of NumPy arrays."""

    def __init__(self, model: Any, decay: float = 0.9998, thres_steps: bool = True) -> None:
        self._model, self._decay, self._thres_steps = model, decay, thres_steps
        self._num_updates = 0
        self._shadow: dict[str, Any] = {}
        self._backup: dict[str, Any] = {}

    def register(self) -> None:
        """Start from the model's weights."""
        for name, param in self._trained():
            self._shadow[name] = param.numpy().copy()

    def update(self) -> None:
        """Fold the weights in."""
        decay = self._decay
        if self._thres_steps:
            decay = min(decay, (1 + self._num_updates) / (10 + self._num_updates))
        for name, param in self._trained():
            average = (1.0 - decay) * param.numpy() + decay * self._shadow[name]
            self._shadow[name] = average.copy()
        self._num_updates += 1

    def apply(self) -> None:
        """Copy the average into the model."""
        for name, param in self._trained():
            self._backup[name] = np.array(param.numpy())
            param.set_value(np.array(self._shadow[name]))

    def restore(self) -> None:
        """Copy the raw weights back."""
        for name, param in self._trained():
            param.set_value(self._backup[name])
        self._backup = {}

    def _trained(self) -> list[tuple[str, Any]]:
        return [(n, p) for n, p in self._model.named_parameters() if not p.stop_gradient]


class StateDictAverage:
    """PaddleDetection's arithmetic: ``decay * average + (1 - decay) * weight`` by Paddle's ops."""

    def __init__(self, model: Any, decay: float = 0.9998) -> None:
        self._model, self._decay = model, decay
        self._average = {name: t.detach().clone() for name, t in model.state_dict().items()}

    def update(self) -> None:
        """Fold the model's state in, tensor by tensor."""
        state = self._model.state_dict()
        for name, average in self._average.items():
            moved = self._decay * average + (1 - self._decay) * state[name].astype("float32")
            moved.stop_gradient = True
            self._average[name] = moved


class LerpAverage:
    """Paddle's own interpolation in place, one call a tensor."""

    def __init__(self, model: Any, decay: float = 0.9998) -> None:
        self._weight = 1.0 - decay
        self._pairs = [(p, p.detach().clone()) for p in model.parameters()]

    @paddle.no_grad()  # type: ignore[untyped-decorator]
    def update(self) -> None:
        """Fold the weights in."""
        for param, average in self._pairs:
            average.lerp_(param, self._weight)
