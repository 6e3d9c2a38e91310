"""A small config whose run stops itself after a step, with parts of a user's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import paddle

from ppema.checkpoint import Checkpoint

PARTS = '''\
"""What a user might write: a dataset with random changes, and networks."""

import os
import random
import signal

import numpy as np
import paddle


class Images(paddle.io.Dataset):
    class_names = ("a", "b", "c")

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = np.random.RandomState(index).randint(0, 256, (1, 4, 4)).astype("uint8")
        draws = (random.random(), np.random.rand(), paddle.rand([1]).item())
        image[0, 0, :3] = [255 * draw for draw in draws]
        return image, index % 3


class Net(paddle.nn.Layer):
    def __init__(self, width: int = 8):
        super().__init__()
        self.body = paddle.nn.Sequential(
            paddle.nn.Flatten(),
            paddle.nn.Linear(16, width),
            paddle.nn.BatchNorm1D(width),
            paddle.nn.ReLU(),
            paddle.nn.Dropout(0.3),
            paddle.nn.Linear(width, 3),
        )
        self.batches = 0

    def forward(self, image):
        if self.training:
            self.batches += 1
            if self.batches == int(os.environ.get("STOP_AFTER", 0)):
                os.kill(os.getpid(), signal.SIGTERM)
        return self.body(image)


class SameNet(Net):
    pass
'''

AVERAGES = """\
  ema: {name: ExponentialMovingAverage, decay: 0.9, schedule: constant}
  swa: {name: StochasticWeightAverage, start: 50 %}
  power: {name: PowerFunctionEMA}
"""

CONFIG = """\
epoch: 2
log_iter: 4
use_vdl: false
TrainDataset: {name: resumable_parts.Images, count: 30}
EvalDataset: {name: resumable_parts.Images, count: 12}
TrainReader: {batch_size: 5, num_workers: 0}
EvalReader: {batch_size: 12, num_workers: 0}
Model: {name: resumable_parts.Net}
Loss: {name: CrossEntropyLoss}
LearningRate: {base_lr: 0.01, schedulers: [{name: StepDecay, step_size: 4}]}
Optimizer: {name: Adam}
posthoc_every: 25 %
Averages:
"""
FOLDER = Path("output/run")


def write(home, averages=AVERAGES):
    """Write the config, and the module of the user's own classes, into a folder."""
    (home / "run.yml").write_text(CONFIG + averages)
    (home / "resumable_parts.py").write_text(PARTS)


def tensors(folder):
    """Return the bits of every tensor that the finished run in `folder` ends with."""
    final = folder / "model_final"
    found = {}
    for path in sorted([*final.glob("*.pdparams"), final / "optimizer.pdopt"]):
        for name, tensor in paddle.load(str(path)).items():
            # A file of weights has an entry of Paddle's own beside them.
            if paddle.is_tensor(tensor):
                found[f"{path.name}/{name}"] = tensor.numpy().tobytes()
    return found


def records(folder, split):
    """Return the records of a run, without how fast it was."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{**record, "ips": None} for record in lines if record["split"] == split]


def final(folder):
    """Return the checkpoint that a run ends with."""
    return Checkpoint((folder / "model_final").resolve())


def counters(folder, average):
    """Return the counters of an average at the end of a run."""
    return final(folder).read("state.pdstates")["averages"][average]


def copy_tree(source, target):
    shutil.copytree(source, target, symlinks=True)


def contents(folder):
    """Return path -> bytes of all files, and the target of each link."""
    return {
        str(path.relative_to(folder)): path.readlink() if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }
