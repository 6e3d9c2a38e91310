"""Weights of few bits: block floating point with stochastic rounding, the LP of SWALP."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import paddle

from . import kernels
from .decay import ArgumentError
from .swap import is_any_exchanged
from .views import flat_view, is_viewable

Block = Literal["row", "tensor"]

_MIN_BITS, _MAX_BITS = 2, 16
# What 8 bits hold, but 127: weights of up to -2 ** 128 would belong to it, and float32 ends there.
_MIN_EXPONENT, _MAX_EXPONENT = -128, 126
# Weights at a time: even, as a word of the generator makes two; larger arrays of float64 would be
# taken from the system and given back at each step, which costs more than the arithmetic.
_PIECE = 8192
_MAX_SEED = 2**32 - 1


class BlockFloatingPoint:
    """Round the weights of a model to integers of few bits times a power of two for each block.

    The weights of a block share the exponent ``E = floor(log2(max |w|))``, kept in -128 to 126,
    and with it the spacing ``s = 2 ** (E - bits + 2)``. Each becomes ``s * floor(w / s + u)`` with
    u uniform in [0, 1), so that its mean is w; an integer past ``2 ** (bits - 1) - 1`` becomes
    that. Call `round_weights` after each `optimizer.step()`, before averages are updated.

    The random numbers are keyed by seed, step and the place of the tensor in the model. A run that
    is resumed and every process of one that is distributed round to the same bits, whatever else
    draws random numbers.

    Args:
        model: a paddle.nn.Layer; parameters that train are rounded, frozen ones and BN statistics
            are not.
        bits: of each weight's integer, its sign included, 2 to 16.
        block: what shares an exponent: each row of a tensor's first axis (a tensor of one axis is
            one row), or each tensor.
        seed: of the rounding, 0 to 2**32 - 1.

    Raises:
        ArgumentError: an argument out of range.
        TypeError: a parameter that trains is neither float32 nor float64.
        ValueError: no parameter trains.
    Source: Yang et al., SWALP, https://arxiv.org/abs/1904.11943, section 5: row is its small block,
        tensor its big block.
    """

    def __init__(self, model: Any, bits: int = 8, block: Block = "row", seed: int = 0) -> None:
        is_whole = isinstance(bits, int) and not isinstance(bits, bool)
        if not is_whole or not _MIN_BITS <= bits <= _MAX_BITS:
            raise ArgumentError("bits", f"a whole number from {_MIN_BITS} to {_MAX_BITS}", bits)
        if block not in get_args(Block):
            raise ArgumentError("block", f"one of {', '.join(get_args(Block))}", block)
        if not 0 <= seed <= _MAX_SEED:
            raise ArgumentError("seed", f"in [0, {_MAX_SEED}]", seed)
        self._model, self._bits, self._block, self._seed = model, bits, block, seed
        if not self._trained():
            raise ValueError("nothing to round: the model has no parameter that trains")

    def __repr__(self) -> str:
        return f"BlockFloatingPoint(bits={self._bits}, block={self._block!r})"

    def round_weights(self, step: int) -> None:
        """Round every parameter that trains, in place.

        Args:
            step: the number of the optimizer step, from 0 or 1; the same again rounds alike.

        Raises:
            ArgumentError: step is below 0.
            FloatingPointError: a parameter holds NaN or Inf; it and those after it stay.
            RuntimeError: an average is applied at the moment.
            TypeError: see the class.
        """
        if step < 0:
            raise ArgumentError("step", "0 or more", step)
        trained = self._trained()
        if is_any_exchanged(parameter for _, _, parameter in trained):
            raise RuntimeError(
                "an average is applied, which must not be rounded; call restore() first"
            )
        # Averages may still be reading the weights.
        kernels.finish_background()
        for index, name, parameter in trained:
            is_in_place = is_viewable(parameter)
            weights = flat_view(parameter) if is_in_place else parameter.numpy().flatten()
            if not weights.size:
                continue
            num_blocks = self._num_blocks(parameter)
            largest = np.abs(weights.reshape(num_blocks, -1)).max(axis=1)
            if not np.isfinite(largest).all():
                raise FloatingPointError(f"{name} holds NaN or Inf and cannot be rounded")
            words = np.random.Philox(key=[self._seed, step], counter=[0, 0, 0, index])
            _round_in_place(weights, block_spacing(largest, self._bits), self._bits, words)
            if is_in_place:
                # A backward pass that saved the weight must fail, not use the other one.
                parameter._bump_inplace_version()
            else:
                parameter.set_value(weights.reshape(parameter.shape))

    def _trained(self) -> list[tuple[int, str, Any]]:
        """Return place, name and tensor of each parameter that trains at the moment."""
        # Counted with those that do not, so that freezing one leaves the others' numbers alone.
        found = [
            (index, name, parameter)
            for index, (name, parameter) in enumerate(self._model.named_parameters())
            if not parameter.stop_gradient
        ]
        for _, name, parameter in found:
            if parameter.dtype not in (paddle.float32, paddle.float64):
                dtype = str(parameter.dtype).rpartition(".")[2]
                raise TypeError(
                    f"{name} is {dtype}; weights are rounded in a model of float32 or float64"
                )
        return found

    def _num_blocks(self, parameter: Any) -> int:
        shape = parameter.shape
        return int(shape[0]) if self._block == "row" and len(shape) > 1 else 1


def block_spacing(largest: Any, bits: int) -> Any:
    """Return the spacing of each block, float64, from the largest magnitude in it.

    A block of zeros has one too, which leaves them zero.
    """
    # frexp is exact, where a logarithm may round up to the next power of two.
    exponents = np.clip(np.frexp(largest)[1] - 1, _MIN_EXPONENT, _MAX_EXPONENT)
    return np.ldexp(1.0, exponents - (bits - 2))


def _round_in_place(weights: Any, spacing: Any, bits: int, words: Any) -> None:
    """Round flat weights, whose blocks are of one length, by the random words of a generator.

    In float64, where a weight of 24 digits plus one of the 2 ** 32 values of u keeps its floor:
    what can be represented stays as it is, always.
    """
    blocks = weights.reshape(len(spacing), -1)
    # Of one block, each weight is a line of its own, so that a large one goes in pieces, too.
    lines = blocks if len(spacing) > 1 else blocks.T
    num_lines = 2 * max(1, _PIECE // 2 // lines.shape[1])
    bound = 2.0 ** (bits - 1)
    for first in range(0, len(lines), num_lines):
        piece = lines[first : first + num_lines]
        spaced = spacing[first : first + num_lines, None] if len(spacing) > 1 else spacing
        raw = words.random_raw((piece.size + 1) // 2).view(np.uint32)[: piece.size]
        integers = raw.reshape(piece.shape) * 2.0**-32
        integers += piece / spaced
        np.floor(integers, out=integers)
        np.clip(integers, -bound, bound - 1, out=integers)
        np.multiply(integers, spaced, out=piece, casting="same_kind")
