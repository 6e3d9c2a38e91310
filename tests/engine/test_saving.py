"""What a checkpoint's files hold, to the byte, and how much memory it takes to write them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from networks import Oddities, TinyBN
from trainers import DropoutNet, make_reader, make_trainer

from ppema import ExponentialMovingAverage, PowerFunctionEMA
from ppema.checkpoint import CheckpointStore, structured_optimizer_state
from ppema.engine.run_state import checkpoint_files


def trained(network):
    np.random.seed(0)
    trainer = make_trainer(make_reader(), network=network)
    model, averages = trainer.model, trainer.averages
    averages["power"] = PowerFunctionEMA(model, sigma_rel=0.1)
    averages["weights"] = ExponentialMovingAverage(model, 0.9, buffers="copy", debias=True)
    averages["some"] = ExponentialMovingAverage(model, 0.9, exclude=["*.bias"])
    trainer.train()
    trainer.refresh_averages()
    return trainer


def arrays(value):
    if isinstance(value, dict):
        return {key: arrays(item) for key, item in value.items()}
    if isinstance(value, list):
        return [arrays(item) for item in value]
    return value.numpy() if paddle.is_tensor(value) else value


@pytest.mark.parametrize("network", [DropoutNet, TinyBN, Oddities])
def test_the_files_of_a_checkpoint_are_what_paddle_save_writes(tmp_path, network):
    trainer = trained(network)
    if network is Oddities:
        # A float64 average's own state gives an empty weight the wrong dtype.
        del trainer.averages["wide"]
    path = CheckpointStore(tmp_path / "run", 1).save(1, checkpoint_files(trainer), {})
    expected = {
        "model.pdparams": trainer.model.state_dict(),
        "optimizer.pdopt": structured_optimizer_state(trainer.optimizer, trainer.model),
        "state.pdstates": arrays(checkpoint_files(trainer)["state.pdstates"][1]()),
    }
    for name, average in trainer.averages.items():
        expected[f"{name}.pdparams"] = average.averaged_state_dict()
    for name, contents in expected.items():
        paddle.save(contents, str(tmp_path / name))
        assert (path / name).read_bytes() == (tmp_path / name).read_bytes(), name
    assert {entry.name for entry in path.iterdir()} == {*expected, "manifest.json"}


def test_only_shadows_that_no_weight_file_holds_are_written_beside_it():
    trainer = trained(DropoutNet)
    state = checkpoint_files(trainer)["state.pdstates"][1]()
    shadows = {name: set(average["shadow"]) for name, average in state["averages"].items()}
    assert shadows.pop("wide") == set(trainer.averages["wide"].state_dict()["shadow"])
    assert shadows == {name: set() for name in shadows}


def test_an_average_with_stale_statistics_is_written_as_such():
    trainer = make_trainer(make_reader(), num_epochs=1)
    trainer.train()
    before = checkpoint_files(trainer)
    trainer.refresh_averages()
    after = checkpoint_files(trainer)
    roles = {name: (role, after[name][0]) for name, (role, _) in before.items()}
    assert roles.pop("recomputed.pdparams") == ("stale average", "average")
    assert [name for name, (old, new) in roles.items() if old != new] == []


MEASURE = """
import re, sys
import paddle
from trainers import make_reader
from ppema import ExponentialMovingAverage
from ppema.checkpoint import CheckpointStore
from ppema.engine.run_state import checkpoint_files
from ppema.engine.trainer import Trainer

def kib(field):
    return int(re.search(field + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

def save(width, step):
    model = paddle.nn.Sequential(*[paddle.nn.Linear(width, width) for _ in range(4)])
    optimizer = paddle.optimizer.Momentum(0.1, parameters=model.parameters())
    averages = {f"ema{n}": ExponentialMovingAverage(model, 0.9) for n in range(2)}
    options = {"num_epochs": 1}
    trainer = Trainer(model, None, optimizer, make_reader(), averages, **options)
    model(paddle.ones([1, width])).sum().backward()
    optimizer.step()
    optimizer.clear_grad()
    for average in averages.values():
        average.update()
    before = kib("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")
    path = CheckpointStore(sys.argv[1], 1).save(step, checkpoint_files(trainer), {})
    largest = max(entry.stat().st_size for entry in path.iterdir())
    return (kib("VmHWM") - before) * 1024 / largest

save(8, 1)
print(save(1500, 2))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_saving_needs_no_more_memory_than_the_largest_file(tmp_path):
    tests = Path(__file__).resolve().parents[1]
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURE, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}"},
        capture_output=True,
        text=True,
        check=True,
    )
    # paddle.save takes two, and a copy of the averages makes it three.
    assert float(found.stdout) < 1.3
