"""Soups: averages of the weights of finished runs.

Source: Wortsman et al., https://arxiv.org/abs/2203.05482. The runs must share their initial
weights (a common pretrained model, say): means of unrelated networks are no network.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping, NamedTuple, Sequence

import paddle

from .fit import describe_misfit

State = Mapping[str, Any]


class GreedySoup(NamedTuple):
    """The weights of a greedy soup, the names of what went in, and the score of each try."""

    state: dict[str, Any]
    ingredients: list[str]
    scores: dict[str, float]


def uniform_soup(states: Mapping[str, State]) -> dict[str, Any]:
    """Return the equal-weight mean of some models' states, given by name.

    Floats are averaged in float64 and come back in their own dtype; all else must be equal, or
    is taken from the last state (counters, say).

    Raises:
        ValueError: no states, or one that does not fit the first; the text names it.
    """
    if not states:
        raise ValueError("a soup needs at least one set of weights")
    first_name, first = next(iter(states.items()))
    for name, state in states.items():
        misfit = describe_misfit(first, state)
        if misfit:
            raise ValueError(f"{name} does not fit {first_name}: {misfit}")
    return {key: _mean([state[key] for state in states.values()]) for key in first}


def greedy_soup(
    states: Mapping[str, State], scores: Mapping[str, float], score: Callable[[State], float]
) -> GreedySoup:
    """Add one model after another, best first, and keep those that do not make the soup worse.

    Args:
        states: the models' states, by name.
        scores: of each model alone, higher is better, on validation data.
        score: called with the state of each soup that is tried.

    Raises:
        ValueError: no states, one without a score, or one that does not fit the first.
    """
    missing = [name for name in states if name not in scores]
    if missing:
        raise ValueError(f"no score for {', '.join(missing)}")
    uniform_soup(states)  # checks that all fit before anything is scored
    order = sorted(states, key=lambda name: -scores[name])
    ingredients = order[:1]
    best, soup = scores[order[0]], uniform_soup({order[0]: states[order[0]]})
    tried = {order[0]: best}
    for name in order[1:]:
        trial = uniform_soup({key: states[key] for key in (*ingredients, name)})
        tried[name] = score(trial)
        if tried[name] >= best:
            best, soup = tried[name], trial
            ingredients.append(name)
    return GreedySoup(soup, ingredients, tried)


def _mean(tensors: Sequence[Any]) -> Any:
    if not tensors[0].is_floating_point():
        return tensors[-1].clone()
    with paddle.no_grad():
        total = tensors[0].astype("float64")
        for tensor in tensors[1:]:
            total = total + tensor.astype("float64")
        return (total / len(tensors)).astype(tensors[0].dtype)
