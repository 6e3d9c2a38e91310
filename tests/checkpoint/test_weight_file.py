"""The restricted reader: all that is genuine loads as paddle.load has it, nothing else does."""

from __future__ import annotations

import collections
import os
import pickle

import numpy as np
import paddle
import pytest
from networks import Oddities

from ppema.checkpoint.weight_file import read_weight_file, write_weight_file
from ppema.errors import CheckpointError


def assert_same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for left, right in zip(found, expected):
            assert_same(left, right)
    elif paddle.is_tensor(expected):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.numpy().tobytes() == expected.numpy().tobytes()
    else:
        assert found == expected


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int64", "bool"])
def test_genuine_files_read_as_paddle_load_reads_them(tmp_path, protocol, dtype):
    path = tmp_path / "w.pdparams"
    tensors = {
        "matrix": paddle.arange(6).reshape([2, 3]).astype(dtype),
        "scalar": paddle.ones([]).astype(dtype),
        "empty": paddle.zeros([0, 3]).astype(dtype),
    }
    paddle.save(tensors, str(path), protocol=protocol)
    assert_same(read_weight_file(path), paddle.load(str(path)))


def test_a_model_reads_as_paddle_load_reads_it(tmp_path):
    path = tmp_path / "w.pdparams"
    write_weight_file(path, Oddities().state_dict())
    assert_same(read_weight_file(path), paddle.load(str(path)))


@pytest.mark.parametrize("protocol", [2, 4])
def test_nested_values_come_back(tmp_path, protocol):
    path = tmp_path / "s.pdstates"
    values = {
        "counters": {"step": 3, "rate": 0.1, "name": "ema", "flag": True, "none": None},
        "list": [1, (2.5, "x")],
        "array": {"a": np.arange(4.0)[::2], "fortran": np.asfortranarray(np.ones((2, 3)))},
        "ordered": collections.OrderedDict(k=1),
    }
    paddle.save(values, str(path), protocol=protocol)
    read = read_weight_file(path)
    assert read["counters"] == values["counters"]
    assert read["list"] == [1, (2.5, "x")]
    assert read["array"]["a"].tolist() == [0.0, 2.0]
    assert read["array"]["fortran"].shape == [2, 3]
    assert read["ordered"] == {"k": 1}


class Attack:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "argument", "named"),
    [
        (os.system, "touch {}", "posix.system"),
        (eval, "open('{}', 'w')", "builtins.eval"),
        (exec, "open('{}', 'w')", "builtins.exec"),
        (open, "{}", "_?io.open"),
        (pickle.loads, b"N.", "_pickle.loads"),
        (getattr, "x", "builtins.getattr"),
    ],
)
def test_a_file_that_asks_for_code_is_refused_and_runs_nothing(tmp_path, function, argument, named):
    target = tmp_path / "ran"
    if isinstance(argument, str):
        argument = argument.format(target)
    path = tmp_path / "evil.pdparams"
    path.write_bytes(pickle.dumps({"w": Attack(function, argument)}, protocol=4))
    with pytest.raises(CheckpointError, match=f"asks to import {named}, which no checkpoint may"):
        read_weight_file(path)
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04rest", "a zip archive, as PyTorch writes"),
        (b"\x1f\x8b\x08rest", "gzip-compressed"),
        (b"hello", "is not a Paddle weight file"),
        (pickle.dumps([1, 2]), "no table of names"),
        (pickle.dumps({"w": {1, 2}}), "is damaged"),
        (pickle.dumps({"w": np.array([None])}), "is not a Paddle weight file"),
        (pickle.dumps({"w": np.array(["x"])}), "is not a Paddle weight file"),
        (pickle.dumps({"w": np.ones(300)})[:-500], "is not a Paddle weight file"),
        (pickle.dumps({(1, 2): 3}), "a key of type tuple"),
    ],
)
def test_what_is_no_weight_file_is_said_in_one_line(tmp_path, content, message):
    path = tmp_path / "w.pdparams"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_weight_file(path)
    assert "\n" not in str(caught.value)


def shared_lists(depth):
    value = [0.0]
    for _ in range(depth):
        value = [value, value]
    return value


def test_a_small_file_cannot_become_a_large_one(tmp_path):
    path = tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps({"w": shared_lists(60)}))
    assert path.stat().st_size < 1000
    assert len(read_weight_file(path)["w"]) == 2


def test_an_array_of_too_many_dimensions_is_refused(tmp_path):
    path = tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps({"w": np.zeros([1] * 12)}))
    with pytest.raises(CheckpointError, match="an array of 12 dimensions"):
        read_weight_file(path)


def test_a_file_cannot_leave_state_behind_for_the_next(tmp_path):
    evil, good = tmp_path / "evil.pdparams", tmp_path / "good.pdparams"
    # BUILD on what numpy's _reconstruct is answered with, with a state of (None, {name: 1}).
    name = b"cnumpy.core.multiarray\n_reconstruct\n"
    state = b"N}X\x0c\x00\x00\x00__defaults__K\x01s\x86"
    evil.write_bytes(b"\x80\x02" + name + state + b"b.")
    with pytest.raises(CheckpointError, match="a function with state"):
        read_weight_file(evil)
    paddle.save({"w": paddle.ones([2])}, str(good))
    assert read_weight_file(good)["w"].tolist() == [1.0, 1.0]


def test_a_folder_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="is a directory, not a Paddle weight file"):
        read_weight_file(tmp_path)
    with pytest.raises(CheckpointError, match=r"none\.pdparams: No such file"):
        read_weight_file(tmp_path / "none.pdparams")
