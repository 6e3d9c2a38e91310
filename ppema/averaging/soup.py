"""Soups: averages of the weights of finished runs.

Source: Wortsman et al., https://arxiv.org/abs/2203.05482. The runs must share their initial
weights (a common pretrained model, say): means of unrelated networks are no network.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Collection, Iterable, Mapping, NamedTuple, Sequence

import paddle

from .fit import describe_misfit

State = Mapping[str, Any]


class GreedySoup(NamedTuple):
    """The weights of a greedy soup, the names of what went in, and the score of each try."""

    state: dict[str, Any]
    ingredients: list[str]
    scores: dict[str, Any]


def combine_states(
    states: Iterable[tuple[str, State]],
    coefficients: Sequence[float],
    copied: Collection[str] = (),
) -> dict[str, Any]:
    """Return the weighted mean of some models' states, read one after another.

    Floats are summed in float64, divided by the sum of the coefficients, and come back in the
    dtypes of the first state. Integers, and what `copied` names, are taken from the last one.

    Args:
        states: each with a name for messages; as many as coefficients.
        coefficients: of each state; they may be negative, their sum may not be 0.
        copied: names of tensors that are no averages (counters, excluded weights).

    Raises:
        ValueError: no states, one that does not fit the first (the text names it), not as many
            states as coefficients, or coefficients that sum to 0.
    """
    first_name = ""
    last: State = {}
    dtypes: dict[str, Any] = {}
    sums: dict[str, Any] = {}
    with paddle.no_grad():
        total = math.fsum(coefficients)
        if coefficients and not total:
            raise ValueError("the coefficients sum to 0; a mean divides by their sum")
        num_states = 0
        for num_states, (name, state) in enumerate(states, start=1):
            if num_states > len(coefficients):
                break
            coefficient = coefficients[num_states - 1]
            misfit = describe_misfit(last, state) if first_name else None
            if misfit:
                raise ValueError(f"{name} does not fit {first_name}: {misfit}")
            first_name, last = first_name or name, state
            for key, tensor in state.items():
                if tensor.is_floating_point() and key not in copied:
                    dtypes.setdefault(key, tensor.dtype)
                    part = tensor.astype("float64") * coefficient
                    sums[key] = sums[key] + part if key in sums else part
        if not first_name:
            raise ValueError("a soup needs at least one set of weights")
        if num_states != len(coefficients):
            raise ValueError(f"{len(coefficients)} coefficients, and not as many states")
        return {
            key: (sums[key] / total).astype(dtypes[key]) if key in sums else tensor.clone()
            for key, tensor in last.items()
        }


def uniform_soup(states: Mapping[str, State]) -> dict[str, Any]:
    """Return the equal-weight mean of some models' states, given by name.

    Floats are averaged in float64 and come back in their own dtype; all else is taken from the
    last state (counters, say).

    Raises:
        ValueError: no states, or one that does not fit the first; the text names it.
    """
    return combine_states(states.items(), [1.0] * len(states))


def greedy_soup(
    states: Mapping[str, State], scores: Mapping[str, Any], score: Callable[[State], Any]
) -> GreedySoup:
    """Add one model after another, best first, and keep those that do not make the soup worse.

    Args:
        states: the models' states, by name.
        scores: of each model alone, higher is better, on validation data; numbers, or tuples
            that are compared from the left.
        score: called with the state of each soup that is tried, gives the like.

    Raises:
        ValueError: no states, one without a score, or one that does not fit the first.
    """
    missing = [name for name in states if name not in scores]
    if missing:
        raise ValueError(f"no score for {', '.join(missing)}")
    uniform_soup(states)  # checks that all fit before anything is scored
    order = sorted(states, key=lambda name: scores[name], reverse=True)
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
