"""What docs/swalp.md says to write and to type works, on the digits."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import paddle
from in_process import REPOSITORY

from ppema import builder

PAGE = (REPOSITORY / "docs/swalp.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.S)


def blocks(language):
    return [text for kind, text in BLOCKS if kind == language]


def test_the_config_is_one(tmp_path):
    assert {kind for kind, _ in BLOCKS} == {"bash", "python", "yaml"}
    (text,) = blocks("yaml")
    (tmp_path / "run.yml").write_text(f"_BASE_: {REPOSITORY}/configs/lenet_digits.yml\n{text}")
    config = builder.read_config(str(tmp_path / "run.yml"), [])
    builder.check(config)
    assert config.Rounding.arguments == {"bits": 8, "block": "row"}


def test_the_loop_rounds_the_weights_and_averages_what_was_rounded():
    paddle.seed(1)
    model = paddle.vision.models.LeNet()
    namespace = {
        "model": model,
        "loader": [(paddle.randn([4, 1, 28, 28]), paddle.to_tensor([0, 1, 2, 3]))] * 3,
        "loss_fn": paddle.nn.CrossEntropyLoss(),
        "optimizer": paddle.optimizer.SGD(0.01, parameters=model.parameters()),
    }
    (text,) = blocks("python")
    exec(text, namespace)  # noqa: S102
    assert namespace["swa"].num_points == 3
    assert all(len(row.unique()) <= 256 for row in model.fc[0].weight)
    assert len(model.fc[0].bias.unique()) <= 256


def test_the_commands_work_in_the_order_given(run_tool):
    for name in ("tools", "configs"):
        Path(name).symlink_to(REPOSITORY / name)
    commands = [line for text in blocks("bash") for line in text.splitlines()]
    assert len(commands) == 5
    for command in commands:
        interpreter, script, *arguments = shlex.split(command)
        if interpreter == "cp":
            shutil.copy(script, *arguments)
            continue
        assert (interpreter, Path(script).is_file()) == (".venv/bin/python", True), command
        arguments += ["-o", "use_vdl=false", "TrainReader.batch_size=512"]
        if script == "tools/train.py":
            arguments += ["epoch=1"]
        result = run_tool(Path(script).stem, *arguments)
        assert (result.code, result.err) == (0, ""), (command, result.out)
