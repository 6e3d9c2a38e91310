"""Soups of weight files: read, fit, evaluated where that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from ..averaging import greedy_soup, uniform_soup
from ..checkpoint import not_weights, read_weight_file, require_finite
from ..errors import CheckpointError, NonFiniteError
from ..progress import track
from .candidates import Candidates

States = Mapping[str, Mapping[str, Any]]


def read_ingredients(files: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the weights in each file, by its path; a file that is given twice counts twice.

    Raises:
        CheckpointError: a file is missing, damaged, or holds something else.
        NonFiniteError: a weight is NaN or infinite.
    """
    states: dict[str, dict[str, Any]] = {}
    for index, file in enumerate(track(files, len(files), "reading weights")):
        name = file if file not in states else f"{file} (again, {index + 1})"
        states[name] = read_weight_file(Path(file))
        # An optimizer's state is named weight/accumulator.
        others = [key for key in states[name] if "/" in str(key)] + not_weights(states[name])
        if others or not states[name]:
            holds = f"holds {', '.join(map(str, others[:3]))}" if others else "is empty"
            raise CheckpointError(f"{file}: not weights ({holds})")
        _require_finite(states[name], file)
    return states


def has_batch_norm(states: States) -> bool:
    """Tell whether the weights are of a network with BN, by the names of its statistics."""
    return any(name.endswith("._variance") for state in states.values() for name in state)


def cook_uniformly(states: States) -> dict[str, Any]:
    """Return the equal-weight mean.

    Raises:
        CheckpointError: one does not fit the first; the text names it and what does not fit.
    """
    try:
        return uniform_soup(states)
    except ValueError as error:
        raise CheckpointError(str(error)) from None


def _require_finite(state: Mapping[str, Any], file: str) -> None:
    try:
        require_finite(state, "average")
    except NonFiniteError as error:
        raise NonFiniteError(f"{file}: {error}") from None


def cook_greedily(
    states: States, candidates: Candidates, report: Callable[[str], None]
) -> tuple[dict[str, Any], list[str]]:
    """Return the mean of those that help, added best first, and which; say what was tried.

    Raises:
        CheckpointError: one does not fit the first, or the model.
    """
    cook_uniformly(states)
    alone = {name: candidates.evaluate(state, name) for name, state in states.items()}
    for name, evaluation in alone.items():
        report(f"{name}: {evaluation}")

    def score(state: Mapping[str, Any]) -> tuple[float, float]:
        evaluation = candidates.evaluate(state, "a soup")
        return evaluation.rank

    soup = greedy_soup(states, {name: e.rank for name, e in alone.items()}, score)
    for name in soup.ingredients:
        report(f"in the soup: {name}")
    return soup.state, soup.ingredients
