"""Mutated weight files are a load or a CheckpointError, quickly (P4)."""

from __future__ import annotations

import pickle
import random
import time

import numpy as np
import paddle
import pytest
from hostile import CASES
from torture_record import pending, recorded

from ppema.checkpoint.weight_file import read_weight_file
from ppema.errors import CheckpointError

SUITE = "weight file fuzz"
CASES_PER_SEED = 500
# What one file may take (P4).
LIMIT_S = 2.0
# What a mutation puts in: opcodes with the lengths, numbers and names that go with them.
TOKENS = [
    *(bytes([code]) for code in range(256)),
    *(b"\xff\xff\xff\xff", b"\xff" * 8, b"\x00\x00\x00\x80", b"\x00" * 8, b"q\x00h\x00\x86" * 30),
    *(
        b"cposix\nsystem\n",
        b"X\x05\x00\x00\x00posix",
        b"\x8c\x06system\x93",
        b"(((((",
        b"]q\x00h\x00a",
    ),
    *(b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"c_codecs\nencode\n", b"X\x02\x00\x00\x00f4"),
    *(b"X\x15\x00\x00\x00UnpackBigParamInfor@@", b"\x8a\x0a" + b"\xff" * 9 + b"\x7f", b"K\x00\x85"),
]


def genuine(protocol):
    random_state = np.random.RandomState(0)
    state = {
        "features.0.weight": random_state.rand(3, 2).astype("float32"),
        "scalar": np.array(1.5),
        "empty": np.zeros((0, 3), "int64"),
        "nested": {"step": 3, "list": [1, (2.5, "x", None)], "flag": True},
        "b@@.0": np.ones(2, "float16"),
        "UnpackBigParamInfor@@": {"b": {"OriginShape": (2, 1), "slices": ["b@@.0"]}},
        "StructuredToParameterName@@": {"features.0.weight": "conv2d_0.w_0"},
    }
    return pickle.dumps(state, protocol=protocol)


SOURCES = [*map(genuine, (2, 3, 4)), *(case for case in CASES.values() if len(case) < 2000)]


def mutate(generator, content):
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        at = generator.randrange(len(content) + 1)
        action = generator.randrange(6)
        if action == 0 and at < len(content):
            flipped = content[at] ^ (1 << generator.randrange(8))
            content = content[:at] + bytes([flipped]) + content[at + 1 :]
        elif action == 1:
            content = content[:at] + generator.choice(TOKENS) + content[at:]
        elif action == 2:
            content = content[:at] + content[at + generator.randint(1, 20) :]
        elif action == 3:
            end = at + generator.randint(1, 60)
            content = content[:end] + content[at:end] * generator.randint(1, 3) + content[end:]
        elif action == 4:
            other = generator.choice(SOURCES)
            start = generator.randrange(len(other) + 1)
            content = content[:at] + other[start : start + generator.randint(1, 200)] + content[at:]
        else:
            # Only half of all cuts, as most of what is cut is refused for that alone.
            content = content[:at] if generator.random() < 0.5 else content
    return content


def run_seed(path, seed, num_cases):
    """Return how many of the files loaded, and the longest that one took."""
    generator = random.Random(seed)
    num_loaded, slowest_s = 0, 0.0
    for _ in range(num_cases):
        # Half of them are mutations of genuine files.
        sources = SOURCES[:3] if generator.random() < 0.5 else SOURCES
        content = mutate(generator, generator.choice(sources))
        path.write_bytes(content)
        started = time.process_time()
        try:
            state, message = read_weight_file(path), ""
            num_loaded += 1
        except CheckpointError as error:
            state, message = {}, str(error)
        assert isinstance(state, dict), content
        assert message.isprintable(), content
        slowest_s = max(slowest_s, time.process_time() - started)
    return num_loaded, slowest_s


def test_some_mutations(tmp_path):
    num_loaded, slowest_s = run_seed(tmp_path / "w.pdparams", seed=0, num_cases=400)
    assert slowest_s < LIMIT_S
    # Mutations that none survives would try only the first check.
    assert num_loaded > 10


@pytest.mark.torture
def test_twenty_thousand_mutations(tmp_path):
    for seed in pending(SUITE, range(1, 41)):
        with recorded(SUITE, seed) as figures:
            num_loaded, slowest_s = run_seed(tmp_path / "w.pdparams", seed, CASES_PER_SEED)
            figures.update(files=CASES_PER_SEED, loaded=num_loaded, slowest_s=round(slowest_s, 4))
            assert slowest_s < LIMIT_S


def test_the_files_that_are_mutated_load(tmp_path):
    path = tmp_path / "w.pdparams"
    for content in SOURCES[:3]:
        path.write_bytes(content)
        state = read_weight_file(path)
        assert state["b"].shape == [2, 1]
        assert paddle.is_tensor(state["scalar"])
