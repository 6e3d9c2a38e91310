"""Evaluate a model, and each average of it, on one reader."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Callable, Iterable, Iterator, Mapping, Optional, Sequence

import numpy as np
import paddle

from ..averaging import WeightAverage
from ..calibration import Reliability
from ..checkpoint import require_finite
from ..errors import NonFiniteError
from ..metrics import Evaluation, confidences, is_first_and_second
from ..progress import track
from ..stop_signals import watched
from .predictions import Predictions
from .two_threads import can_take_two_threads, map_in_two_threads

RAW = "raw"


def evaluate(
    model: Any,
    loss_fn: Callable[..., Any],
    reader: Any,
    predictions: Optional[Predictions] = None,
    name: str = "",
) -> Evaluation:
    """Run the model over every batch once, in eval mode, without gradients.

    The mode of every layer is put back, whatever happens.

    Args:
        model: a paddle.nn.Layer; called with images, gives logits.
        loss_fn: called with logits and labels, gives a scalar.
        reader: the evaluation data.
        predictions: gathers what the model says of each image.
        name: of the weights, for the progress line.

    Raises:
        NonFiniteError: a weight or the loss is NaN or infinite, or a logit NaN.
        StopRequest: a signal to a training run came.
    """
    require_finite(model.state_dict(), "evaluate")
    modes = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    model.eval()
    count = partial(_count_batch, model, loss_fn, predictions)
    batches = track(
        _numbered(watched(reader.batches(1))), len(reader), f"evaluating {name}".rstrip()
    )
    try:
        with paddle.no_grad():
            if can_take_two_threads(model, loss_fn):
                counted = map_in_two_threads(count, batches)
            else:
                counted = [count(batch) for batch in batches]
    finally:
        for layer, was_training in modes:
            layer.training = was_training
    return _summed(counted)


def evaluate_all(
    model: Any,
    averages: Mapping[str, WeightAverage],
    loss_fn: Callable[..., Any],
    reader: Any,
    predictions: Optional[Mapping[str, Predictions]] = None,
) -> dict[str, Evaluation]:
    """Evaluate the raw weights, then each average in their place, by name.

    `predictions`, by the same names, gather what is said of each image.
    """
    gathered = predictions or {}
    evaluations = {RAW: evaluate(model, loss_fn, reader, gathered.get(RAW), RAW)}
    for name, average in averages.items():
        with average.average_parameters():
            evaluations[name] = evaluate(model, loss_fn, reader, gathered.get(name), name)
    return evaluations


def choose(evaluations: Mapping[str, Evaluation], select: str) -> str:
    """Return the name of the weights to use: `select` itself, or the best of all for `best`."""
    if select != "best":
        return select
    best: Optional[str] = None
    for name, evaluation in evaluations.items():
        if best is None or evaluation.rank > evaluations[best].rank:
            best = name
    assert best is not None
    return best


def mark_of(select: str) -> str:
    """Return the word for the weights that `select` chooses."""
    return "best" if select == "best" else "selected"


def table(
    evaluations: Mapping[str, Evaluation], chosen: Optional[str] = None, select: str = "best"
) -> str:
    """Return the evaluations as lines of text, one a name, the chosen one marked."""
    mark = mark_of(select)
    width = max(len(name) for name in evaluations)
    return "\n".join(
        f"{name:<{width}}  {evaluation}" + (f"  <- {mark}" if name == chosen else "")
        for name, evaluation in evaluations.items()
    )


def _numbered(batches: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """Yield each batch with the number of images before it."""
    start = 0
    for batch in batches:
        yield start, batch
        start += len(batch.label)


def _count_batch(
    model: Any,
    loss_fn: Callable[..., Any],
    predictions: Optional[Predictions],
    numbered: tuple[int, Any],
) -> tuple[int, Any, Any, Any]:
    start, batch = numbered
    image, label = paddle.to_tensor(batch.image), paddle.to_tensor(batch.label)
    logits = model(image)
    loss = loss_fn(logits, label)
    if predictions is not None:
        predictions.add(start, batch, logits)
    return len(batch.label), loss, is_first_and_second(logits, label), confidences(logits)


def _summed(counted: Sequence[tuple[int, Any, Any, Any]]) -> Evaluation:
    """Return the figures of all batches, which do not depend on the batches' order."""
    # Read from the device once: a read per batch would wait for each.
    counts, losses, ranks, confidence = zip(*counted)
    num_samples = sum(counts)
    means = paddle.stack([loss.reshape([]) for loss in losses]).tolist()
    loss = math.fsum(count * mean for count, mean in zip(counts, means)) / num_samples
    if not math.isfinite(loss):
        raise NonFiniteError(f"the evaluation loss is {loss}; the weights are finite, the data not")
    is_ranked, sure = paddle.concat(ranks).numpy(), paddle.concat(confidence).numpy()
    if np.isnan(sure).any():
        raise NonFiniteError("the model's logits hold NaN or Inf; the weights are finite")
    first, both = int(is_ranked[:, 0].sum()), int(is_ranked.sum())
    ece = Reliability.of(sure, is_ranked[:, 0]).ece
    return Evaluation(first / num_samples, both / num_samples, loss, ece)
