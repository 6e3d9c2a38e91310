"""Evaluate a model, and each average of it, on one reader."""

from __future__ import annotations

import functools
import math
import operator
from functools import partial
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Optional, Sequence

import numpy as np
import paddle

from ..averaging import WeightAverage, ranks
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

    The mode of every layer is put back, whatever happens. Several ranks deal the batches out
    among them, and each returns the figures of all, to the bits that one alone finds.

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
    num_rounds = -(-len(reader) // ranks.num_ranks())
    batches = track(_own_batches(reader, num_rounds), num_rounds, f"evaluating {name}".rstrip())
    try:
        with paddle.no_grad():
            if can_take_two_threads(model, loss_fn):
                counted = map_in_two_threads(count, batches)
            else:
                counted = [count(batch) for batch in batches]
    finally:
        for layer, was_training in modes:
            layer.training = was_training
    if predictions is not None:
        predictions.gather()
    return _summed(ranks.gather(_as_numbers(counted)))


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


def _own_batches(reader: Any, num_rounds: int) -> Iterator[tuple[int, Any]]:
    """Yield this rank's batches, of which each rank has one a round, but perhaps in the last.

    Each with the number of images before it.
    """
    if ranks.num_ranks() > 1:
        yield from watched(reader.dealt(1, ranks.rank(), ranks.num_ranks()), num_rounds)
        return
    start = 0
    for batch in watched(reader.batches(1)):
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


class _Part(NamedTuple):
    """What a rank's share of an evaluation comes to; none of it depends on the batches' order."""

    # Of each batch, its images and their mean loss.
    losses: Sequence[tuple[int, float]]
    num_first: int
    num_both: int
    # None where a model's logits hold NaN or Inf.
    reliability: Optional[Reliability]


def _as_numbers(counted: Sequence[tuple[int, Any, Any, Any]]) -> _Part:
    if not counted:
        nothing = np.zeros(0, np.float32)
        return _Part([], 0, 0, Reliability.of(nothing, nothing.astype(bool)))
    # Read from the device once: a read per batch would wait for each.
    counts, losses, places, confidence = zip(*counted)
    means = paddle.stack([loss.reshape([]) for loss in losses]).tolist()
    is_ranked, sure = paddle.concat(places).numpy(), paddle.concat(confidence).numpy()
    reliability = None if np.isnan(sure).any() else Reliability.of(sure, is_ranked[:, 0])
    num_first, num_both = int(is_ranked[:, 0].sum()), int(is_ranked.sum())
    return _Part(list(zip(counts, means)), num_first, num_both, reliability)


def _summed(parts: Sequence[_Part]) -> Evaluation:
    """Return the figures of all parts."""
    losses = [pair for part in parts for pair in part.losses]
    num_samples = sum(count for count, _ in losses)
    loss = math.fsum(count * mean for count, mean in losses) / num_samples
    if not math.isfinite(loss):
        raise NonFiniteError(f"the evaluation loss is {loss}; the weights are finite, the data not")
    known = [part.reliability for part in parts if part.reliability is not None]
    if len(known) < len(parts):
        raise NonFiniteError("the model's logits hold NaN or Inf; the weights are finite")
    ece = functools.reduce(operator.add, known).ece
    num_first, num_both = sum(p.num_first for p in parts), sum(p.num_both for p in parts)
    return Evaluation(num_first / num_samples, num_both / num_samples, loss, ece)
