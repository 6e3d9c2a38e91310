"""The networks that a config may name."""

from __future__ import annotations

from typing import Any, Callable

import paddle
from paddle import nn
from paddle.vision.models import LeNet


class LeNetBN(nn.Layer):
    """LeNet with BatchNorm after each convolution and ReLU between the linear layers.

    Takes images [N, 1, 28, 28], gives logits [N, num_classes].
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            # The BatchNorm that follows has a bias of its own.
            nn.Conv2D(1, 6, 3, padding=1, bias_attr=False),
            nn.BatchNorm2D(6),
            nn.ReLU(),
            nn.MaxPool2D(2, 2),
            nn.Conv2D(6, 16, 5, bias_attr=False),
            nn.BatchNorm2D(16),
            nn.ReLU(),
            nn.MaxPool2D(2, 2),
        )
        self.fc = nn.Sequential(
            nn.Linear(400, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, num_classes),
        )

    def forward(self, image: Any) -> Any:
        """Return the logits of a batch of images."""
        return self.fc(paddle.flatten(self.features(image), 1))


MODELS: dict[str, Callable[..., Any]] = {"LeNet": LeNet, "LeNetBN": LeNetBN}
