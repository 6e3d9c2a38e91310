"""Several averages updated together: to the bit what one after the other gives."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from networks import Oddities
from test_ema_twin import make_optimizer, train_step
from update_paths import bits, use_numba, use_numpy

from ppema import (
    ExponentialMovingAverage,
    LatestWeightAverage,
    PowerFunctionEMA,
    StochasticWeightAverage,
    WeightAverage,
    update_all,
)
from ppema.averaging import kernels


class Own(ExponentialMovingAverage):
    """A class whose `update` does something more."""

    num_calls = 0

    def update(self):
        self.num_calls += 1
        return super().update()


class Half(WeightAverage):
    """A class of a user's that says only what is kept."""

    def _share_to_keep(self, t):
        return 0.5


MAKERS = {
    "ema": lambda model: ExponentialMovingAverage(model, 0.98),
    "debiased": lambda model: ExponentialMovingAverage(model, 0.9, debias=True, update_every=3),
    "late": lambda model: ExponentialMovingAverage(model, 0.9, start=5),
    "wide": lambda model: ExponentialMovingAverage(model, 0.9, shadow_dtype="float64"),
    "copied statistics": lambda model: ExponentialMovingAverage(model, 0.9, buffers="copy"),
    "recomputed": lambda model: ExponentialMovingAverage(model, 0.9, buffers="recompute"),
    "some": lambda model: ExponentialMovingAverage(model, 0.9, exclude=["*.bias", "first.*"]),
    "swa": lambda model: StochasticWeightAverage(model, start=3, every=2),
    "latest": lambda model: LatestWeightAverage(model, k=2, every=3),
    "power": lambda model: PowerFunctionEMA(model, 0.1),
    "own": lambda model: Own(model, 0.9),
    "half": Half,
}


@pytest.fixture(params=[use_numpy, use_numba])
def path(request, monkeypatch):
    """Take the plain path or the compiled one, on two threads."""
    if request.param is use_numba:
        pytest.importorskip("numba")
    monkeypatch.setattr(kernels, "MIN_WEIGHTS_OF_TWO_THREADS", 0)
    request.param(monkeypatch)


def counters(average):
    state = average.state_dict()
    return {key: value for key, value in state.items() if key not in ("shadow", "snapshots")}


@pytest.mark.usefixtures("path")
def test_all_at_once_equals_one_by_one():
    paddle.seed(1)
    model = Oddities()
    optimizer = make_optimizer(model)
    together = [make(model) for make in MAKERS.values()]
    alone = [make(model) for make in MAKERS.values()]
    for step in range(12):
        train_step(model, optimizer)
        model.frozen.weight.stop_gradient = step % 4 != 3
        assert update_all(together) == [average.update() for average in alone]
        for name, first, second in zip(MAKERS, together, alone):
            assert counters(first) == counters(second), name
            assert bits(first) == bits(second), name
    assert together[list(MAKERS).index("own")].num_calls == 12


@pytest.mark.usefixtures("path")
def test_averages_of_two_models_and_an_average_given_twice():
    models = [Oddities(), Oddities()]
    together = [ExponentialMovingAverage(model, 0.9) for model in models]
    alone = [ExponentialMovingAverage(model, 0.9) for model in models]
    for model in models:
        model.first.weight.set_value(model.first.weight + 1)
    kept = update_all([*together, together[0]])
    assert kept == [alone[0].update(), alone[1].update(), alone[0].update()]
    assert [bits(average) for average in together] == [bits(average) for average in alone]


@pytest.mark.usefixtures("path")
def test_weights_that_are_not_finite_move_none():
    model = Oddities()
    averages = [make(model) for name, make in MAKERS.items() if name != "own"]
    model.first.weight.set_value(np.full([784, 16], np.nan, "float32"))
    before = [(counters(average), bits(average)) for average in averages]
    with pytest.raises(FloatingPointError, match=r"first\.weight holds NaN"):
        update_all(averages)
    assert [(counters(average), bits(average)) for average in averages] == before


@pytest.mark.usefixtures("path")
def test_only_those_that_check_are_checked():
    model = Oddities()
    careful, trusting = (ExponentialMovingAverage(model, 0.9) for _ in range(2))
    excluding = ExponentialMovingAverage(model, 0.9, exclude=["first.weight"])
    model.first.weight.set_value(np.full([784, 16], np.nan, "float32"))
    trusting.checks_finite = False
    update_all([trusting, excluding])
    with pytest.raises(FloatingPointError):
        update_all([trusting, careful])


def test_none_is_updated_while_one_is_applied():
    model = Oddities()
    averages = [ExponentialMovingAverage(model, 0.9) for _ in range(2)]
    with averages[1].average_parameters(), pytest.raises(RuntimeError, match="restore"):
        update_all(averages)
    assert [average.num_updates for average in averages] == [0, 0]


def test_nothing_to_update_is_no_error():
    assert update_all([]) == []
