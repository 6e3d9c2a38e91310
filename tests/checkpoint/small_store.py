"""A store of small checkpoints whose contents tell which run and which step they are of."""

from __future__ import annotations

import paddle

from ppema.checkpoint import Checkpoint, CheckpointStore
from ppema.errors import CheckpointError

NAMES = {
    "model.pdparams": "raw",
    "ema.pdparams": "average",
    "optimizer.pdopt": "optimizer",
    "state.pdstates": "state",
}


def files(step, run=0):
    """Return what a checkpoint of a step is made of, no two files with the same contents."""

    def maker(number):
        value = run * 1e6 + step * 10 + number
        return lambda: {"w": paddle.full([5], value), "b": paddle.arange(7 + number)}

    return {name: (role, maker(number)) for number, (name, role) in enumerate(NAMES.items())}


def save(store, step, run=0):
    """Save a step, with facts as those of a run."""
    return store.save(step, files(step, run), {"epoch": 1, "best": {}, "is_epoch_end": False})


def filled(folder, keep=3, steps=(10, 20, 30)):
    """Return a store with checkpoints in it."""
    store = CheckpointStore(folder, keep)
    for step in steps:
        save(store, step)
    return store


def run_of(checkpoint):
    """Return which run's save a checkpoint holds, every file compared with what was saved."""
    checkpoint.verify()
    run = int(checkpoint.read("model.pdparams")["w"][0]) // 1_000_000
    for name, (_, make) in files(checkpoint.step, run).items():
        found = checkpoint.read(name)
        assert all((found[key] == value).all() for key, value in make().items())
    return run


def whole_steps(store):
    """Return the steps whose checkpoints are whole, newest first."""
    whole = []
    for step in store.steps():
        try:
            Checkpoint(store.path(step)).verify()
        except CheckpointError:
            continue
        whole.append(step)
    return whole
