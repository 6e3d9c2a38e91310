"""Runs on a user's dataset and on image folders, through the tools, as a user starts them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppema import builder
from ppema.errors import ConfigError

REPOSITORY = Path(__file__).parents[2]

MY_DATA = """
import os, random, signal
import numpy as np
import paddle

class Squares(paddle.io.Dataset):
    class_names = ("dark", "bright")

    def __init__(self, count: int, bad: int = -1, noise: float = 0.3):
        self.count, self.bad, self.noise = count, bad, noise

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index == self.bad:
            if os.environ.get("DIE"):
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(f"cannot read square {index}")
        noise = random.random() + np.random.rand(1, 8, 8) + paddle.rand([1]).item()
        return (index % 2 - 0.5 + self.noise * (noise - 1)).astype("float32"), index % 2

class Net(paddle.nn.Layer):
    def __init__(self, num_classes: int = 2):
        super().__init__()
        self.body = paddle.nn.Sequential(paddle.nn.Flatten(), paddle.nn.Linear(64, num_classes))

    def forward(self, image):
        return self.body(image)

class Flat(Net):
    def forward(self, image):
        return paddle.flatten(image, 2)
"""
MY_CONFIG = """
epoch: 2
use_vdl: false
log_iter: 1
TrainDataset: {name: my_data.Squares, count: 70}
EvalDataset: {name: my_data.Squares, count: 20}
TrainReader: {batch_size: 8}
EvalReader: {batch_size: 6}
Model: {name: my_data.Net}
Loss: {name: CrossEntropyLoss}
LearningRate: {base_lr: 0.1}
Optimizer: {name: Adam}
Averages:
  ema: {name: ExponentialMovingAverage, decay: 0.9}
"""


@pytest.fixture
def project(tmp_path, own_modules):
    """Return a folder outside the repository with a user's module and config."""
    (tmp_path / "my_data.py").write_text(MY_DATA)
    (tmp_path / "mine.yml").write_text(MY_CONFIG)
    return tmp_path


def start(folder, tool, *keys, config="mine.yml", flags=(), **variables):
    path = f"{folder}:{REPOSITORY}"
    environment = {**os.environ, "PYTHONPATH": path, "HOME": str(folder), "PPEMA_MIRRORS": ""}
    options = ["-o", *keys] if keys else []
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / f"tools/{tool}.py"), "-c", config, *flags, *options],
        cwd=folder,
        env={**environment, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder, tool, *keys, code=0, **options):
    process = start(folder, tool, *keys, **options)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, (out, err)
    return out, err


def final_bytes(folder, name="mine"):
    final = folder / "output" / name / "model_final"
    return [(final / f).read_bytes() for f in ("model.pdparams", "ema.pdparams")]


def test_a_user_s_dataset_trains_to_the_same_bits_with_any_workers_and_stopped_at_any_step(project):
    out, _ = run(project, "train", "TrainReader.num_workers=0", flags=["--eval"])
    assert "train: my_data.Squares (70 samples)" in out
    expected = final_bytes(project)
    manifest = json.loads((project / "output/mine/model_final/manifest.json").read_text())
    assert manifest["data"]["kind"] == "user"
    assert manifest["data"]["class_names"] == ["dark", "bright"]
    assert manifest["metrics"]["raw"]["top1"] > 0.9
    out, _ = run(project, "eval")
    assert "data: my_data.Squares (20 samples)" in out

    process = start(project, "train", "TrainReader.num_workers=2", flags=["--eval", "--overwrite"])
    for line in process.stdout:
        if "[5/9]" in line:
            process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    found = re.fullmatch(r"stopped by SIGTERM after step (\d+), which is saved; .*\n", err)
    assert 5 <= int(found[1]) < 9
    run(project, "train", "TrainReader.num_workers=1", flags=["--eval", "-r", "auto"])
    assert final_bytes(project) == expected


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_sample_at_fault_ends_the_run_with_one_line(project, num_workers):
    keys = ("TrainDataset.bad=41", f"TrainReader.num_workers={num_workers}")
    _, err = run(project, "train", *keys, code=3)
    assert err == "my_data.Squares (70 samples): sample 41: OSError: cannot read square 41\n"


def test_a_worker_that_is_killed_ends_the_run_with_one_line(project):
    _, err = run(project, "train", "TrainDataset.bad=41", code=3, DIE="1")
    lines = [line for line in err.splitlines() if "dataloader_iter.py" not in line]
    assert len(lines) == 1
    assert re.fullmatch(
        r"my_data.Squares \(70 samples\): the worker process \d+ died \(killed by signal 9\); is "
        r"there too little memory\?",
        lines[0],
    )


