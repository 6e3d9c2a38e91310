"""An evaluation of LeNet over all test images."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any, Callable

import paddle

from ppema import builder
from ppema.engine.evaluate import evaluate
from ppema.fast_cpu import FastLayers

from .. import seed
from ..data import Archives, open_archives
from ..own import CONFIG, overrides
from ..rows import Findings, Reach
from ..settings import Settings
from ..timing import SECONDS, Entry, measure_group, repeated
from .train import OWN, OWN_PLAIN, SEED


def measure(settings: Settings) -> Findings:
    """Measure one evaluation, in four ways."""
    with open_archives(settings) as archives:
        model, dataset = paddle.vision.models.LeNet(), seed.make_dataset(archives, "test")
        ways = {
            SEED: lambda: _by_loop(dataset, model),
            "hapi Model.evaluate": _by_hapi(dataset, model),
            OWN: _by_ppema(archives, model, fast_cpu=True),
            OWN_PLAIN: _by_ppema(archives, model, fast_cpu=False),
        }
        reaches = {OWN: Reach(0.3, "ratio")}
        entries = [
            Entry(name, repeated(way, 0.0), None if name == SEED else SEED, reaches.get(name))
            for name, way in ways.items()
        ]
        group = f"an evaluation of LeNet on {len(dataset):,} images"
        rows = measure_group(group, entries, settings.rounds_or(7), SECONDS)
    return Findings(rows, [f"data: {archives.source}"])


def _by_loop(dataset: Any, model: Any) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        seed.evaluate(seed.make_loader(dataset, shuffle=False), model)


def _by_hapi(dataset: Any, network: Any) -> Callable[[], Any]:
    model = paddle.Model(network)
    metric = paddle.metric.Accuracy(topk=(1, 2))
    model.prepare(loss=paddle.nn.CrossEntropyLoss(), metrics=metric)

    def run() -> None:
        with warnings.catch_warnings():
            # Paddle's own, of its test_batch.
            warnings.filterwarnings("ignore", message="To copy construct from a tensor")
            model.evaluate(dataset, batch_size=seed.BATCH_SIZE, verbose=0)

    return run


def _by_ppema(archives: Archives, model: Any, fast_cpu: bool) -> Callable[[], Any]:
    """Return what tools/eval.py does once data and weights are there."""
    config = builder.read_config(str(CONFIG), overrides(archives, "output"))
    reader = builder.make_eval_reader(config, builder.load_eval_data(config, {}))
    loss_fn, layers = builder.make_loss(config), FastLayers(model, fast_cpu)

    def run() -> None:
        with layers.in_use():
            evaluate(model, loss_fn, reader)

    return run
