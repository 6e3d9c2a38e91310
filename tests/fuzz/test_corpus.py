"""What the coverage-guided fuzz of fuzz_*.py kept: each input leads where it led, a load or a line.

The archives hold the inputs that reached new lines of the readers. After a new fuzz in FOLDER:

    python -m zipfile -c tests/fuzz/configs.zip FOLDER/
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from config_catalog import CATALOG

from ppema.checkpoint.weight_file import read_weight_file
from ppema.config import Config, load_config
from ppema.errors import CheckpointError, ConfigError

FOLDER = Path(__file__).resolve().parent


def inputs(name):
    with zipfile.ZipFile(FOLDER / name) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def test_each_weight_file_loads_or_is_refused_in_one_line(tmp_path):
    path, num_loaded = tmp_path / "w.pdparams", 0
    kept = inputs("weight_files.zip")
    for name, content in kept.items():
        path.write_bytes(content)
        try:
            assert isinstance(read_weight_file(path), dict), name
            num_loaded += 1
        except CheckpointError as error:
            text = str(error)
            assert text.isprintable(), name
    assert 0 < num_loaded < len(kept)


def test_each_config_loads_or_is_refused_with_its_place(tmp_path):
    path, num_loaded = tmp_path / "fuzz.yml", 0
    kept = inputs("configs.zip")
    for name, content in kept.items():
        path.write_bytes(content)
        try:
            assert isinstance(load_config(str(path), [], CATALOG), Config), name
            num_loaded += 1
        except ConfigError as error:
            text = str(error)
            assert text.startswith((str(path), "_BASE_ loop")), (name, text)
            assert "\n" not in text, (name, text)
    assert 0 < num_loaded < len(kept)
