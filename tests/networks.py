"""The networks that the averages are tested on, small but with every oddity."""

from __future__ import annotations

import paddle
from paddle import nn


class TinyBN(nn.Layer):
    """A convolution with BatchNorm: statistics that Paddle lists as parameters."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(1, 4, 3)
        self.bn = nn.BatchNorm2D(4)
        self.fc = nn.Linear(4 * 26 * 26, 10)

    def forward(self, x):
        return self.fc(paddle.flatten(nn.functional.relu(self.bn(self.conv(x))), 1))


class Oddities(nn.Layer):
    """Tied and frozen weights, an integer and a float buffer, a scalar and an empty parameter."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(784, 16)
        self.bn = nn.BatchNorm1D(16)
        self.tied = nn.Linear(16, 16)
        self.tied_again = nn.Linear(16, 16)
        self.tied_again.weight = self.tied.weight
        self.frozen = nn.Linear(16, 16)
        for parameter in self.frozen.parameters():
            parameter.stop_gradient = True
        self.scale = self.create_parameter([], default_initializer=nn.initializer.Constant(1.5))
        self.empty = self.create_parameter([0, 3])
        self.register_buffer("num_batches", paddle.zeros([], "int64"))
        self.register_buffer("running_scale", paddle.ones([2]))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        if self.training:
            self.num_batches += 1
            self.running_scale *= 1.01
        x = self.bn(self.first(paddle.flatten(x, 1)))
        x = self.tied_again(nn.functional.relu(self.tied(x)))
        return self.head(self.frozen(x) * self.scale + self.empty.sum())
