"""The callback's file from a stranger: refused in one line, and the average is as it was (P4)."""

from __future__ import annotations

import os

import paddle
import pytest
from checkpoint.hostile import CASES, HARMLESS
from networks import TinyBN

from ppema import ExponentialMovingAverage
from ppema.errors import CheckpointError
from ppema.hapi import WeightAverageCallback

NAME = "0_average.pdstates"


@pytest.fixture
def average():
    average = ExponentialMovingAverage(TinyBN(), decay=0.9)
    average.update()
    return average


def bits(average):
    state = average.state_dict()
    shadow = {name: tensor.numpy().tobytes() for name, tensor in state.pop("shadow").items()}
    return state, shadow


def assert_refused(average, folder, message=""):
    before = bits(average)
    with pytest.raises(CheckpointError) as caught:
        WeightAverageCallback(average).load(folder / "0")
    text = str(caught.value)
    assert text.startswith(f"{folder / NAME}: ")
    assert message in text
    assert text.isprintable()
    assert len(text) < 1000
    assert bits(average) == before


def test_hostile_files_are_refused(tmp_path, monkeypatch, average):
    monkeypatch.chdir(tmp_path)
    for name in sorted(set(CASES) - HARMLESS)[2::5]:
        (tmp_path / NAME).write_bytes(CASES[name])
        assert_refused(average, tmp_path)
    assert os.listdir(tmp_path) == [NAME]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "a\nb\x1b[2J"}, "the state is of a\\nb\\x1b[2J, not"),
        ({"kind": ["x" * 50] * 50}, "not ExponentialMovingAverage"),
        ({"num_updates": [1] * 100_000}, "num_updates must be a whole number"),
        ({"num_updates": -1}, "num_updates must be a whole number from 0, got -1"),
        ({"num_updates": 1.5}, "num_updates must be a whole number from 0, got 1.5"),
        ({"shadow": {1: [2]}}, "the shadow of a state maps names to tensors"),
        ({"shadow": {1: paddle.ones([2])}}, "unexpected: 1"),
        ({"shadow": []}, "the shadow of a state maps names to tensors"),
        ({"never_moved": [[]]}, "never_moved of a state is a list of names"),
        ({"extra": 1}, "has the keys"),
    ],
    ids=range(10),
)
def test_states_that_do_not_fit_are_refused(tmp_path, average, changes, message):
    state = {**average.state_dict(), **changes}
    paddle.save(state, str(tmp_path / NAME))
    assert_refused(average, tmp_path, message)
