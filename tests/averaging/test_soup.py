"""Soups: the mean of finished models, all of them or those that help."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppema import combine_states, greedy_soup, uniform_soup


def state(value, count=1):
    return {"w": paddle.full([2, 2], value), "n": paddle.to_tensor(count)}


def test_a_uniform_soup_is_the_mean_of_floats_and_the_last_of_integers():
    soup = uniform_soup({"a": state(1.0), "b": state(2.0), "c": state(6.0, count=7)})
    assert soup["w"].tolist() == [[3.0, 3.0], [3.0, 3.0]]
    assert (soup["w"].dtype, int(soup["n"])) == (paddle.float32, 7)


def test_the_mean_is_taken_in_float64():
    tensors = {str(i): {"w": paddle.full([1], 0.1)} for i in range(1000)}
    assert uniform_soup(tensors)["w"].item() == np.float32(0.1)


def test_a_soup_does_not_follow_its_ingredients():
    one = state(1.0)
    soup = uniform_soup({"a": one})
    one["w"].fill_(5.0)
    one["n"].fill_(9)
    assert (soup["w"][0, 0].item(), int(soup["n"])) == (1.0, 1)


def test_a_greedy_soup_adds_best_first_and_keeps_what_does_not_hurt():
    states = {"low": state(4.0), "best": state(1.0), "good": state(2.0), "bad": state(30.0)}
    scores = {"low": 0.2, "best": 0.9, "good": 0.8, "bad": 0.1}
    tried = []

    def score(trial):
        tried.append(trial["w"][0, 0].item())
        return 1.0 - abs(trial["w"][0, 0].item() - 2.0)

    soup = greedy_soup(states, scores, score)
    assert tried == [1.5, 2.5, 15.5]
    assert soup.ingredients == ["best"]
    assert soup.state["w"][0, 0].item() == 1.0
    assert soup.scores == {"best": 0.9, "good": 0.5, "low": 0.5, "bad": -12.5}


def test_a_tie_is_taken_in():
    soup = greedy_soup({"a": state(1.0), "b": state(3.0)}, {"a": 0.9, "b": 0.8}, lambda trial: 0.9)
    assert soup.ingredients == ["a", "b"]
    assert soup.state["w"][0, 0].item() == 2.0


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ({}, "at least one"),
        ({"a": state(1.0), "b": {"w": paddle.zeros([3])}}, r"b does not fit a: 0 of 2 fit; w: fil"),
        ({"a": {"w": paddle.zeros([1])}, "b": {"v": paddle.zeros([1])}}, "unexpected: v"),
    ],
)
def test_what_does_not_fit_is_named(states, message):
    with pytest.raises(ValueError, match=message):
        uniform_soup(states)


def test_a_missing_score_is_named():
    with pytest.raises(ValueError, match="no score for b"):
        greedy_soup({"a": state(1.0), "b": state(1.0)}, {"a": 1.0}, lambda trial: 0.0)


def test_a_weighted_mean_divides_by_the_sum_and_leaves_alone_what_is_copied():
    states = [("a", {"w": paddle.to_tensor([1.0]), "rate": paddle.to_tensor([8.0])})]
    states.append(("b", {"w": paddle.to_tensor([5.0]), "rate": paddle.to_tensor([9.0])}))
    mixed = combine_states(states, [-1.0, 3.0], copied=["rate"])
    assert (mixed["w"].item(), mixed["rate"].item()) == (7.0, 9.0)


@pytest.mark.parametrize("coefficients", [[1.0], [1.0, 1.0, 2.0], [1.0, -1.0], []])
def test_coefficients_that_do_not_fit_the_states_are_refused(coefficients):
    states = [("a", {"w": paddle.ones([1])}), ("b", {"w": paddle.ones([1])})]
    with pytest.raises(ValueError, match=r"coefficients|at least one"):
        combine_states(states, coefficients)


def test_states_are_read_one_after_another_and_must_fit_the_first():
    read = []

    def states():
        for name, shape in (("a", [2]), ("b", [2]), ("c", [3]), ("d", [2])):
            read.append(name)
            yield name, {"w": paddle.ones(shape)}

    with pytest.raises(ValueError, match=r"c does not fit a: 0 of 1 fit; w: file \[3\]"):
        combine_states(states(), [1.0] * 4)
    assert read == ["a", "b", "c"]
