"""Block floating point: what is rounded to what, how often, and that nothing else decides it."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import paddle
import pytest

from ppema import ArgumentError, BlockFloatingPoint, ExponentialMovingAverage

SHAPES = ([7], [5, 3], [3, 2, 3, 3], [1, 9])


class Weights(paddle.nn.Layer):
    """Parameters of given values."""

    def __init__(self, *arrays):
        super().__init__()
        for index, array in enumerate(arrays):
            array = np.asarray(array)
            initial = paddle.nn.initializer.Assign(array)
            parameter = self.create_parameter(
                list(array.shape), dtype=str(array.dtype), default_initializer=initial
            )
            self.add_parameter(f"w{index}", parameter)


def drawn(shape, dtype, seed=0):
    """Return values of widely different magnitudes, and some zeros."""
    generator = np.random.RandomState(seed)
    values = generator.standard_normal(shape) * 2.0 ** generator.randint(-40, 3, shape)
    return np.where(generator.rand(*shape) < 0.1, 0.0, values).astype(dtype)


def rounded(array, step=1, **options):
    model = Weights(array)
    BlockFloatingPoint(model, **options).round_weights(step)
    return model.w0.numpy()


def uniforms(count, seed, step, index):
    """Return the numbers u of one tensor, in order, as fractions."""
    generator = np.random.Philox(key=[seed, step], counter=[0, 0, 0, index])
    for word in generator.random_raw((count + 1) // 2).tolist():
        yield Fraction(word & 0xFFFFFFFF, 2**32)
        yield Fraction(word >> 32, 2**32)


def twin(array, bits, block, seed, step, index):
    """Return what a tensor is rounded to: exact, one weight after another."""
    num_blocks = len(array) if block == "row" and array.ndim > 1 else 1
    numbers, found = uniforms(array.size, seed, step, index), []
    for weights in array.reshape(num_blocks, -1).tolist():
        largest = max(abs(Fraction(weight)) for weight in weights)
        # Of a power of two as denominator, as every float has.
        exponent = largest.numerator.bit_length() - largest.denominator.bit_length()
        spacing = Fraction(2) ** (exponent - bits + 2)
        for weight in weights:
            integer = math.floor(Fraction(weight) / spacing + next(numbers))
            integer = min(max(integer, -(2 ** (bits - 1))), 2 ** (bits - 1) - 1)
            found.append(float(integer * spacing))
    return np.array(found, array.dtype).reshape(array.shape)


@pytest.mark.parametrize("block", ["row", "tensor"])
@pytest.mark.parametrize(("bits", "dtype"), [(2, "float32"), (8, "float32"), (16, "float64")])
def test_each_step_is_that_of_a_slow_exact_twin(bits, dtype, block):
    arrays = [drawn(shape, dtype) for shape in SHAPES]
    model = Weights(*arrays)
    rounding = BlockFloatingPoint(model, bits=bits, block=block, seed=7)
    moves = [drawn(shape, dtype, seed=1) / 256 for shape in SHAPES]
    for step in (1, 2):
        for index, (parameter, move) in enumerate(zip(model.parameters(), moves)):
            parameter.set_value(parameter.numpy() + move)
            arrays[index] = twin(arrays[index] + move, bits, block, 7, step, index)
        rounding.round_weights(step)
        for parameter, expected in zip(model.parameters(), arrays):
            # Zeros, which twin and arithmetic may sign otherwise, are equal here.
            np.testing.assert_array_equal(parameter.numpy(), expected)


@pytest.mark.parametrize("block", ["row", "tensor"])
@pytest.mark.parametrize("shape", [[3, 4099], [2801, 3]])
def test_a_tensor_that_goes_in_pieces_is_that_of_the_twin(shape, block):
    weights = drawn(shape, "float32")
    expected = twin(weights, 8, block, 0, 1, 0)
    np.testing.assert_array_equal(rounded(weights, block=block), expected)


def test_the_numbers_of_a_seed_and_step_are_those_of_every_version():
    """Checkpoints of older versions go on with them; the words are Philox's, the bits ours."""
    weights = np.linspace(-0.9, 0.8, 15).astype("float32")
    model = Weights(weights, weights)
    BlockFloatingPoint(model, bits=4, seed=3).round_weights(1000)
    first, second = ((tensor.numpy() * 8).tolist() for tensor in model.parameters())
    assert first == [-7, -6, -5, -5, -3, -3, -2, -1, 1, 2, 3, 3, 4, 6, 6]
    assert second == [-7, -6, -5, -4, -3, -2, -2, 0, 1, 2, 3, 3, 4, 5, 6]


