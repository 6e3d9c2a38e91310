"""Force an update to take one path or the other."""

from __future__ import annotations

from ppema.averaging import kernels


def use_numba(monkeypatch):
    from ppema.averaging import compiled

    monkeypatch.setattr(kernels._State, "is_decided", True)
    monkeypatch.setattr(kernels._State, "kernels", compiled)


def use_numpy(monkeypatch):
    monkeypatch.setattr(kernels._State, "is_decided", True)
    monkeypatch.setattr(kernels._State, "kernels", None)


def bits(average):
    shadow = average.state_dict()["shadow"]
    return {name: tensor.numpy().tobytes() for name, tensor in shadow.items()}
