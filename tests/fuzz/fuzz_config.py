"""Fuzz the reader of configs, led by coverage: a config or a one-line ConfigError, nothing else.

    pip install atheris      # for developing only
    python tests/fuzz/fuzz_config.py FOLDER -max_total_time=600 -timeout=1 -only_ascii=0

FOLDER keeps what reached new lines, so that a stopped run goes on where it was. A finding is
written to the working directory as crash-… or timeout-…; what it is about belongs into
tests/config/test_config_edges.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

with atheris.instrument_imports(include=["ppema.config"]):
    from ppema.config import Config, ConfigError, load_config
from config_catalog import CATALOG, GOOD  # noqa: E402

# Beside the folder, as libFuzzer ends the process without a chance to clean up.
FILE = Path(f"{sys.argv[1]}.yml") if len(sys.argv) > 1 else None


def load_one(data: bytes) -> None:
    """Load one config; a good one must also survive its own dump."""
    FILE.write_bytes(data)
    try:
        config = load_config(str(FILE), [], CATALOG)
    except ConfigError as error:
        text = str(error)
        if "\n" in text or not text.startswith((str(FILE), "_BASE_ loop")):
            raise ValueError(f"a message without its place: {text!r}") from error
        return
    if not isinstance(config, Config):
        raise TypeError("a load that is no config")
    FILE.write_text(config.dump(), encoding="utf-8")
    if load_config(str(FILE), [], CATALOG).dump() != config.dump():
        raise ValueError("a dump that reads back as another config")


def seed(folder: Path) -> None:
    """Put a good config, and this project's own, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "good").write_text(GOOD)
    for path in (TESTS.parent / "configs").glob("*.yml"):
        (folder / path.name).write_bytes(path.read_bytes())


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    seed(Path(sys.argv[1]))
    atheris.Setup(sys.argv, load_one)
    atheris.Fuzz()
