"""The loops that Paddle's users write: LeNet on MNIST with the copied average."""

from __future__ import annotations

from typing import Any, Callable

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle.vision.transforms import Normalize

from .data import Archives

BATCH_SIZE = 64
_PRINT_EVERY = 5


def make_dataset(archives: Archives, mode: str) -> Any:
    """Return Paddle's own MNIST, with a transform for each sample."""
    images, labels = archives.paths(mode)
    transform = Normalize(mean=[127.5], std=[127.5], data_format="CHW")
    return paddle.vision.datasets.MNIST(images, labels, mode, transform, download=False)


def make_loader(dataset: Any, shuffle: bool) -> Any:
    """Return Paddle's own loader, without workers."""
    return paddle.io.DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=shuffle)


def train_epoch(
    loader: Any, model: Any, optimizer: Any, average: Any, after_step: Callable[[], None]
) -> None:
    """Train for an epoch; loss and accuracy are printed every few steps."""
    model.train()
    for batch_id, (image, label) in enumerate(loader()):
        predicts = model(image)
        loss = F.cross_entropy(predicts, label)
        accuracy = paddle.metric.accuracy(predicts, label, k=2)
        loss.backward()
        if batch_id % _PRINT_EVERY == 0:
            print(f"batch {batch_id}, loss {loss.numpy()}, accuracy {accuracy.numpy()}")
        optimizer.step()
        average.update()
        optimizer.clear_grad()
        after_step()


def evaluate(loader: Any, model: Any) -> float:
    """Return the accuracy; as it is written, with the gradients left on."""
    model.eval()
    accuracies, losses = [], []
    for image, label in loader():
        predicts = model(image)
        losses.append(F.cross_entropy(predicts, label).numpy())
        accuracies.append(paddle.metric.accuracy(predicts, label).numpy())
    print(f"loss {np.mean(losses)}, accuracy {np.mean(accuracies)}")
    return float(np.mean(accuracies))
