"""The writer of weight files: the bytes of paddle.save, and what the manifest says of them."""

from __future__ import annotations

import collections
import hashlib

import numpy as np
import paddle
import pytest
from networks import Oddities

from ppema.checkpoint.weight_writer import write_weight_file


def arrays(value):
    if isinstance(value, dict):
        return {key: arrays(item) for key, item in value.items()}
    if isinstance(value, list):
        return [arrays(item) for item in value]
    return value.numpy() if paddle.is_tensor(value) else value


def assert_written_as_by_paddle(tensors, expected, folder):
    paddle.save(expected, str(folder / "paddle"))
    write_weight_file(folder / "ours", tensors)
    assert (folder / "ours").read_bytes() == (folder / "paddle").read_bytes()


def of_each_dtype():
    dtypes = ("float16", "bfloat16", "float32", "float64", "int64", "uint8", "bool", "complex64")
    return {dtype: paddle.arange(6).reshape([2, 3]).astype(dtype) for dtype in dtypes}


def around_what_pickle_frames():
    # Pickle writes what has 64 KiB and more past its frames.
    return {str(n): paddle.arange(n, dtype="float32") for n in (16383, 16384, 16385, 70000)}


def not_contiguous():
    whole = paddle.arange(12, dtype="float32").reshape([3, 4])
    return {"transposed": whole.t(), "strided": whole[:, ::2], "whole": whole}


@pytest.mark.parametrize(
    "make",
    [
        lambda: Oddities().state_dict(),
        of_each_dtype,
        around_what_pickle_frames,
        not_contiguous,
        lambda: {"first": (w := paddle.ones([2])), "tied": w, "scalar": paddle.zeros([])},
        # Pickle writes the items of a dict in batches of a thousand.
        lambda: {f"w{n}": paddle.full([1], float(n)) for n in range(1000)},
        lambda: {f"w{n}": paddle.full([1], float(n)) for n in range(1001)},
        lambda: collections.OrderedDict(b=paddle.ones([2]), a=paddle.zeros([3])),
        lambda: {"step": {"value": 3, "rate": 0.1}, "names": {"a": None, "b": "x"}},
        lambda: {"step": 3, "list": [1, (2.5, "x")], "array": np.arange(4.0)[::2]},
    ],
)
def test_the_bytes_are_those_of_paddle_save(tmp_path, make):
    tensors = make()
    assert_written_as_by_paddle(tensors, tensors, tmp_path)


@pytest.mark.filterwarnings("ignore:The input state dict is empty")
def test_a_state_with_nothing_in_it_is_written_as_by_paddle(tmp_path):
    assert_written_as_by_paddle({}, {}, tmp_path)


def test_nested_tensors_are_written_as_their_arrays(tmp_path):
    weight = paddle.rand([3, 4])
    state = {
        "shadow": {"w": weight, "half": weight.astype("bfloat16")},
        "snapshots": [{"w": weight}, {"w": weight + 1}],
        "t": 3,
    }
    assert_written_as_by_paddle(state, arrays(state), tmp_path)
    # Without a plain value at the top Paddle adds its table of names, which is empty here.
    nested = {"averages": {"ema": {"w": weight}}, "progress": {"step": 3}}
    assert_written_as_by_paddle(nested, arrays(nested), tmp_path)


def test_size_and_digest_are_those_of_the_file(tmp_path):
    written = write_weight_file(tmp_path / "w", {**around_what_pickle_frames(), **of_each_dtype()})
    content = (tmp_path / "w").read_bytes()
    assert written.size == len(content)
    assert written.sha256 == hashlib.sha256(content).hexdigest()
