"""What docs/data.md says to write and to type works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from ppema import builder
from ppema.data import DATASETS, LoaderReader, load_dataset

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/data.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.S)
(MODULE,) = (text for language, text in BLOCKS if language == "python")
NET = """

class Net(paddle.nn.Linear):
    def __init__(self):
        super().__init__(64, 2)
    def forward(self, image):
        return super().forward(paddle.flatten(image, 1))
"""


def test_every_block_is_of_a_kind_that_is_tested_here():
    assert {language for language, _ in BLOCKS} == {"bash", "python", "text", "yaml"}


def test_every_dataset_has_its_row():
    assert all(re.search(rf"^\| .*`{name}`.* \|", PAGE, re.M) for name in DATASETS)


@pytest.mark.usefixtures("own_modules")
@pytest.mark.parametrize("text", [text for language, text in BLOCKS if language == "yaml"])
def test_each_yaml_block_is_a_config(text, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_data.py").write_text(MODULE + NET)
    (tmp_path / "run.yml").write_text(f"_BASE_: {REPOSITORY}/configs/lenet_digits.yml\n{text}")
    builder.check(builder.read_config(str(tmp_path / "run.yml"), []))


def test_the_dataset_is_one():
    namespace = {"__name__": "my_data"}
    exec(MODULE, namespace)  # noqa: S102
    dataset = load_dataset(namespace["MyDataset"](20), "error")
    assert dataset.class_names == ("dark", "bright")
    (batch,) = LoaderReader(dataset, 20, False, False, 0, 1).batches(1)
    assert batch.image.mean() == pytest.approx(0.55, abs=0.05)
    assert isinstance(namespace["MyDataset"](20), paddle.io.Dataset)


def test_the_command_trains_on_a_folder_of_pictures(tmp_path):
    (command,) = (text for language, text in BLOCKS if language == "bash")
    for name in ("ant", "bee", "cat", "dog"):
        for number in range(5):
            path = tmp_path / "pictures" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((20, 30, 3), 50 * number, np.uint8)).save(path)
    for name in ("tools", "configs"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    arguments = command.replace(".venv/bin/python", sys.executable).split()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HOME": str(tmp_path)}
    result = subprocess.run(
        [*arguments, "epoch=1"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    assert re.search(r"^ema +top1 ", result.stdout, re.M)
