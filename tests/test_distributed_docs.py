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

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = (REPOSITORY / "docs/distributed.md").read_text(encoding="utf-8")


def test_two_ranks_have_the_same_average_of_other_images(tmp_path):
    code, spread = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    (command,) = re.findall(r"```bash\n(.*?)\n```", PAGE, re.S)
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
