"""Bad data through the command line: one line that names the file, 3, nothing written or lost."""

from __future__ import annotations

import re
import shutil
import socket
from pathlib import Path

import pytest
from mirrors import serving
from small_mnist import data_keys, write_mnist

IMAGES = "{}-images-idx3-ubyte.gz"
LABELS = "{}-labels-idx1-ubyte.gz"
WAYS_OUT = (
    "; set offline: digits to use the digits that come with ppema, or name the folder of the four "
    "files: -o TrainDataset.dataset_dir=... EvalDataset.dataset_dir=..."
)
# What is wrong with both parts, and what is said of the one that the tool reads first.
ROWS = {
    "magic": ({"magic": 9999}, f"{IMAGES}: magic 9999, expected 2051"),
    "count": ({"said": 200}, f"{IMAGES}: header says 200 images, data holds 100"),
    "short": ({"cut": 2000}, f"{IMAGES}: truncated, its gzip stream ends too early"),
    "checksum": ({"flip": 6}, f"{IMAGES}: damaged gzip file (CRC check failed"),
    "shape": ({"size": 14}, f"{IMAGES}: images are 14x14, expected 28x28"),
    "label": (
        {"label": 255},
        f"{LABELS}: label 255 at sample 0; classes are 0-9",
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_bad_data_give_their_line_and_3(refuse, config, run_folder, row):
    fault, message = ROWS[row]
    write_mnist(Path("data"), **fault)
    trained = refuse(3, "train", "-c", config("lenet_mnist"), "--overwrite", *data_keys("data"))
    evaluated = refuse(3, "eval", "-c", config("lenet_mnist"), *data_keys("data"))
    assert trained.startswith("data/" + message.format("train"))
    assert evaluated.startswith("data/" + message.format("t10k"))


def test_a_batch_larger_than_the_data_gives_its_line_and_3(refuse, config):
    write_mnist(Path("data"))
    keys = data_keys("data", "TrainReader.batch_size=128", "TrainReader.drop_last=true")
    assert refuse(3, "train", "-c", config("lenet_mnist"), *keys) == (
        "batch_size 128 with drop_last needs 128 samples, found 100"
    )


def test_a_dataset_dir_without_the_data_is_an_error_never_digits(refuse, config, run_folder):
    Path("empty").mkdir()
    for tool, part in (("train", "train"), ("eval", "t10k")):
        flags = ("--overwrite",) if tool == "train" else ()
        line = refuse(3, tool, "-c", config("lenet_mnist"), *flags, *data_keys("empty"))
        assert line == f"dataset_dir empty lacks {IMAGES} and {LABELS}".replace("{}", part)


def test_no_data_and_no_network_says_what_was_tried_and_the_ways_out(
    refuse, config, tmp_path, monkeypatch
):
    cache = tmp_path / "home/.cache/paddle/dataset/mnist"
    lacks = f"{cache} lacks {IMAGES} and {LABELS}".replace("{}", "train")
    lacks = f"MNIST is not within reach: {lacks}"
    command = ("train", "-c", config("lenet_mnist"), "-o", "offline=error")
    assert refuse(3, *command) == f"{lacks}; no mirrors are set{WAYS_OUT}"
    # Held, so that nobody else comes to listen there.
    with socket.socket() as held, serving() as mirror:
        held.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{held.getsockname()[1]}/"
        monkeypatch.setenv("PPEMA_MIRRORS", f"{dead},{mirror.url}")
        line = refuse(3, *command)
    name = IMAGES.format("train")
    answers = f"{dead}{name}: unreachable: Connection refused, {mirror.url}{name}: HTTP 404"
    assert line == f"{lacks}; {answers} Not Found{WAYS_OUT}"


def test_other_data_on_resume_are_refused(refuse, run_tool, config, run_folder, small_run):
    write_mnist(Path("other"), num_images=90)
    keys = data_keys("other", "epoch=2")
    way_out = "; --accept data goes on with them, from the start of the epoch"
    for tool, flags, part, end in (
        ("train", ("-r", "auto"), "train", way_out),
        ("eval", (), "test", ""),
    ):
        line = refuse(3, tool, "-c", config("lenet_mnist"), *flags, *keys)
        assert re.fullmatch(
            rf"data in MNIST's format, but not MNIST's: {part} \(90 images\) from other: "
            rf"these are not the data of the run \(sha256 \w{{12}}, the run's is \w{{12}}\){end}",
            line,
        )


def test_a_run_s_own_data_are_taken_where_none_are_named_and_no_others(
    refuse, run_tool, config, tmp_path
):
    write_mnist(Path("data"))
    trained = run_tool("train", "-c", config("lenet_mnist"), *data_keys("data"))
    assert trained.code == 0, trained.err
    evaluated = run_tool("eval", "-c", config("lenet_mnist"))
    assert evaluated.code == 0, evaluated.err
    shutil.rmtree("data")
    for tool, flags in (("train", ("-r", "auto", "-o", "epoch=2")), ("eval", ())):
        assert refuse(3, tool, "-c", config("lenet_mnist"), *flags) == (
            f"dataset_dir {tmp_path}/data: no such folder"
        )
