"""From logits to classes with their probabilities, the most likely first."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional, Sequence

import numpy as np
import numpy.typing as npt

from .errors import NonFiniteError


class Guess(NamedTuple):
    """A class, its number, and its probability in [0, 1]."""

    name: str
    class_id: int
    probability: float


def softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the probabilities of logits [N, C], in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    shares: npt.NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return shares


def rank_classes(
    logits: npt.NDArray[Any], class_names: Sequence[str], top_k: int
) -> list[list[Guess]]:
    """Return the `top_k` likeliest classes for each row of logits [N, C], of equal ones the first.

    Raises:
        NonFiniteError: a logit is NaN or infinite.
    """
    if not np.isfinite(logits).all():
        raise NonFiniteError("the model gives NaN or Inf for a picture; its weights are finite")
    probabilities = softmax(logits)
    orders = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    return [
        [Guess(class_names[i], int(i), float(row[i])) for i in order]
        for row, order in zip(probabilities, orders)
    ]


def names_of(class_names: Optional[Sequence[str]], num_classes: int) -> tuple[str, ...]:
    """Return one name a class: its number, where the data do not name their classes."""
    return tuple(map(str, range(num_classes))) if class_names is None else tuple(class_names)
