"""Evaluate a model, and each average of it, on one reader."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence

import paddle

from ..averaging import WeightAverage, ranks
from ..checkpoint import require_finite
from ..errors import NonFiniteError
from ..metrics import Evaluation, num_first_and_second
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
        NonFiniteError: a weight or the loss is NaN or infinite.
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
    figures = list(itertools.chain.from_iterable(ranks.gather(_as_numbers(counted))))
    num_samples = sum(count for count, *_ in figures)
    loss = math.fsum(count * loss for count, loss, _ in figures) / num_samples
    if not math.isfinite(loss):
        raise NonFiniteError(f"the evaluation loss is {loss}; the weights are finite, the data not")
    first, second = (sum(right[place] for *_, right in figures) for place in (0, 1))
    return Evaluation(first / num_samples, (first + second) / num_samples, loss)


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


def _as_numbers(counted: Sequence[tuple[int, Any, Any]]) -> list[tuple[int, float, list[int]]]:
    """Return images, loss, and right answers at the first and the second place, of each batch."""
    if not counted:
        return []
    # Read from the device once: a read per batch would wait for each.
    losses = paddle.stack([loss.reshape([]) for _, loss, _ in counted]).tolist()
    right = paddle.stack([places for *_, places in counted]).tolist()
    return [(count, loss, places) for (count, *_), loss, places in zip(counted, losses, right)]


def _count_batch(
    model: Any,
    loss_fn: Callable[..., Any],
    predictions: Optional[Predictions],
    numbered: tuple[int, Any],
) -> tuple[int, Any, Any]:
    start, batch = numbered
    image, label = paddle.to_tensor(batch.image), paddle.to_tensor(batch.label)
    logits = model(image)
    loss = loss_fn(logits, label)
    if predictions is not None:
        predictions.add(start, batch, logits)
    return len(batch.label), loss, num_first_and_second(logits, label)
