"""Training in a process of its own, block by block as it is asked to."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import paddle

from ppema import builder
from ppema.averaging import ranks
from ppema.console import Screen, keep_freed_memory, log_to
from ppema.engine.trainer import Hook, Trainer

from .data import Archives
from .own import make_trainer
from .remote import Channel
from .rivals import CopiedAverage
from .seed import BATCH_SIZE, make_dataset, make_loader, train_epoch

# It never ends by itself.
_NUM_EPOCHS = 100_000


class Pacer(Hook):
    """Let training go on for the steps that are asked for; answer with the seconds they took."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._left, self._started = 0, 0.0

    def wait(self) -> None:
        """Wait for the next block."""
        _, arguments = self._channel.receive()
        self._left, self._started = arguments["steps"], time.perf_counter()

    def count(self) -> None:
        """Count a step; at the end of a block answer, and wait for the next."""
        self._left -= 1
        if self._left == 0:
            self._channel.answer(time.perf_counter() - self._started)
            self.wait()

    def before_run(self, trainer: Trainer) -> None:
        """Wait for the first block."""
        self.wait()

    def after_step(self, trainer: Trainer) -> None:
        """Count a step."""
        self.count()


class FitCallback(paddle.callbacks.Callback):  # type: ignore[misc]
    """The copied average in `paddle.Model.fit`, and the pacer."""

    def __init__(self, average: CopiedAverage, pacer: Pacer) -> None:
        super().__init__()
        self._average, self._pacer = average, pacer

    def on_train_begin(self, logs: Any = None) -> None:
        """Wait for the first block."""
        self._pacer.wait()

    def on_train_batch_end(self, step: int, logs: Any = None) -> None:
        """Update the average, and count the step."""
        self._average.update()
        self._pacer.count()


def train_as_seed(archives: Archives, pacer: Pacer) -> None:
    """Train by the usual loop."""
    loader = make_loader(make_dataset(archives, "train"), shuffle=True)
    model, optimizer, average = _make_parts()
    pacer.wait()
    for _ in range(_NUM_EPOCHS):
        train_epoch(loader, model, optimizer, average, pacer.count)


def train_by_fit(archives: Archives, pacer: Pacer) -> None:
    """Train by `paddle.Model.fit`."""
    network, optimizer, average = _make_parts()
    model = paddle.Model(network)
    metric = paddle.metric.Accuracy(topk=(1, 2))
    model.prepare(optimizer, paddle.nn.CrossEntropyLoss(), metric)
    model.fit(
        make_dataset(archives, "train"),
        batch_size=BATCH_SIZE,
        epochs=_NUM_EPOCHS,
        log_freq=5,
        verbose=2,
        callbacks=[FitCallback(average, pacer)],
    )


def train_by_ppema(archives: Archives, pacer: Pacer, save_dir: str, fast_cpu: str) -> None:
    """Train as tools/train.py does."""
    more = [f"epoch={_NUM_EPOCHS}", f"fast_cpu={fast_cpu}"]
    trainer = make_trainer(archives, save_dir, more)
    trainer.hooks.append(pacer)
    log_to(Screen())
    trainer.train()


def train_in_ranks(archives: Archives, pacer: Pacer, save_dir: str, batch_size: str) -> None:
    """Train as tools/train.py does, as one of the processes that were started together."""
    keep_freed_memory()
    more = [f"epoch={_NUM_EPOCHS}", f"TrainReader.batch_size={batch_size}", "use_gpu=false"]
    with builder.joined("cpu"):
        signals = builder.make_signals()
        trainer = make_trainer(archives, save_dir, more, signals)
        trainer.hooks.append(pacer)
        if ranks.is_first():
            log_to(Screen())
        with signals:
            trainer.train()


def _make_parts() -> tuple[Any, Any, CopiedAverage]:
    paddle.seed(0)
    model = paddle.vision.models.LeNet()
    optimizer = paddle.optimizer.Adam(1e-3, parameters=model.parameters())
    average = CopiedAverage(model)
    average.register()
    return model, optimizer, average


def main(kind: str, folder: str, save_dir: str, batch_size: str = "") -> None:
    """Train in one of five ways for as long as somebody asks for it."""
    pacer, archives = Pacer(Channel()), Archives(Path(folder), "")
    if kind == "ranks":
        train_in_ranks(archives, pacer, save_dir, batch_size)
    elif kind == "seed":
        train_as_seed(archives, pacer)
    elif kind == "fit":
        train_by_fit(archives, pacer)
    else:
        train_by_ppema(archives, pacer, save_dir, "true" if kind == "ppema" else "false")


if __name__ == "__main__":
    main(*sys.argv[1:])
