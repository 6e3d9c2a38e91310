"""Fuzz the reader of weight files, led by coverage: a load or a CheckpointError, nothing else.

    pip install atheris      # for developing only
    python tests/fuzz/fuzz_weight_file.py FOLDER -max_total_time=600 -timeout=2 -rss_limit_mb=1500

FOLDER keeps what reached new lines, so that a stopped run goes on where it was; it begins with the
hostile files of tests/checkpoint/hostile.py. A finding is written to the working directory as
crash-… or timeout-…; what it is about belongs into hostile.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS / "checkpoint")]

import paddle  # noqa: E402
from hostile import CASES  # noqa: E402

with atheris.instrument_imports(include=["ppema.checkpoint"]):
    from ppema.checkpoint.weight_file import read_weight_file
from ppema.errors import CheckpointError  # noqa: E402

# Beside the folder, as libFuzzer ends the process without a chance to clean up.
FILE = Path(f"{sys.argv[1]}.pdparams") if len(sys.argv) > 1 else None


def read_one(data: bytes) -> None:
    """Read one file; anything but a load or a one-line CheckpointError is a finding."""
    FILE.write_bytes(data)
    try:
        state = read_weight_file(FILE)
    except CheckpointError as error:
        if not str(error).isprintable():
            raise ValueError("a message of more than a line") from error
        return
    if not isinstance(state, dict):
        raise TypeError("a load that is no dict")


def seed(folder: Path) -> None:
    """Put the hostile files and a genuine one of each protocol into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, content in enumerate(CASES.values()):
        if len(content) < 20_000:
            (folder / f"hostile_{index:03d}").write_bytes(content)
    state = {"w": paddle.rand([2, 3]), "scalar": paddle.ones([]), "empty": paddle.zeros([0, 3])}
    for protocol in (2, 3, 4):
        paddle.save(state, str(folder / f"genuine_{protocol}"), protocol=protocol)
        nested = {"step": 3, "deep": [state, (1.5, "x", None)]}
        paddle.save(nested, str(folder / f"nested_{protocol}"), protocol=protocol)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    seed(Path(sys.argv[1]))
    atheris.Setup(sys.argv, read_one)
    atheris.Fuzz()
