"""Slow float64 NumPy twins of the averages: plain lines, stepped beside the real."""

from __future__ import annotations

import math

import numpy as np


def float64_state(model):
    """Return the model's state as float64 arrays (other dtypes as they are), by name."""
    state = {}
    for name, tensor in model.state_dict().items():
        array = tensor.detach().astype("float64" if tensor.is_floating_point() else tensor.dtype)
        state[name] = array.numpy().copy()
    return state


class Twin:
    """What averages have in common: BN statistics and what trains are averaged, all else copied."""

    def __init__(self, model, buffers="average"):
        self.model, self.buffers = model, buffers
        self.shadow = float64_state(model)
        self.t = 0

    def average(self, name, now):
        raise NotImplementedError

    def update(self):
        now = float64_state(self.model)
        for name, tensor in self.model.state_dict().items():
            is_statistic = name.rsplit(".", 1)[-1] in ("_mean", "_variance")
            is_averaged = self.buffers == "average" if is_statistic else not tensor.stop_gradient
            if is_averaged and tensor.is_floating_point():
                self.shadow[name] = self.average(name, now[name])
            else:
                self.shadow[name] = now[name]
        self.t += 1


class EmaTwin(Twin):
    """The definition: shadow = d * shadow + (1 - d) * weight."""

    def __init__(self, model, decay, schedule, buffers="average", tau=2000, gamma=1.0, power=2 / 3):
        super().__init__(model, buffers)
        self.formula = {
            "constant": lambda t: decay,
            "threshold": lambda t: min(decay, (1 + t) / (10 + t)),
            "exponential": lambda t: decay * (1 - math.exp(-(t + 1) / tau)),
            "power": lambda t: min(decay, 1 - (1 + t / gamma) ** -power),
        }[schedule]

    def average(self, name, now):
        d = self.formula(self.t)
        return d * self.shadow[name] + (1 - d) * now

    def update(self):
        d = self.formula(self.t)
        super().update()
        return d


class WeightedTwin(Twin):
    """Any average of the weights seen, by its weights: `shares(t)` for weights 0 to t."""

    def __init__(self, model, shares):
        super().__init__(model)
        self.shares = shares
        self.seen = {name: [] for name in self.shadow}

    def average(self, name, now):
        self.seen[name].append(now)
        shares = np.asarray(self.shares(self.t), dtype="float64")
        return np.tensordot(shares / shares.sum(), np.stack(self.seen[name]), axes=1)


def assert_close_to_twin(averaged, twin_shadow, tolerance):
    """Compare every tensor, relative to its largest magnitude; integers exactly."""
    assert list(averaged) == list(twin_shadow)
    for name, expected in twin_shadow.items():
        found = averaged[name].numpy()
        assert list(found.shape) == list(expected.shape), name
        if not np.issubdtype(found.dtype, np.floating):
            np.testing.assert_array_equal(found, expected, name)
        elif expected.size:
            error = np.abs(found.astype("float64") - expected).max()
            assert error <= tolerance * np.abs(expected).max(), (name, error)
