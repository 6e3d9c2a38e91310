"""The random number generators of a run, as JSON, exact across processes."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

import numpy as np
import paddle

from ..errors import CheckpointError


def seed_everything(seed: int) -> None:
    """Start Paddle's, NumPy's and Python's generators from `seed`."""
    paddle.seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def branch_off(of_first: str, rank: int) -> None:
    """Start the generators of another rank, by its number, from the state of the first rank's."""
    digest = hashlib.sha256(f"{rank} {of_first}".encode()).digest()
    seed_everything(int.from_bytes(digest[:4], "big"))


def rng_to_json() -> str:
    """Return the state of all three generators."""
    numpy_state: Any = np.random.get_state(legacy=True)
    name, keys, position, has_gauss, gauss = numpy_state
    version, internal, next_gauss = random.getstate()
    state = {
        "paddle": [list(generator.__getstate__()) for generator in paddle.get_rng_state()],
        "numpy": [name, keys.tolist(), position, has_gauss, gauss],
        "python": [version, list(internal), next_gauss],
    }
    return json.dumps(state)


def rng_from_json(text: str) -> None:
    """Set all three generators.

    Raises:
        CheckpointError: Paddle took the state but does not give the same back (it accepts a
            malformed state silently and goes on with another stream).
    """
    state = json.loads(text)
    state_class: Any = type(paddle.get_rng_state()[0])
    generators = []
    for fields in state["paddle"]:
        generator = state_class.__new__(state_class)
        generator.__setstate__(tuple(fields))
        generators.append(generator)
    paddle.set_rng_state(generators)
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))
    version, internal, next_gauss = state["python"]
    random.setstate((version, tuple(internal), next_gauss))
    if json.loads(rng_to_json()) != state:
        raise CheckpointError("the state of the random number generators cannot be restored")
