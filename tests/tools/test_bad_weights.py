"""Bad weight files through the command line: one line that says what is wrong, 3 or 4, no harm."""

from __future__ import annotations

import gzip
import os
import pickle
import re
import zipfile
from pathlib import Path

import paddle
import pytest

GOOD = "output/lenet_mnist/model_final/model.pdparams"
KIND = "is not a Paddle weight file"
NO_PICKLE = "no pickle of protocol 2, 3 or 4"


class Attack:
    def __reduce__(self):
        return (os.system, ("touch ran",))


def write_torch(path):
    """Write what torch.save writes, a zip archive of a pickle and its storages."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weight": 1}))


def edit(path, **changes):
    """Write the weights of the run with some replaced, and those that are None left out."""
    state = {**paddle.load(GOOD), **changes}
    paddle.save({name: value for name, value in state.items() if value is not None}, str(path))


def write(content):
    return lambda path: path.write_bytes(content)


def write_of_good(change):
    return lambda path: path.write_bytes(change(Path(GOOD).read_bytes()))


# Of each row what makes the file w.pdparams, and what is said of it.
UNREADABLE = {
    "a torch file": (write_torch, f"{KIND}: it is a zip archive, as PyTorch writes ({NO_PICKLE})"),
    "a gzip file": (write_of_good(gzip.compress), f"{KIND}: it is gzip-compressed ({NO_PICKLE})"),
    "text": (write(b"weights"), f"{KIND} ({NO_PICKLE})"),
    "empty": (write(b""), f"{KIND}: it is empty"),
    "truncated": (write_of_good(lambda good: good[:-1000]), f"{KIND} (it is cut short)"),
    "with more after its end": (
        write_of_good(lambda good: good + b"more"),
        f"{KIND} (4 bytes after its end)",
    ),
    "a malicious pickle": (
        write(pickle.dumps({"w": Attack()})),
        "asks to import posix.system, which no checkpoint may",
    ),
}
WRONG_SHAPE = {"features.0.weight": paddle.zeros([8, 1, 5, 5]), "fc.0.bias": None}
UNFIT = {
    "shapes": (
        lambda path: edit(path, **WRONG_SHAPE),
        "8 of 10 fit; features.0.weight: file [8,1,5,5], model [6,1,3,3]; missing: fc.0.bias",
    ),
    "a dtype": (
        lambda path: edit(path, **{"fc.0.bias": paddle.zeros([120], "float64")}),
        "9 of 10 fit; fc.0.bias: file float64, model float32",
    ),
    "one too many": (
        lambda path: edit(path, **{"fc.3.bias": paddle.zeros([1])}),
        "10 of 10 fit; unexpected: fc.3.bias",
    ),
}


def evaluate(config, path):
    return ("eval", "-c", config("lenet_mnist"), "-o", f"weights={path}")


@pytest.mark.parametrize("row", UNREADABLE)
def test_a_file_that_is_no_weights_gives_its_line_and_3(refuse, config, run_folder, row):
    make, message = UNREADABLE[row]
    make(Path("w.pdparams"))
    for command in (evaluate(config, "w.pdparams"), ("average", "soup", GOOD, "w.pdparams")):
        assert refuse(3, *command) == f"w.pdparams: {message}"
    resume = ("train", "-c", config("lenet_mnist"), "-r", "w.pdparams")
    assert refuse(3, *resume) == "w.pdparams: is a file; a run folder or a checkpoint is needed"


@pytest.mark.parametrize("row", UNFIT)
def test_weights_that_do_not_fit_give_their_line_and_3(refuse, config, run_folder, row):
    make, message = UNFIT[row]
    make(Path("w.pdparams"))
    assert refuse(3, *evaluate(config, "w.pdparams")) == f"w.pdparams: {message}"
    line = refuse(3, "average", "soup", GOOD, "w.pdparams")
    assert line == f"w.pdparams does not fit {GOOD}: {message}"


def test_a_directory_is_no_weights(refuse, config, run_folder):
    Path("empty").mkdir()
    assert refuse(3, "average", "soup", GOOD, "empty") == (
        "empty: is a directory, not a Paddle weight file"
    )
    # These two take the folder of a run as well.
    assert refuse(3, *evaluate(config, "empty")) == (
        "empty: holds no checkpoint; train first, or name one with -o weights=…"
    )
    assert refuse(3, "train", "-c", config("lenet_mnist"), "-r", "empty") == (
        "empty: holds no checkpoint"
    )


def test_what_is_not_there_gives_its_line_and_3(refuse, config, run_folder):
    assert refuse(3, *evaluate(config, "none.pdparams")) == (
        "'none.pdparams': no such run folder, checkpoint or weight file"
    )
    assert refuse(3, "average", "soup", GOOD, "none.pdparams") == (
        "none.pdparams: No such file or directory"
    )
    assert refuse(3, "train", "-c", config("lenet_mnist"), "-r", "none") == (
        "none: no such run folder or checkpoint"
    )


def test_an_optimizer_s_file_is_no_weights(refuse, config, run_folder):
    path = f"{run_folder}/model_final/optimizer.pdopt"
    line = refuse(3, *evaluate(config, path))
    assert line.startswith(f"{path}: 0 of 10 fit; missing: features.0.weight, features.0.bias, ")
    line = refuse(3, "average", "soup", path, path)
    assert line.startswith(f"{path}: not weights (holds ")


@pytest.mark.parametrize(("value", "kind"), [("nan", "NaN"), ("inf", "Inf")])
def test_weights_that_are_not_finite_give_their_line_and_4(refuse, config, run_folder, value, kind):
    bias = paddle.load(GOOD)["fc.0.bias"]
    bias[3] = float(value)
    edit("w.pdparams", **{"fc.0.bias": bias})
    assert refuse(4, *evaluate(config, "w.pdparams")) == (
        f"fc.0.bias holds {kind}; refusing to evaluate"
    )
    assert refuse(4, "average", "soup", GOOD, "w.pdparams") == (
        f"w.pdparams: fc.0.bias holds {kind}; refusing to average"
    )


def test_an_unknown_average_gives_its_line_and_2(refuse, config, run_folder):
    line = refuse(2, "eval", "-c", config("lenet_mnist"), "--average", "emma")
    assert re.fullmatch(r"--average emma: \S+/step_00000000[12] has raw, ema", line)
