"""Every config that ships trains as its first line says, and says what to expect."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from cifar_archives import cifar10_members, write_tar
from in_process import REPOSITORY
from PIL import Image
from small_mnist import write_mnist

CONFIGS = sorted(path.stem for path in (REPOSITORY / "configs").glob("*.yml"))
# One epoch of six steps; the windows in percent and epochs shrink with it.
SHORT = ("epoch=1", "TrainReader.batch_size=50", "use_vdl=false", "recompute_batches=2")

# What is expected of data that are not at hand.
UNMEASURED = {"imagefolder": "what your pictures give", "mobilenetv2_cifar10": "not measured yet"}


@pytest.fixture
def small_data(run_tool):
    """Put a few images in the places where configs look for theirs."""
    cache = Path("home/.cache/paddle/dataset")
    (cache / "cifar").mkdir(parents=True)
    write_tar(cache / "cifar/cifar-10-python.tar.gz", cifar10_members(8))
    write_mnist(cache / "mnist", num_images=300)
    for name in ("ant", "bee", "cat", "dog"):
        for number in range(5):
            path = Path("images", name, f"{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((20, 30, 3), 50 * number, np.uint8)).save(path)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_first_lines_say_command_result_and_time(name):
    lines = (REPOSITORY / f"configs/{name}.yml").read_text().splitlines()
    assert lines[0] == f"# python tools/train.py -c configs/{name}.yml --eval"
    comment = " ".join(line[2:] for line in lines[1:4] if line.startswith("# "))
    expected = r"expect: top-1 [\d.]+ % .* after \d+ epochs .*; \d+ s on 2 CPU cores"
    if name in UNMEASURED:
        expected = "expect: " + UNMEASURED[name]
    assert re.match(expected, comment)
    assert "# yaml-language-server: $schema=schema.json" in lines[:6]


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("name", CONFIGS)
def test_it_trains_and_every_average_of_it_is_evaluated_and_saved(name, run_tool, config):
    result = run_tool("train", "-c", config(name), "--eval", "-o", *SHORT)
    assert result.code == 0, result.err
    folder = Path("output") / name
    manifest = json.loads((folder / "model_final/manifest.json").read_text())
    assert list(manifest["metrics"]) == ["raw", *manifest["averages"]]
    assert manifest["averages"]
    for average in manifest["averages"]:
        assert (folder / f"model_final/{average}.pdparams").is_file()
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
