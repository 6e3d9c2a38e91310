"""Slow float64 NumPy twins of the averages: plain lines, stepped beside the real.

The functions keep nothing: they give the average of all the weights that a run has seen, a row
each, the initial ones first.
"""

from __future__ import annotations

import math

import numpy as np
import paddle


def float64_state(model):
    """Return the model's state as float64 arrays (other dtypes as they are), by name."""
    state = {}
    for name, tensor in model.state_dict().items():
        array = tensor.detach().astype("float64" if tensor.is_floating_point() else tensor.dtype)
        state[name] = array.numpy().copy()
    return state


def copied_state(average):
    """Return an average's state as it is at this moment: its tensors would move on."""

    def copied(value):
        if isinstance(value, dict):
            return {key: copied(item) for key, item in value.items()}
        if isinstance(value, list):
            return [copied(item) for item in value]
        return value.clone() if paddle.is_tensor(value) else value

    return copied(average.state_dict())


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


def ema(decay_at, every=1):
    """shadow = d * shadow + (1 - d) * weight; at each k-th, d is the product of k decays."""

    def twin(weights):
        shadow, kept = weights[0], 1.0
        for t, weight in enumerate(weights[1:]):
            kept *= decay_at(t)
            if (t + 1) % every == 0:
                shadow, kept = kept * shadow + (1 - kept) * weight, 1.0
        return shadow

    return twin


def debiased(decay_at, every=1):
    """The same from zero, divided by 1 minus the product of all decays, as Adam's moments are."""

    def twin(weights):
        zeros = np.zeros_like(weights[:1])
        steps = (len(weights) - 1) // every * every
        product = math.prod(decay_at(t) for t in range(steps))
        if product == 1.0:
            return weights[0]
        return ema(decay_at, every)(np.concatenate([zeros, weights[1:]])) / (1 - product)

    return twin


def mean_from(start, every=1):
    """SWA: the mean of the weights after the steps start, start + every, …"""

    def twin(weights):
        return weights[start::every].mean(axis=0) if len(weights) > start else weights[-1]

    return twin


def mean_of_latest(k, every):
    """LAWA: the mean of the last k of the weights after the steps every, 2 * every, …"""

    def twin(weights):
        return weights[every::every][-k:].mean(axis=0) if len(weights) > every else weights[-1]

    return twin


def gamma_of(sigma_rel):
    """Invert EDM2's sigma_rel = sqrt(gamma + 1) / ((gamma + 2) * sqrt(gamma + 3)) by bisection."""
    low, high = 0.0, 1e6
    for _ in range(200):
        gamma = (low + high) / 2
        is_wide = math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3)) > sigma_rel
        low, high = (gamma, high) if is_wide else (low, gamma)
    return gamma


def power_function(sigma_rel, every=1):
    """EDM2: the integral of the profile t**gamma over the steps that a weight stands for."""

    def twin(weights):
        seen = weights[every::every]
        if not len(seen):
            return weights[0]
        edges = np.arange(len(seen) + 1.0) ** (gamma_of(sigma_rel) + 1)
        return np.tensordot(np.diff(edges) / edges[-1], seen, axes=1)

    return twin


def linear(weights):
    """Weight t counts t times."""
    shares = np.arange(1.0, len(weights))
    return np.tensordot(shares / shares.sum(), weights[1:], axes=1)


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
