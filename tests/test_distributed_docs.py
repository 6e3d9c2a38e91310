"""What docs/distributed.md shows gives every rank the same average."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle

sys.path.append(str(Path(__file__).parent / "tools"))
from small_mnist import data_keys, write_mnist

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = (REPOSITORY / "docs/distributed.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"```bash\n(.*?)\n```", PAGE, re.S)


def test_the_command_trains_in_two_processes(tmp_path):
    command = shlex.split(COMMANDS[0].replace(".venv/bin/python", sys.executable))
    script = [
        str(REPOSITORY / word) if word.endswith((".py", ".yml")) else word for word in command
    ]
    write_mnist(tmp_path / "data")
    result = subprocess.run(
        [*script, *data_keys("data", "TrainReader.batch_size=32")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout[-2000:]
    (line,) = re.findall(r"a step: .*images, learning rate [\d.]+", result.stdout)
    assert line.replace("32", "64", 1).replace("64 images,", "128 images,") in PAGE
    # Nobody needs to know which ports were found.
    assert not re.search(r"^I\d{4} ", result.stdout, re.M)
    second = (tmp_path / "log/workerlog.1").read_text()
    assert not re.search(r"^(I\d{4} |\[.*ppema)", second, re.M)
    (final,) = tmp_path.glob("output/lenet_mnist/model_final")
    assert (final / "ema.pdparams").is_file()


def test_two_ranks_have_the_same_average_of_other_images(tmp_path):
    code, spread = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    (command,) = (text for text in COMMANDS if "loop.py" in text)
    # Its own images make the weights of a rank alone other ones.
    (tmp_path / "loop.py").write_text(code + spread)
    (tmp_path / "alone.py").write_text(code.replace("ema_{dist.get_rank()}", "alone"))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for arguments in (
        shlex.split(command.replace(".venv/bin/python", sys.executable)),
        [sys.executable, "alone.py"],
    ):
        result = subprocess.run(
            arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert result.returncode == 0, result.stderr[-2000:]
    first, second, alone, whole = (
        paddle.load(str(tmp_path / f"{name}.pdparams"))
        for name in ("ema_0", "ema_1", "alone", "spread")
    )
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor.numpy(), second[name].numpy(), name)
    assert any((first[name] != alone[name]).any() for name in first)
    assert {name: tensor.shape for name, tensor in whole.items()} == {
        name: tensor.shape for name, tensor in first.items()
    }
