"""What docs/models.md says to write and to type works, in its order, on the digits."""

from __future__ import annotations

import logging
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import paddle
import pytest
from in_process import REPOSITORY

from ppema import builder
from ppema.schedules import SCHEDULERS

PAGE = (REPOSITORY / "docs/models.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.S)
COMMANDS = [line for language, text in BLOCKS if language == "bash" for line in text.splitlines()]
(MODULE,) = (text for language, text in BLOCKS if language == "python")
# As typed, but for runs that take a second.
SHORT = ["epoch=1", "TrainReader.batch_size=512", "use_vdl=false"]


def test_every_block_is_of_a_kind_that_is_tested_here():
    assert {language for language, _ in BLOCKS} == {"bash", "python", "yaml"}


@pytest.mark.parametrize("text", [text for language, text in BLOCKS if language == "yaml"])
def test_each_yaml_block_is_a_config(text, tmp_path):
    path = tmp_path / "run.yml"
    path.write_text(f"_BASE_: {REPOSITORY}/configs/lenet_digits.yml\n{text}")
    builder.check(builder.read_config(str(path), []))


def test_each_entry_from_paddledetection_is_one(tmp_path):
    rows = re.findall(r"\| `(\{name: .*?\})` \|", PAGE)
    assert len(rows) == 3
    path = tmp_path / "run.yml"
    for row in rows:
        path.write_text(
            f"_BASE_: {REPOSITORY}/configs/lenet_digits.yml\nepoch: 12\n"
            f"LearningRate: {{base_lr: 0.1, schedulers: [{row}]}}\n"
        )
        builder.check(builder.read_config(str(path), []))


def test_the_schedules_of_the_table_are_there():
    (section,) = re.findall(r"^## Schedules$(.*?)^## ", PAGE, re.M | re.S)
    names = set(re.findall(r"^\| `(\w+)` \| ", section, re.M))
    assert len(names) == 6
    assert names <= set(SCHEDULERS)


def test_a_network_in_a_file_outside_trains_by_its_import_path(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/my_nets.py").write_text(MODULE)
    for name in ("tools", "configs"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    command = COMMANDS[0].replace(".venv/bin/python", sys.executable)
    # As if ppema were installed.
    command = command.replace("PYTHONPATH=mine", f"PYTHONPATH=mine:{REPOSITORY}")
    shell = ["bash", "-c", f"{command} {' '.join(SHORT)}"]
    environment = {**os.environ, "HOME": str(tmp_path), "PPEMA_MIRRORS": ""}
    result = subprocess.run(
        shell, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    assert "my_nets.MyNet, 50,890 parameters" in result.stdout
    assert list(tmp_path.glob("mine/output/lenet_digits/model_final/ema.pdparams"))


def test_a_second_run_starts_from_the_first_and_goes_on_without_it(run_tool):
    folder = Path("output/second/lenet_digits")

    def run(command, *options):
        arguments = shlex.split(command)[2:]
        arguments[arguments.index("configs/lenet_digits.yml")] = (
            f"{REPOSITORY}/configs/lenet_digits.yml"
        )
        result = run_tool("train", *arguments, "-o", *SHORT, *options)
        assert result.code == 0, result.err
        return result.out

    first, second = COMMANDS[1:]
    run(first)
    said = run(second)
    assert re.search(r"pretrain_weights: 10 of 10 tensors from (raw|ema) of ", said)
    # One epoch more: the checkpoint's weights go on, wherever the first ones came from.
    said = run(second, "epoch=2", "-r", "auto", "-o", "pretrain_weights=gone")
    assert "pretrain_weights: not used, since the run goes on with the weights of its" in said
    assert paddle.load(f"{folder}/model_final/model.pdparams")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "squeezenet1_1",
            "_conv, the first convolution, is made for 1-channel images (Paddle's is for 3)",
        ),
        ("LeNet", None),
    ],
)
def test_a_first_convolution_for_grey_images_is_said(tmp_path, caplog, name, line):
    path = tmp_path / "run.yml"
    path.write_text(
        f"_BASE_: {REPOSITORY}/configs/lenet_digits.yml\n"
        f"Model: {{name: {name}, num_classes: 10, in_channels: 1}}\n"
    )
    config = builder.read_config(str(path), [])
    data = builder.load_data(config, None)
    with caplog.at_level(logging.INFO, "ppema"):
        builder.describe_run(config, builder.make_trainer(config, data), data, "cpu", None)
    said = [record.message for record in caplog.records if "convolution, " in record.message]
    assert said == ([line] if line else [])


IMAGES = (
    "; the images are [1,28,28]; TrainReader.transforms can make others of them, by Resize and "
    "Grayscale"
)
WRONG = [
    (
        "Model: {name: resnet18, num_classes: 10}",
        "Model (resnet18): takes images of 3 channels, and the data have 1; set "
        f"Model.in_channels: 1{IMAGES}",
    ),
    (
        "Model: {name: LeNet, num_classes: 10, in_channels: 3}",
        "Model (LeNet): takes images of 3 channels, and the data have 1; set Model.in_channels: 1"
        + IMAGES,
    ),
    (
        "Model: {name: alexnet, num_classes: 10, in_channels: 1}",
        "Model (alexnet): does not take images of 28x28; it takes 224x224" + IMAGES,
    ),
    (
        "Model: {name: inception_v3, num_classes: 10, in_channels: 1}",
        "Model (inception_v3): does not take images of 28x28; it takes 64x64" + IMAGES,
    ),
    (
        "Model: {name: squeezenet1_1, num_classes: 7, in_channels: 1}",
        "Model (squeezenet1_1) gives [2,7] for 2 images, and the data have 10 classes: [2,10] is "
        "needed",
    ),
]


@pytest.mark.parametrize(("text", "reason"), WRONG)
def test_images_that_do_not_fit_are_said_before_training(run_tool, tmp_path, text, reason):
    (tmp_path / "run.yml").write_text(f"_BASE_: {REPOSITORY}/configs/lenet_digits.yml\n{text}\n")
    result = run_tool("train", "-c", "run.yml", "-o", *SHORT)
    assert result.code == 2
    assert result.err == f"run.yml:2: {reason}\n"
    assert not Path("output").exists() or not list(Path("output").rglob("*.pdparams"))