def test_the_mean_of_many_roundings_is_the_weight():
    weights = np.linspace(-1.9, 1.8, 500).astype("float32")
    weights[0] = 1.9  # the block's exponent
    model = Weights(weights)
    rounding = BlockFloatingPoint(model, bits=4)
    total = np.zeros(500)
    for step in range(1000):
        model.w0.set_value(weights)
        rounding.round_weights(step)
        total += model.w0.numpy()
    is_inside = weights <= 1.75
    error = (total / 1000 - weights)[is_inside]
    # The spacing is 1/4: a mean of 1000 has a standard error of 0.004 at most, that of 498 less.
    assert np.abs(error).max() < 0.018
    assert abs(error.mean()) < 0.0005


def test_weights_go_to_a_neighbour_or_stay_and_not_past_the_range():
    weights = np.array([[1.99, 0.3, -1.99, 0.25, -0.01, 0.0]], "float32")
    found = {tuple(rounded(weights, step, bits=4)[0]) for step in range(300)}
    seen = [sorted(set(column)) for column in zip(*found)]
    assert seen == [[1.75], [0.25, 0.5], [-2.0, -1.75], [0.25], [-0.25, 0.0], [0.0]]


@pytest.mark.parametrize("bits", [2, 8, 16])
def test_what_can_be_represented_stays_for_ever(bits):
    weights = drawn([64, 50], "float32")
    once = rounded(weights, bits=bits)
    # A block whose lowest integer is met is of the next exponent from then on.
    is_lowest = np.abs(once).max(axis=1) >= 2 ** np.ceil(np.log2(np.abs(weights).max(axis=1)))
    kept = once[~is_lowest]
    assert len(kept) > 20
    for step in range(50):
        assert rounded(kept, step, bits=bits).tobytes() == kept.tobytes()


def test_rows_have_an_exponent_each_and_a_tensor_has_one():
    weights = np.array([[1.0, 1.5, 0.0], [0.001, 0.0015, 0.00101]], "float32")
    rows = rounded(weights, block="row")
    whole = rounded(weights, block="tensor")
    np.testing.assert_allclose(rows[1], weights[1], rtol=0.0101)
    assert set((whole[1] * 64).tolist()) <= {0.0, 1.0}
    # A tensor of one axis is one row.
    assert rounded(weights.ravel(), block="row").tobytes() == whole.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_ends_of_float32_and_of_an_exponent_of_8_bits_are_safe(dtype):
    top = np.array([np.finfo("float32").max, 1.0, -np.finfo("float32").max], dtype)
    assert rounded(top).tolist() == [127 * 2.0**120, 0.0, -(2.0**127)]
    least = np.array([-(2.0**-136), 0.0], dtype)
    assert {tuple(rounded(least, step)) for step in range(50)} == {(0.0, 0.0), (-(2.0**-134), 0.0)}
    assert not rounded(np.zeros([3, 2], dtype)).any()


def test_frozen_parameters_statistics_and_buffers_are_left_alone():
    model = paddle.nn.Sequential(paddle.nn.Linear(5, 4), paddle.nn.BatchNorm1D(4))
    model[1]._mean.set_value(np.float32([0.123, 0.2, 0.3, 0.4]))
    model[0].bias.set_value(np.float32([0.111, 0.3, 0.3, 0.3]))
    model.register_buffer("noise", paddle.to_tensor([0.1234567]))
    model[0].bias.stop_gradient = True
    before = {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}
    rounding = BlockFloatingPoint(model, bits=3)
    rounding.round_weights(1)
    state = model.state_dict().items()
    moved = {name for name, tensor in state if tensor.numpy().tobytes() != before[name]}
    assert moved == {"0.weight"}
    model[0].bias.stop_gradient = False
    rounding.round_weights(2)
    assert model[0].bias.numpy().tobytes() != before["0.bias"]


def test_freezing_a_parameter_leaves_the_numbers_of_the_others():
    weights = drawn([6, 4], "float32")
    both, one = Weights(weights, weights), Weights(weights, weights)
    one.w0.stop_gradient = True
    for model in (both, one):
        BlockFloatingPoint(model).round_weights(5)
    assert both.w1.numpy().tobytes() == one.w1.numpy().tobytes()
    assert both.w0.numpy().tobytes() != both.w1.numpy().tobytes()


