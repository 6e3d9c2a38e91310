"""Bad configs and bad files, through the command line: one line, the exit code, nothing written."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import paddle
import pytest
from conftest import REPOSITORY

HEAD = f"_BASE_: {REPOSITORY}/configs/lenet_digits.yml\n"


def line_of(result, code):
    """Return the one line that a tool said before it ended with `code`."""
    assert result.code == code, (result.code, result.out, result.err)
    assert len(result.err.splitlines()) == 1, result.err
    return result.err.strip()


EMA = "Averages:\n  ema: {name: ExponentialMovingAverage, %s}\n"
SWALR = "LearningRate:\n  schedulers: [{name: StepDecay, step_size: 3},\n    {name: SWALR, %s}]"
CYCLIC = "LearningRate:\n  schedulers:\n    - {name: CyclicSWALR, %s}"
CONFIGS = [
    (
        "LearningRate: {base_lr: 1e-3x}",
        "lenet.yml:2: LearningRate.base_lr must be a number, got '1e-3x'",
    ),
    ("epoch: 1\nseed: 3\nepoch: 2", "lenet.yml:4: 'epoch' is given twice (first on line 2)"),
    (EMA % "decey: 0.9", "lenet.yml:3: unknown key 'Averages.ema.decey'; did you mean 'decay'?"),
    (
        "use_ema: true",
        "lenet.yml:2: 'use_ema' is written as a section here: "
        "Averages: {ema: {name: ExponentialMovingAverage, decay: 0.9998}}",
    ),
    (
        "EMA: {decay: 0.9999}",
        "lenet.yml:2: 'EMA' is written as a section here: "
        "Averages: {ema: {name: ExponentialMovingAverage, decay: 0.9999, schedule: constant}}",
    ),
    (
        "Global: {epochs: 120}",
        "lenet.yml:2: 'Global' is no section here: its keys stand at the top",
    ),
    ("Model:\n\tname: LeNet", "lenet.yml:3: indented with a tab; use spaces"),
    ("seed: &a 1", "lenet.yml:2: anchors and aliases (&, *, <<) are not allowed"),
    ("seed: !!int 1", "lenet.yml:2: tags (!…) are not allowed"),
    (EMA % "decay: 1.0", "lenet.yml:3: Averages.ema.decay must be in [0, 1), got 1.0"),
    (EMA % "decay: -1", "lenet.yml:3: Averages.ema.decay must be in [0, 1), got -1.0"),
    (EMA % "decay: .nan", "lenet.yml:3: Averages.ema.decay must be in [0, 1), got nan"),
    (
        EMA % "decay: 0.9, half_life: 10",
        "lenet.yml:3: Averages.ema.half_life must be left out where decay is given "
        "(decay: null drops a decay), got 10",
    ),
    (
        EMA % "half_life: 2 years",
        "lenet.yml:3: Averages.ema.half_life must be a number of steps, or such as 5 %, 2 epochs, "
        "64000 images, got '2 years'",
    ),
    (
        EMA % "buffers: recomputed",
        "lenet.yml:3: Averages.ema.buffers must be one of average, copy, recompute, "
        "got 'recomputed'; did you mean 'recompute'?",
    ),
    (
        EMA % "exclude: [nothing.*]",
        "lenet.yml:3: Averages.ema.exclude must be patterns that match a weight's name "
        "(such as features.0.weight, features.0.bias, features.3.weight), got 'nothing.*'",
    ),
    (
        EMA % "schedule: treshold",
        "lenet.yml:3: Averages.ema.schedule must be one of constant, threshold, exponential, "
        "power, got 'treshold'; did you mean 'threshold'?",
    ),
    ("Optimizer: {name: Adam, beta1: 2.0}", "lenet.yml:2: Optimizer (Adam): "),
    (
        "Optimizer: {name: Adamm}",
        "lenet.yml:2: Optimizer.name: there is no 'Adamm'; did you mean 'Adam'?",
    ),
    (
        "LearningRate: {schedulers: [{name: StepDecay, step_size: 3}, {name: LinearLR}]}",
        "lenet.yml:2: 'LearningRate.schedulers.1.total_steps' is missing",
    ),
    (
        "LearningRate:\n  schedulers: [{name: StepDecay, step_size: 3},"
        " {name: StepDecay, step_size: 5}]",
        "lenet.yml:3: LearningRate.schedulers.1 (StepDecay) cannot go on from the schedule before "
        "it; those that can are LinearWarmup, CyclicSWALR, SWALR",
    ),
    (
        SWALR % "swa_lr: 0.0005, start: 3 years",
        "lenet.yml:4: LearningRate.schedulers.1.start must be a number of steps, or such as 5 %, "
        "2 epochs, 64000 images, got '3 years'",
    ),
    (
        SWALR % "swa_lr: 0.0005, start: 75 %, anneal: -1",
        "lenet.yml:4: LearningRate.schedulers.1.anneal must be a finite duration, 0 or more, got",
    ),
    (
        SWALR % "swa_lr: 0, start: 75 %",
        "lenet.yml:4: LearningRate.schedulers.1.swa_lr must be a finite number above 0, got 0.0",
    ),
    (
        SWALR % "swa_lr: 0.1, start: 75 %, strategy: cosine",
        "lenet.yml:4: LearningRate.schedulers.1.strategy must be one of cos, linear, got 'cosine'; "
        "did you mean 'cos'?",
    ),
    (
        SWALR % "swa_lr: 0.0005, begin: 75 %",
        "lenet.yml:4: unknown key 'LearningRate.schedulers.1.begin'",
    ),
    (SWALR % "swa_lr: 0.0005", "lenet.yml:4: 'LearningRate.schedulers.1.start' is missing"),
    (
        SWALR % "swa_lr: 0.0005, start: 1, run: 5",
        "lenet.yml:4: 'LearningRate.schedulers.1.run' is set by ppema; leave it out",
    ),
    (
        CYCLIC % "max_lr: 0.001, min_lr: 0.01, start: 1, cycle: 5",
        "lenet.yml:4: LearningRate.schedulers.0.min_lr must be max_lr (0.001) or less, got 0.01",
    ),
    (
        CYCLIC % "max_lr: 0.001, min_lr: 0, start: 1, cycle: 0",
        "lenet.yml:4: LearningRate.schedulers.0.cycle must be a finite duration above 0, got 0",
    ),
    (
        CYCLIC % "max_lr: 0.001, min_lr: 0, start: 1, cycle: 1.5",
        "lenet.yml:4: LearningRate.schedulers.0.cycle must be a whole number above 0, got 1.5",
    ),
    ("amp: O1\nuse_gpu: false", "lenet.yml:2: amp is O1, but Paddle has no half-precision kernels"),
    (
        "TrainDataset: {name: MNIST, mode: train}",
        "TrainDataset and EvalDataset are MNIST and Digits; both must be the same data, since "
        "figures would otherwise mean nothing",
    ),
]


@pytest.mark.parametrize(("content", "message"), CONFIGS, ids=[m[:60] for _, m in CONFIGS])
def test_a_bad_config_gives_its_line_and_2(run_tool, tmp_path, content, message):
    Path("lenet.yml").write_text(HEAD + content + "\n")
    line = line_of(run_tool("train", "-c", "lenet.yml"), 2)
    assert line.startswith(message)
    assert sorted(os.listdir(tmp_path)) == ["lenet.yml"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "Model.num_classes=5",
            "-o Model.num_classes: Model (LeNet) gives [2,5] for 2 images, and the data have "
            "10 classes: [2,10] is needed",
        ),
        ("Model.num_classes=0", "Model (LeNet) gives [2,16,5,5] for 2 images"),
        ("Loss.reduction=none", "Loss.reduction must be mean: all figures are means over images"),
        ("Loss.axis=7", "Loss (CrossEntropyLoss): "),
        ("Loss.soft_label=true", "Loss (CrossEntropyLoss): "),
        ("Loss={name: paddle.nn.MSELoss}", "Loss (paddle.nn.MSELoss): "),
    ],
)
def test_what_does_not_fit_the_data_is_said_before_training(run_tool, config, override, message):
    line = line_of(run_tool("train", "-c", config("lenet_digits"), "-o", override), 2)
    assert message in line
    assert not Path("output").exists()


def test_overwrite_keeps_the_old_run_where_the_new_one_cannot_start(run_tool, config, run_folder):
    steps = sorted(run_folder.glob("step_*"))
    result = run_tool(
        "train", "-c", config("lenet_mnist"), "--overwrite", "-o", "Model.num_classes=5"
    )
    assert line_of(result, 2).startswith("-o Model.num_classes: Model (LeNet) gives [2,5]")
    assert sorted(run_folder.glob("step_*")) == steps
    assert (run_folder / "metrics.jsonl").exists()


def test_an_error_of_a_user_s_own_code_is_one_line_with_its_place(
    run_tool, config, tmp_path, monkeypatch
):
    (tmp_path / "broken_nets.py").write_text(
        "import paddle\n"
        "class Net(paddle.nn.Layer):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.fc = paddle.nn.Linear(784, 10)\n"
        "    def forward(self, x):\n"
        "        if self.training: raise KeyError('no such layer')\n"
        "        return self.fc(x.flatten(1))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    result = run_tool("train", "-c", config("lenet_digits"), "-o", "Model.name=broken_nets.Net")
    line = line_of(result, 1)
    assert "broken_nets.py:7: KeyError: 'no such layer' (set PPEMA_TRACEBACK=1" in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"epoch: 5 \xe9", "lenet.yml: not UTF-8 (byte 9)"),
        (b"", "lenet.yml: config is empty"),
        (b"_BASE_: b.yml", "_BASE_ loop: lenet.yml → b.yml → lenet.yml"),
    ],
)
def test_a_file_that_is_no_config_gives_its_line_and_2(run_tool, content, message):
    Path("lenet.yml").write_bytes(content)
    Path("b.yml").write_text("_BASE_: lenet.yml")
    assert line_of(run_tool("train", "-c", "lenet.yml"), 2) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "Averages.ema.decay=1.5"], "-o Averages.ema.decay: Averages.ema.decay must be in"),
        (["-o", "epoch=two"], "-o epoch: epoch must be a whole number, got 'two'"),
        (["--use_vdl=perhaps"], "argument --use_vdl: must be true or false, got 'perhaps'"),
        (["--epochs", "3"], "unrecognized arguments: --epochs 3 (see --help)"),
        (["--amp"], "-o amp: amp is O1, but Paddle has no half-precision kernels on a CPU"),
    ],
)
def test_a_bad_argument_gives_its_line_and_2(run_tool, config, arguments, message):
    result = run_tool("train", "-c", config("lenet_digits"), *arguments)
    assert line_of(result, 2).startswith(message)


@pytest.mark.skipif(paddle.is_compiled_with_cuda(), reason="a CPU build's line")
def test_a_gpu_where_there_is_none(run_tool, config):
    for tool in ("train", "eval"):
        result = run_tool(tool, "-c", config("lenet_digits"), "-o", "use_gpu=true")
        assert line_of(result, 2) == (
            "-o use_gpu: use_gpu is true, but this Paddle was built without CUDA; "
            "install paddlepaddle-gpu or set use_gpu: false"
        )


def write_mnist(folder, num_images=100, magic=2051, said=None, size=28, label=None, cut=0):
    folder.mkdir(exist_ok=True)
    random = np.random.RandomState(0)
    for part in ("train", "t10k"):
        pixels = random.randint(0, 256, num_images * size * size).astype("uint8").tobytes()
        labels = (np.arange(num_images) % 10).astype("uint8")
        if label is not None:
            labels[0] = label
        header = struct.pack(">IIII", magic, said or num_images, size, size)
        with gzip.open(folder / f"{part}-images-idx3-ubyte.gz", "wb") as file:
            file.write(header + pixels)
        with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(struct.pack(">II", 2049, num_images) + labels.tobytes())
        if cut:
            path = folder / f"{part}-images-idx3-ubyte.gz"
            path.write_bytes(path.read_bytes()[:-cut])


def train_on(run_tool, config, folder, *options):
    folders = [f"{part}Dataset.dataset_dir={folder}" for part in ("Train", "Eval")]
    return run_tool(*("train", "-c", config("lenet_mnist"), "-o", *folders, "epoch=1"), *options)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"magic": 9999}, "magic 9999, expected 2051"),
        ({"said": 200}, "header says 200 images, data holds 100"),
        ({"size": 14}, "14x14"),
        ({"label": 255}, "label 255 at sample 0; classes are 0-9"),
        ({"cut": 2000}, "train-images-idx3-ubyte.gz"),
    ],
)
def test_bad_data_gives_its_line_and_3(run_tool, config, tmp_path, fault, message):
    write_mnist(tmp_path / "data", **fault)
    line = line_of(train_on(run_tool, config, tmp_path / "data"), 3)
    assert message in line
    assert not Path("output").exists() or not list(Path("output").iterdir())


def test_a_batch_larger_than_the_data_gives_its_line_and_3(run_tool, config, tmp_path):
    write_mnist(tmp_path / "data")
    options = ("TrainReader.batch_size=128", "TrainReader.drop_last=true")
    assert line_of(train_on(run_tool, config, tmp_path / "data", "-o", *options), 3) == (
        "batch_size 128 with drop_last needs 128 samples, found 100"
    )


def test_a_dataset_dir_without_the_data_is_an_error_never_digits(run_tool, config, tmp_path):
    (tmp_path / "empty").mkdir()
    line = line_of(train_on(run_tool, config, tmp_path / "empty"), 3)
    assert str(tmp_path / "empty") in line
    assert "train-images-idx3-ubyte" in line


def test_no_data_and_no_network_says_what_was_tried_and_the_ways_out(run_tool, config):
    result = run_tool("train", "-c", config("lenet_mnist"), "-o", "offline=error")
    line = line_of(result, 3)
    assert ".cache/paddle/dataset/mnist" in line
    assert "offline: digits" in line
    assert "TrainDataset.dataset_dir=" in line


@pytest.fixture
def run_folder(run_tool, config, tmp_path):
    """Return the folder of a run of one short epoch on a hundred images."""
    write_mnist(tmp_path / "data")
    result = train_on(run_tool, config, tmp_path / "data", "--eval")
    assert result.code == 0, result.err
    return Path("output/lenet_mnist")


def eval_file(run_tool, config, path):
    return run_tool("eval", "-c", config("lenet_digits"), "-o", f"weights={path}")


class Attack:
    def __reduce__(self):
        return (os.system, ("touch ran",))


def test_bad_weights_give_their_line_and_3(run_tool, config, run_folder):
    good = run_folder / "model_final/model.pdparams"
    state = paddle.load(str(good))
    reshaped = {**state, "features.0.weight": paddle.zeros([8, 1, 5, 5])}
    reshaped.pop("fc.0.bias")
    paddle.save(reshaped, "shapes.pdparams")
    Path("evil.pdparams").write_bytes(pickle.dumps({"w": Attack()}))
    Path("torch.pdparams").write_bytes(b"PK\x03\x04 and so on")
    shutil.copy(run_folder / "model_final/optimizer.pdopt", ".")
    Path("text.pdparams").write_text("weights")
    Path("gzip.pdparams").write_bytes(gzip.compress(good.read_bytes()))
    Path("short.pdparams").write_bytes(good.read_bytes()[:-1000])
    Path("empty.pdparams").write_bytes(b"")
    Path("long.pdparams").write_bytes(good.read_bytes() + b"more")
    for path, message in [
        (
            "shapes.pdparams",
            "shapes.pdparams: 8 of 10 fit; features.0.weight: file [8,1,5,5], "
            "model [6,1,3,3]; missing: fc.0.bias",
        ),
        ("evil.pdparams", "evil.pdparams: asks to import posix.system, which no checkpoint may"),
        ("torch.pdparams", "torch.pdparams: is not a Paddle weight file: it is a zip archive"),
        ("text.pdparams", "text.pdparams: is not a Paddle weight file"),
        ("gzip.pdparams", "gzip.pdparams: is not a Paddle weight file: it is gzip-compressed"),
        ("short.pdparams", "short.pdparams: is not a Paddle weight file (it is cut short)"),
        ("empty.pdparams", "empty.pdparams: is not a Paddle weight file: it is empty"),
        ("long.pdparams", "long.pdparams: is not a Paddle weight file (4 bytes after its end)"),
        ("none.pdparams", "'none.pdparams': no such run folder, checkpoint or weight file"),
        ("data", "data: holds no checkpoint"),
        ("optimizer.pdopt", "optimizer.pdopt: 0 of 10 fit; missing: features.0.weight"),
    ]:
        assert line_of(eval_file(run_tool, config, path), 3).startswith(message)
    assert not Path("ran").exists()


def test_nan_weights_are_refused_with_4(run_tool, config, run_folder):
    state = paddle.load(str(run_folder / "model_final/model.pdparams"))
    state["fc.0.bias"][3] = float("nan")
    paddle.save(state, "nan.pdparams")
    assert line_of(eval_file(run_tool, config, "nan.pdparams"), 4) == (
        "fc.0.bias holds NaN; refusing to evaluate"
    )


def test_another_class_on_resume_gives_its_line_and_3(run_tool, config, run_folder, tmp_path):
    result = train_on(
        run_tool, config, tmp_path / "data", "-r", "auto", "-o", "epoch=2", "Optimizer.name=Adagrad"
    )
    assert line_of(result, 3) == "the checkpoint was made with Adam, the config says Adagrad"


def test_other_data_on_resume_is_refused_with_3(run_tool, config, run_folder, tmp_path):
    write_mnist(tmp_path / "other", num_images=90)
    result = train_on(run_tool, config, tmp_path / "other", "-r", "auto", "-o", "epoch=2")
    assert "these are not the data of the run" in line_of(result, 3)
    # The run's own folder is taken where none is named; without it, nothing else will do.
    own = run_tool("eval", "-c", config("lenet_mnist"))
    assert own.code == 0, own.err
    shutil.rmtree(tmp_path / "data")
    gone = run_tool("eval", "-c", config("lenet_mnist"))
    assert str(tmp_path / "data") in line_of(gone, 3)
    manifest = json.loads((run_folder / "model_final/manifest.json").read_text())
    assert manifest["data"]["eval"]["dataset_dir"] == str(tmp_path / "data")


def test_every_checkpoint_bad_gives_its_line_and_3(run_tool, config, run_folder, tmp_path):
    for manifest in run_folder.glob("step_*/manifest.json"):
        facts = json.loads(manifest.read_text())
        manifest.write_text(json.dumps({**facts, "seed": 9}))
    result = train_on(run_tool, config, tmp_path / "data", "-r", "auto", "-o", "epoch=2")
    line = line_of(result, 3)
    assert line.startswith("no usable checkpoint in output/lenet_mnist (1 damaged)")


def test_an_unknown_average_gives_its_line_and_2(run_tool, config, run_folder):
    result = run_tool("eval", "-c", config("lenet_mnist"), "--average", "emma")
    assert line_of(result, 2).endswith("has raw, ema")


def test_a_folder_that_cannot_be_written_is_said_before_training(run_tool, config):
    Path("output").write_text("a file in the way")
    line = line_of(run_tool("train", "-c", config("lenet_digits")), 6)
    assert line.startswith("output/lenet_digits: cannot be written: ")


def test_a_full_disk_keeps_the_checkpoint_before(run_tool, config, run_folder, tmp_path):
    from ppema.checkpoint import store

    def full(path, contents):
        raise OSError(28, "No space left on device", str(path))

    real, store.write_weight_file = store.write_weight_file, full
    try:
        result = train_on(run_tool, config, tmp_path / "data", "-r", "auto", "-o", "epoch=2")
    finally:
        store.write_weight_file = real
    assert line_of(result, 6) == "cannot save step 4: no space left; step 2 kept"
    shutil.rmtree(run_folder)
