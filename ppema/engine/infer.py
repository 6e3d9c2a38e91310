"""Put pictures through a model, a batch at a time, and rank the classes of each."""

from __future__ import annotations

from typing import Any, Callable, Iterable, Iterator, NamedTuple, Optional, Sequence

import numpy as np
import paddle

from ..errors import DataError
from ..fast_cpu import FastLayers
from ..ranking import Guess, rank_classes


class Outcome(NamedTuple):
    """What became of one picture: guesses, the likeliest first, or why there are none."""

    item: Any
    guesses: Optional[list[Guess]]
    fault: Optional[str]


def infer(
    model: Any,
    read: Callable[[Any], Any],
    items: Sequence[Any],
    class_names: Sequence[str],
    *,
    batch_size: int,
    top_k: int,
    fast_layers: FastLayers,
) -> Iterator[Outcome]:
    """Yield what becomes of each item, in order; one that cannot be read holds up no other.

    Args:
        model: in eval mode.
        read: gives an item's image, float32 [C, H, W], or raises DataError.
        items: what is to be read.
        class_names: one a logit.
        batch_size: images that go through the model at once.
        top_k: classes in each outcome.
        fast_layers: of the model.

    Raises:
        NonFiniteError: the model gives NaN or Inf.
    """
    for start in range(0, len(items), batch_size):
        outcomes = [_read(read, item) for item in items[start : start + batch_size]]
        images = [image for image, _ in outcomes if image is not None]
        guesses: Iterable[list[Guess]] = ()
        if images:
            with paddle.no_grad(), fast_layers.in_use():
                logits = model(paddle.to_tensor(np.stack(images))).astype("float32").numpy()
            guesses = rank_classes(logits, class_names, top_k)
        ranked = iter(guesses)
        for item, (image, fault) in zip(items[start : start + batch_size], outcomes):
            yield Outcome(item, None if image is None else next(ranked), fault)


def _read(read: Callable[[Any], Any], item: Any) -> tuple[Any, Optional[str]]:
    try:
        return read(item), None
    except DataError as error:
        return None, str(error)
