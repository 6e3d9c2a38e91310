"""What docs/data.md says to write and to type works."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from ppema import builder
from ppema.data import DATASETS, LoaderReader, Step, Transforms, load_dataset
from ppema.errors import ConfigError, DataError

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/data.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.S)
TRANSFORMS, MODULE = (text for language, text in BLOCKS if language == "python")


def test_every_block_is_of_a_kind_that_is_tested_here():
    assert {language for language, _ in BLOCKS} == {"bash", "python", "text", "yaml"}


def test_every_dataset_has_its_row():
    assert all(re.search(rf"^\| .*`{name}`.* \|", PAGE, re.M) for name in DATASETS)


@pytest.mark.usefixtures("own_modules")
@pytest.mark.parametrize("text", [text for language, text in BLOCKS if language == "yaml"])
def test_each_yaml_block_is_a_config(text, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_data.py").write_text(MODULE)
    (tmp_path / "my_transforms.py").write_text(TRANSFORMS)
    (tmp_path / "run.yml").write_text(f"_BASE_: {REPOSITORY}/configs/lenet_digits.yml\n{text}")
    builder.check(builder.read_config(str(tmp_path / "run.yml"), []))


@pytest.mark.usefixtures("own_modules")
def test_the_config_for_a_dataset_of_your_own_is_whole(tmp_path, monkeypatch):
    (text,) = (
        text for language, text in BLOCKS if "my_data.MyDataset" in text and language == "yaml"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_data.py").write_text(MODULE)
    (tmp_path / "own.yml").write_text(text)
    builder.check(builder.read_config(str(tmp_path / "own.yml"), []))


def test_the_dataset_is_one():
    namespace = {"__name__": "my_data"}
    exec(MODULE, namespace)  # noqa: S102
    dataset = load_dataset(namespace["MyDataset"](20), "error")
    assert dataset.class_names == ("dark", "bright")
    (batch,) = LoaderReader(dataset, 20, False, False, 0, 1).batches(1)
    assert batch.image.mean() == pytest.approx(0.55, abs=0.05)
    assert isinstance(namespace["MyDataset"](20), paddle.io.Dataset)


def test_the_transform_is_one():
    namespace = {"__name__": "my_transforms"}
    exec(TRANSFORMS, namespace)  # noqa: S102
    image = np.zeros((1, 9, 9), np.uint8)
    image[0, 4, 4] = 255
    blurred = Transforms([Step("", "Blur", namespace["Blur"](1.0))])(image)
    assert 0 < blurred[0, 4, 3] < blurred[0, 4, 4] < 255


def test_the_errors_read_as_it_says(tmp_path, monkeypatch):
    (lines,) = (text for language, text in BLOCKS if language == "text" and "run.yml" in text)
    monkeypatch.chdir(tmp_path)
    for number in range(16):
        path = tmp_path / "images" / ("ant", "bee")[number // 8] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (28, 30) if number == 2 else (20, 30)
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path)
    transforms = (
        "{name: RandomCrop, size: 64, pading: 2}",
        "{name: RandomCrop, size: 64}",
        "{name: Resize, size: 28}",
    )
    for line, transform in zip(lines.splitlines(), transforms):
        (tmp_path / "run.yml").write_text(
            f"_BASE_: {REPOSITORY}/configs/imagefolder.yml\n"
            "TrainDataset: {split: null, image_size: null}\n"
            "EvalDataset: {split: null}\n"
            "TrainReader:\n"
            "  transforms:\n"
            f"    - {transform}\n"
        )
        with pytest.raises((ConfigError, DataError)) as caught:
            open_data("run.yml")
        assert str(caught.value) == line


def open_data(path):
    config = builder.read_config(path, [])
    builder.make_trainer(config, builder.load_data(config, None))


def test_the_command_is_the_one_that_the_deployment_docs_begin_with():
    """There it is run, by tests/tools/test_deployment_docs.py."""
    # What the other block says is run by tests/tools/test_validation.py.
    command, _ = (text for language, text in BLOCKS if language == "bash")
    page = (REPOSITORY / "docs/deployment.md").read_text()
    (first, *_) = re.findall(r"```bash\n(.*?)```", page, re.S)
    assert first.startswith(command)
