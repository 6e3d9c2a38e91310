"""A hundred thousand updates at a decay of 0.9999 beside the same in float64 (P12)."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from update_paths import use_numba, use_numpy

from ppema import ExponentialMovingAverage
from ppema.averaging.views import flat_view

DECAY, NUM_WEIGHTS = 0.9999, 1_000


def relative_rms(found, expected):
    return math.sqrt(((found - expected) ** 2).mean() / (expected**2).mean())


@pytest.mark.parametrize(
    ("shadow_dtype", "use_path", "num_updates", "tolerance"),
    [
        ("float32", use_numpy, 100_000, 1e-4),
        ("float32", use_numba, 100_000, 1e-4),
        # It has one path, and nothing that adds up.
        ("float64", use_numpy, 20_000, 1e-6),
    ],
)
def test_the_average_of_a_random_walk_is_near_the_same_in_float64(
    shadow_dtype, use_path, num_updates, tolerance, monkeypatch
):
    if use_path is use_numba:
        pytest.importorskip("numba")
    use_path(monkeypatch)
    random = np.random.RandomState(0)
    model = paddle.nn.Linear(NUM_WEIGHTS, 1, bias_attr=False)
    live = flat_view(model.weight)
    live[:] = random.randn(NUM_WEIGHTS)
    average = ExponentialMovingAverage(model, DECAY, False, shadow_dtype=shadow_dtype)
    average.checks_finite = False
    moves = random.randn(997, NUM_WEIGHTS).astype("float32") * np.float32(1e-3)
    expected, change = live.astype("float64"), np.empty(NUM_WEIGHTS)
    for t in range(num_updates):
        live += moves[t % 997]
        average.update()
        np.subtract(live, expected, out=change)
        change *= 1 - DECAY
        expected += change
    assert average.num_updates == num_updates
    found = average.state_dict()["shadow"]["weight"].numpy().ravel()
    assert found.dtype == shadow_dtype
    assert relative_rms(found, expected) <= tolerance
    # An average that stood still, or is the weights, would be far from what is expected.
    assert relative_rms(live, expected) > 0.05
