"""What docs/averages.md says to type and to write works, in its order, on the digits."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import paddle
import pytest
from in_process import REPOSITORY

PAGE = (REPOSITORY / "docs/averages.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.S)
COMMANDS = [line for language, text in BLOCKS if language == "bash" for line in text.splitlines()]
YAML = [text for language, text in BLOCKS if language == "yaml"]
# As typed, but for runs that take seconds.
SHORT = ["TrainReader.batch_size=512", "use_vdl=false"]


def test_each_command_works_in_the_order_given(run_tool):
    assert len(COMMANDS) >= 11
    for name in ("tools", "configs"):
        Path(name).symlink_to(REPOSITORY / name)
    for command in COMMANDS:
        interpreter, script, *arguments = shlex.split(command)
        assert (interpreter, Path(script).is_file()) == (".venv/bin/python", True), command
        if script == "tools/train.py":
            epoch = [] if "epoch=" in command else ["epoch=3"]
            arguments += ["-o", *SHORT, *epoch]
        result = run_tool(Path(script).stem, *arguments)
        assert (result.code, result.err) == (0, ""), (command, result.out)


def test_each_python_block_works_beside_the_ones_before_it():
    paddle.seed(1)
    model = paddle.vision.models.LeNet()
    namespace = {
        "paddle": paddle,
        "model": model,
        "loader": [(paddle.randn([4, 1, 28, 28]), paddle.to_tensor([0, 1, 2, 3]))] * 3,
        "loss_fn": paddle.nn.CrossEntropyLoss(),
        "optimizer": paddle.optimizer.Adam(0.01, parameters=model.parameters()),
    }
    blocks = [text for language, text in BLOCKS if language == "python"]
    assert len(blocks) >= 4
    for text in blocks:
        exec(text, namespace)  # noqa: S102
    assert int(namespace["averaged"].n_averaged) == 3
    assert namespace["ema"].num_updates == 3


@pytest.mark.parametrize("text", YAML)
def test_each_yaml_block_is_a_config(text, run_tool, tmp_path):
    (tmp_path / "run.yml").write_text(f"_BASE_: {REPOSITORY}/configs/lenet_digits.yml\n{text}")
    result = run_tool("train", "-c", "run.yml", "--check")
    assert result.code == 0, result.err


def test_the_pictures_and_pages_it_links_to_are_there():
    for target in re.findall(r"\]\((?!http)([^)#]+)", PAGE):
        assert (REPOSITORY / "docs" / target).is_file(), target
    anchors = set(re.findall(r'<a name="(\w+)">', PAGE))
    assert set(re.findall(r"\]\(#(\w+)\)", PAGE)) <= anchors
