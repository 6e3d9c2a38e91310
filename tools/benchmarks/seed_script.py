"""The whole script that Paddle's users run: an epoch of LeNet, then its evaluation."""

from __future__ import annotations

import sys
from pathlib import Path

import paddle

from .data import Archives
from .rivals import CopiedAverage
from .seed import evaluate, make_dataset, make_loader, train_epoch


def main(folder: str, weights: str) -> None:
    """Train, evaluate the average, save it."""
    archives = Archives(Path(folder), "")
    train_loader = make_loader(make_dataset(archives, "train"), shuffle=True)
    test_loader = make_loader(make_dataset(archives, "test"), shuffle=False)
    model = paddle.vision.models.LeNet()
    optimizer = paddle.optimizer.Adam(1e-3, parameters=model.parameters())
    average = CopiedAverage(model)
    average.register()
    train_epoch(train_loader, model, optimizer, average, lambda: None)
    average.apply()
    evaluate(test_loader, model)
    paddle.save(model.state_dict(), weights)
    average.restore()


if __name__ == "__main__":
    main(*sys.argv[1:])
