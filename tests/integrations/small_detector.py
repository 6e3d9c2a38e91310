"""A network with what a detector has (BatchNorm, a frozen stem, an integer buffer) and its data."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn


class Detector(nn.Layer):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        for parameter in self.stem.parameters():
            parameter.stop_gradient = True
        self.neck = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1D(8)
        self.head = nn.Linear(8, 3)
        self.register_buffer("num_images", paddle.zeros([], "int64"))

    def forward(self, x):
        if self.training:
            self.num_images += x.shape[0]
        return self.head(self.norm(self.neck(self.stem(x))))


def detector(seed=1):
    paddle.seed(seed)
    return Detector()


def as_in_a_new_process():
    """Return a context in which Paddle's automatic names, which optimizers save by, start anew."""
    return paddle.utils.unique_name.guard()


def batches(number=5):
    random = np.random.RandomState(3)
    return [
        (
            paddle.to_tensor(random.randn(8, 6).astype("float32")),
            paddle.to_tensor(random.randint(0, 3, 8)),
        )
        for _ in range(number)
    ]


def arrays(state):
    return {name: tensor.numpy() for name, tensor in state.items()}


def assert_equal_bits(found, wanted):
    assert list(found) == list(wanted)
    for name in wanted:
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(wanted[name]), name)


def assert_close(found, wanted, tolerance):
    assert set(found) == set(wanted)
    for name in wanted:
        most = tolerance * max(1e-30, np.abs(wanted[name]).max())
        np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=most, err_msg=name)