def test_a_run_goes_on_with_its_own_data_only(project):
    run(project, "train", "epoch=1")
    _, err = run(project, "train", "TrainDataset.count=60", flags=["-r", "auto"], code=3)
    assert err.startswith("my_data.Squares (60 samples): these are not the data of the run (sha256")
    (project / "digits.yml").write_text(
        f"_BASE_: {REPOSITORY}/configs/lenet_digits.yml\nsave_dir: other\n"
    )
    weights = "weights=output/mine"
    _, err = run(project, "eval", weights, config="digits.yml", code=3)
    assert err == (
        "the run was trained on a dataset of your own, but the config names the embedded digits\n"
    )


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (
            ["Model.num_classes=3"],
            "-o Model.num_classes: Model (my_data.Net) gives [2,3] for 2 images, and the data "
            "have 2 classes: [2,2] is needed",
        ),
        (
            ["TrainDataset.number=3"],
            "-o TrainDataset.number: unknown key 'TrainDataset.number'; known are count, bad, ",
        ),
        (["TrainDataset.count=x"], "-o TrainDataset.count: TrainDataset.count must be a whole"),
        (
            ["TrainDataset.name=my_data.Square"],
            "-o TrainDataset.name: TrainDataset.name: cannot import 'my_data.Square'",
        ),
        (
            ["TrainReader.num_workers=-1"],
            "-o TrainReader.num_workers: TrainReader.num_workers must be 0 or more, got -1",
        ),
    ],
)
def test_a_wrong_word_is_one_line(project, monkeypatch, keys, text):
    monkeypatch.syspath_prepend(str(project))
    with pytest.raises(ConfigError) as caught:
        try_config(project / "mine.yml", keys)
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


def try_config(path, keys):
    config = builder.read_config(str(path), keys)
    data = builder.load_data(config, None)
    builder.try_one_batch(config, builder.make_trainer(config, data), data)


def test_a_dataset_need_not_say_how_many_classes_it_has(project, monkeypatch):
    monkeypatch.syspath_prepend(str(project))
    code = MY_DATA.replace("class_names =", "others =")
    (project / "nameless_data.py").write_text(code)
    path = project / "nameless.yml"
    path.write_text(MY_CONFIG.replace("my_data.Squares", "nameless_data.Squares"))
    try_config(path, [])
    with pytest.raises(ConfigError) as caught:
        try_config(path, ["Model.name=my_data.Flat"])
    assert str(caught.value) == (
        f"{path}:9: Model (my_data.Flat) gives [2,1,64] for 2 images: [2,number of classes] is "
        "needed"
    )


def test_each_reader_has_its_own_workers(project, monkeypatch):
    monkeypatch.syspath_prepend(str(project))
    keys = ["TrainReader.num_workers=0", "EvalReader.num_workers=3"]
    config = builder.read_config(str(project / "mine.yml"), keys)
    data = builder.load_data(config, None)
    assert builder.make_trainer(config, data).reader.num_workers == 0
    assert builder.make_eval_reader(config, data.eval).num_workers == 3
    config = builder.read_config(str(project / "mine.yml"), [])
    assert builder.make_trainer(config, data).reader.num_workers == 1


def test_workers_are_of_no_use_to_data_in_memory_and_a_line_says_so(tmp_path):
    (tmp_path / "digits.yml").write_text(f"_BASE_: {REPOSITORY}/configs/lenet_digits.yml\n")
    keys = ("epoch=1", "TrainReader.batch_size=721", "use_vdl=false", "TrainReader.num_workers=2")
    out, _ = run(tmp_path, "train", *keys, config="digits.yml")
    assert "TrainReader.num_workers: 2 is of no use, since these data are in memory" in out
    assert "EvalReader.num_workers" not in out


def test_an_image_folder_trains_and_its_run_goes_on_with_the_same_images_only(tmp_path):
    for label, name in enumerate(("ant", "bee")):
        for number in range(10):
            path = tmp_path / "pictures" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((9, 9, 3), 200 * label + number, np.uint8)
            Image.fromarray(pixels).save(path)
    folder = f"dataset_dir={tmp_path / 'pictures'}"
    keys = ["epoch=1", "use_vdl=false", f"TrainDataset.{folder}", f"EvalDataset.{folder}"]
    keys += ["TrainReader.batch_size=4", "EvalReader.batch_size=4", "Model.num_classes=2"]
    config = str(REPOSITORY / "configs/imagefolder.yml")
    out, _ = run(tmp_path, "train", *keys, config=config, flags=["--eval"])
    assert "train: train images (16 in 2 classes) from " in out
    assert "eval: test images (4 in 2 classes) from " in out
    out, _ = run(tmp_path, "eval", f"EvalDataset.{folder}", "Model.num_classes=2", config=config)
    assert "data: test images (4 in 2 classes) from " in out
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "pictures/ant/0.png")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "pictures/ant/1.png")
    _, err = run(tmp_path, "train", *keys, "epoch=2", config=config, code=3, flags=["-r", "auto"])
    assert "these are not the data of the run" in err
