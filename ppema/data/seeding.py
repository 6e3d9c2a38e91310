"""Randomness of a sample: keyed by seed, epoch and index, whichever process makes it, and when."""

from __future__ import annotations

import contextlib
import hashlib
import random
import struct
from typing import Iterator

import numpy as np


def seed_sample(seed: int, epoch: int, index: int) -> None:
    """Seed `random`, `numpy.random` and Paddle, which its own transforms draw from, for a sample.

    Args:
        seed: of the run, 0 to 2**32 - 1.
        epoch: likewise.
        index: of the sample in its dataset, likewise.
    """
    import paddle

    random.seed(seed << 64 | epoch << 32 | index)
    np.random.seed([seed, epoch, index])
    # Paddle takes one number; neighbours must not give neighbouring ones.
    key = hashlib.blake2b(struct.pack("<3Q", seed, epoch, index), digest_size=8).digest()
    paddle.seed(int.from_bytes(key, "little") >> 1)


def seed_of_worker(seed: int, worker: int) -> int:
    """Return the seed of one of several runs that differ in their order alone, below 2**32.

    Not the sum: the workers of a neighbouring seed must not be the same ones.
    """
    key = hashlib.blake2b(struct.pack("<2Q", seed, worker), digest_size=4).digest()
    return int.from_bytes(key, "little")


@contextlib.contextmanager
def kept_generators() -> Iterator[None]:
    """Put the global generators back as they were: weights and dropout draw from them, too."""
    import paddle

    of_python, of_numpy = random.getstate(), np.random.get_state()
    of_paddle = {d: paddle.get_rng_state(d) for d in {"cpu", paddle.device.get_device()}}
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        for device, state in of_paddle.items():
            paddle.set_rng_state(state, device)