def test_seed_and_step_decide_and_no_generator_of_others():
    weights = drawn([40, 30], "float32")
    reference = rounded(weights, step=3, seed=1, bits=4).tobytes()
    assert rounded(weights, step=4, seed=1, bits=4).tobytes() != reference
    assert rounded(weights, step=3, seed=2, bits=4).tobytes() != reference
    random.seed(9)
    np.random.seed(9)
    paddle.seed(9)
    states = random.getstate(), np.random.get_state()[2], paddle.get_rng_state()[0].__getstate__()
    assert rounded(weights, step=3, seed=1, bits=4).tobytes() == reference
    after = random.getstate(), np.random.get_state()[2], paddle.get_rng_state()[0].__getstate__()
    assert after == states


def test_a_parameter_that_is_not_contiguous_rounds_to_the_same_bits():
    weights = drawn([6, 4], "float32")
    model = Weights(weights)
    column_major = paddle.to_tensor(np.ascontiguousarray(weights.T)).transpose([1, 0])
    model.w0.get_tensor()._share_data_with(column_major.get_tensor())
    assert not model.w0.is_contiguous()
    BlockFloatingPoint(model).round_weights(1)
    assert model.w0.numpy().tobytes() == rounded(weights).tobytes()


def test_tied_weights_are_rounded_once_and_empty_ones_are_no_matter():
    weights = drawn([6, 4], "float32")
    model = Weights(weights, np.zeros([0, 3], "float32"))
    model.add_parameter("tied", model.w0)
    BlockFloatingPoint(model, bits=3).round_weights(1)
    assert model.tied.numpy().tobytes() == rounded(weights, bits=3).tobytes()


def test_a_backward_pass_over_weights_that_were_rounded_fails():
    model = paddle.nn.Linear(3, 1)
    loss = (model(paddle.ones([2, 3]).detach()) ** 2 * model.weight.sum()).sum()
    loss = loss * (model.weight**2).sum()
    BlockFloatingPoint(model).round_weights(1)
    with pytest.raises(RuntimeError, match="inplace"):
        loss.backward()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bits": 1}, "bits must be a whole number from 2 to 16, got 1"),
        ({"bits": 17}, "bits must be a whole number from 2 to 16, got 17"),
        ({"bits": 8.0}, "bits must be a whole number from 2 to 16, got 8.0"),
        ({"bits": True}, "bits must be a whole number from 2 to 16, got True"),
        ({"block": "column"}, "block must be one of row, tensor, got 'column'"),
        ({"seed": -1}, r"seed must be in \[0, 4294967295\], got -1"),
    ],
)
def test_an_argument_out_of_range_is_named(options, text):
    with pytest.raises(ArgumentError, match=f"^{text}$"):
        BlockFloatingPoint(paddle.nn.Linear(2, 2), **options)


def test_what_cannot_be_rounded_is_refused():
    narrow = paddle.nn.Linear(2, 2).bfloat16()
    with pytest.raises(TypeError, match=r"^weight is bfloat16; weights are rounded in a model of"):
        BlockFloatingPoint(narrow)
    frozen = paddle.nn.Linear(2, 2)
    for parameter in frozen.parameters():
        parameter.stop_gradient = True
    with pytest.raises(ValueError, match="nothing to round"):
        BlockFloatingPoint(frozen)
    model = Weights(np.float32([1.0, np.inf]))
    with pytest.raises(FloatingPointError, match=r"^w0 holds NaN or Inf and cannot be rounded$"):
        BlockFloatingPoint(model).round_weights(1)
    assert model.w0.numpy().tolist() == [1.0, np.inf]
    with pytest.raises(ArgumentError, match=r"^step must be 0 or more, got -1$"):
        BlockFloatingPoint(paddle.nn.Linear(2, 2)).round_weights(-1)


def test_an_average_that_is_applied_is_not_rounded():
    model = paddle.nn.Linear(2, 2)
    ema, rounding = ExponentialMovingAverage(model, 0.9), BlockFloatingPoint(model)
    before = model.weight.numpy().tobytes()
    with ema.average_parameters(), pytest.raises(RuntimeError, match="restore"):
        rounding.round_weights(1)
    assert model.weight.numpy().tobytes() == before
