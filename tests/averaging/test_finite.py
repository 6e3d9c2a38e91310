"""The search for a NaN or an infinity: the first by order, whatever its dtype, in few reads."""

from __future__ import annotations

import math

import paddle
import pytest

from ppema.averaging.finite import FiniteCheck, first_non_finite

DTYPES = ["float32", "bfloat16", "float64", "float16", "int64", "float32", "bfloat16", "float16"]


def tensors():
    """Return tensors of all dtypes in turn, one of them empty."""
    made = [(f"w{n}", paddle.ones([3, 2]).astype(dtype)) for n, dtype in enumerate(DTYPES)]
    return [*made, ("empty", paddle.zeros([0]).astype("bfloat16"))]


def with_value(tensor, value):
    spoilt = paddle.ones([3, 2])
    spoilt[1, 1] = value
    return spoilt.astype(tensor.dtype)


def test_finite_tensors_of_any_dtype_have_no_fault():
    assert first_non_finite(tensors()) is None
    assert first_non_finite([]) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("first", [0, 1, 2, 3, 5, 6, 7])
def test_the_first_by_order_is_named(first, value):
    named = tensors()
    for index in {first, 5, 6, 7} - set(range(first)):
        named[index] = (named[index][0], with_value(named[index][1], value))
    assert first_non_finite(named) == f"w{first}"


def test_a_weight_that_trains_is_looked_at_without_a_graph(monkeypatch):
    weight = paddle.ones([4]).astype("bfloat16")
    weight.stop_gradient = False
    totals, original = [], paddle.stack
    monkeypatch.setattr(paddle, "stack", lambda given: totals.extend(given) or original(given))
    assert first_non_finite([("w", weight)]) is None
    # A graph would hold a copy of every weight until the read.
    assert [total.stop_gradient for total in totals] == [True]


def test_what_cannot_be_viewed_is_read_in_one_transfer(monkeypatch):
    named, reads = tensors(), []
    original = paddle.Tensor.numpy

    def numpy(self):
        reads.append(list(self.shape))
        return original(self)

    monkeypatch.setattr(paddle.Tensor, "numpy", numpy)
    monkeypatch.setattr(paddle.Tensor, "__float__", lambda self: pytest.fail("a read of its own"))
    assert first_non_finite(named) is None
    assert reads == [[5]]


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: paddle.full([4], math.nan),
        lambda weight: paddle.to_tensor([1.0, 2.0, math.nan]),
        lambda weight: paddle.full([4], math.nan, "bfloat16"),
        # In place, in the memory that was looked at before.
        lambda weight: weight.scale_(math.nan),
    ],
)
def test_a_check_that_looks_again_follows_its_tensors(change):
    check, weight = FiniteCheck(), paddle.ones([4])
    assert check.first_non_finite([("w", weight)]) is None
    # Held, so that the other tensor lies elsewhere.
    changed = change(weight)
    assert check.first_non_finite([("w", changed)]) == "w"


@pytest.mark.parametrize("smaller", [paddle.ones([2]), paddle.ones([2], "float64")])
def test_a_check_does_not_read_past_a_tensor_that_took_the_place_of_another(smaller):
    check, large = FiniteCheck(), paddle.full([4], math.nan)
    assert check.first_non_finite([("w", large)]) == "w"
    large[:] = 1.0
    large[3] = math.nan
    shared = paddle.zeros(smaller.shape, smaller.dtype)
    shared.get_tensor()._share_data_with(large.get_tensor())
    shared.get_tensor()._set_dims([2])
    assert shared.data_ptr() == large.data_ptr()
    assert check.first_non_finite([("w", shared)]) is None
