"""What docs/data.md says to write and to type works."""

from __future__ import annotations

import re
from pathlib import Path

import paddle
import pytest

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


def test_the_command_is_the_one_that_the_deployment_docs_begin_with():
    """There it is run, by tests/tools/test_deployment_docs.py."""
    (command,) = (text for language, text in BLOCKS if language == "bash")
    page = (REPOSITORY / "docs/deployment.md").read_text()
    (first, *_) = re.findall(r"```bash\n(.*?)```", page, re.S)
    assert first.startswith(command)
