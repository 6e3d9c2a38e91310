"""The restricted reader: all that is genuine loads as paddle.load has it, nothing else does."""

from __future__ import annotations

import collections
import os
import pickle
import warnings

import numpy as np
import paddle
import pytest
from networks import Oddities

from ppema.checkpoint.weight_file import read_weight_file, write_weight_file
from ppema.errors import CheckpointError

pytestmark = pytest.mark.reliability


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


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("num_weights", [1, 40, 16_383, 70_000])
def test_contents_of_any_length_read_as_paddle_load_reads_them(tmp_path, protocol, num_weights):
    # Longer than 64 KiB they stay in the file at first; protocol 2 writes them as text.
    path = tmp_path / "w.pdparams"
    values = np.random.RandomState(0).randint(0, 256, num_weights * 4).astype("uint8")
    paddle.save({"w": paddle.to_tensor(values)}, str(path), protocol=protocol)
    assert_same(read_weight_file(path), paddle.load(str(path)))


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_tensors_beside_other_values_read_as_paddle_load_reads_them(tmp_path, protocol):
    # Paddle writes these as pairs of a name and an array.
    path = tmp_path / "s.pdstates"
    state = {"step": 3, "w": paddle.ones([2]), "deep": [{"v": paddle.zeros([1, 2])}]}
    paddle.save(state, str(path), protocol=protocol)
    assert_same(read_weight_file(path), paddle.load(str(path)))


def in_parts(array, names):
    """Return what paddle.save makes of a tensor above a gigabyte in protocols 2 and 3."""
    parts = dict(zip(names, np.array_split(array.flatten(), len(names))))
    return {
        "first": np.ones(2, "float32"),
        **parts,
        "UnpackBigParamInfor@@": {"w": {"OriginShape": array.shape, "slices": list(names)}},
    }


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_tensor_in_parts_is_joined_as_paddle_load_joins_it(tmp_path, protocol):
    path = tmp_path / "w.pdparams"
    array = np.random.RandomState(0).rand(7, 11).astype("float32")
    stored = in_parts(array, ["w@@.0", "w@@.1", "w@@.2"])
    path.write_bytes(pickle.dumps(stored, protocol=protocol))
    assert_same(read_weight_file(path), paddle.load(str(path)))
    assert read_weight_file(path)["w"].numpy().tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "entry",
    [
        *({}, None, {"slices": ["w@@.0"]}, {"slices": [], "OriginShape": ()}),
        {"slices": ["w@@.0", "w@@.0"], "OriginShape": (4,)},
        {"slices": ["w@@.0", "none"], "OriginShape": (2,)},
        {"slices": [["w@@.0"]], "OriginShape": (2,)},
        {"slices": ["w@@.0", "w@@.1"], "OriginShape": (3, 2)},
        {"slices": ["w@@.0", "w@@.1"], "OriginShape": (-2, -2)},
        {"slices": ["w@@.0", "other"], "OriginShape": (4,)},
    ],
)
def test_parts_that_are_not_those_of_a_whole_are_refused(tmp_path, entry):
    path = tmp_path / "w.pdparams"
    stored = in_parts(np.ones(4, "float32"), ["w@@.0", "w@@.1"])
    stored["other"] = np.ones(2, "float64")
    stored["UnpackBigParamInfor@@"] = {"w": entry}
    path.write_bytes(pickle.dumps(stored, protocol=2))
    with pytest.raises(CheckpointError, match="is not a Paddle weight file"):
        read_weight_file(path)


def test_another_byte_order_is_turned(tmp_path):
    path = tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps({"w": np.arange(3.0, dtype=">f4")}, protocol=4))
    assert read_weight_file(path)["w"].tolist() == [0.0, 1.0, 2.0]


def test_a_file_of_python_2_reads_as_paddle_load_reads_it(tmp_path):
    # Python 2 wrote bytes as text (U, T), and counted its memo from 1.
    path = tmp_path / "w.pdparams"
    content = np.array([1.5, -2.0], "float32").tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87Rq\x04"
        b"(K\x01K\x02\x85cnumpy\ndtype\nq\x05U\x02f4K\x00K\x01\x87Rq\x06"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    )
    contents = b"T" + len(content).to_bytes(4, "little") + content
    path.write_bytes(b"\x80\x02}q\x01U\x01w" + array + contents + b"tbs.")
    with warnings.catch_warnings():
        # numpy warns of its old module's name.
        warnings.simplefilter("ignore")
        expected = paddle.load(str(path))
    assert_same(read_weight_file(path), expected)


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
        (pickle.dumps([1, 2], protocol=4), "no table of names"),
        (pickle.dumps({"w": {1, 2}}, protocol=4), "the pickle opcode EMPTY_SET, which none has"),
        (pickle.dumps({"w": np.array([None])}, protocol=4), "is not a Paddle weight file"),
        (pickle.dumps({"w": np.array(["x"])}, protocol=4), "is not a Paddle weight file"),
        (pickle.dumps({"w": np.ones(300)}, protocol=4)[:-500], "is not a Paddle weight file"),
        (pickle.dumps({(1, 2): 3}, protocol=4), "a key of type tuple"),
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
    path.write_bytes(pickle.dumps({"w": shared_lists(60)}, protocol=4))
    assert path.stat().st_size < 1000
    with pytest.raises(CheckpointError, match="it grows when it is read"):
        read_weight_file(path)


def test_an_array_of_too_many_dimensions_is_refused(tmp_path):
    path = tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps({"w": np.zeros([1] * 12)}, protocol=4))
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
