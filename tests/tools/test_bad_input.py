"""Bad input through the command line: one line that says what is wrong, no traceback, its code.

And nothing is written or lost: `refuse` of conftest.py compares every file before and after. Each
row of what a user can get wrong has its cases here or in the module named beside it:

    a value of the wrong type                       CONFIG_ROWS
    a key given twice, an unknown key               CONFIG_ROWS
    PaddleDetection's and PaddleClas's keys         CONFIG_ROWS
    a tab; a file that is not UTF-8, or empty       CONFIG_ROWS, FILE_ROWS
    an alias, a merge, a tag                        CONFIG_ROWS, test_hostile_configs.py
    a loop of _BASE_                                FILE_ROWS, test_hostile_configs.py
    a decay out of range; parts that do not fit     PART_ROWS
    use_gpu where there is no CUDA                  test_a_gpu_where_there_is_none
    a window longer than the run (a warning)        test_keys.py
    MNIST's magic, count, length, checksum, shape   test_bad_data.py
    a label; a batch larger than the data           test_bad_data.py
    no data and no network                          test_bad_data.py
    a directory, another library's file as weights  test_bad_weights.py, test_hostile_files.py
    a malicious pickle; shapes; NaN                 test_bad_weights.py, test_hostile_files.py
    an empty, cut or flipped file of a checkpoint   test_bad_folder.py
    every checkpoint damaged; another optimizer     test_bad_folder.py
    what a folder holds, with -r and without        test_bad_folder.py
    a folder in use; one that cannot be written     test_bad_folder.py
    a full disk                                     test_bad_folder.py, test_full_disk.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import paddle
import pytest
from in_process import REPOSITORY, contents, line_of

HEAD = f"_BASE_: {REPOSITORY}/configs/lenet_digits.yml\n"
EMA = "Averages:\n  ema: {name: ExponentialMovingAverage, %s}"
CHAIN = "LearningRate:\n  schedulers: [{name: StepDecay, step_size: 3},\n    {name: %s}]"
SWALR = CHAIN % "SWALR, %s"
CYCLIC = "LearningRate:\n  schedulers:\n    - {name: CyclicSWALR, max_lr: 0.001, %s}"
NOT_ALLOWED = "anchors and aliases (&, *, <<) are not allowed"
DURATION = "must be a number of steps, or such as 5 %, 2 epochs, 64000 images, got"

# What reading a config finds, in whichever tool; the second line is the first of the text.
CONFIG_ROWS = [
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
        "ema_decay: 0.9998",
        "lenet.yml:2: 'ema_decay' is written as a section here: "
        "Averages: {ema: {name: ExponentialMovingAverage, decay: 0.9998}}",
    ),
    (
        "EMA: {decay: 0.9999}",
        "lenet.yml:2: 'EMA' is written as a section here: "
        "Averages: {ema: {name: ExponentialMovingAverage, decay: 0.9999, schedule: constant}}",
    ),
    (
        "Global: {epochs: 120}",
        "lenet.yml:2: 'Global' is no section here: its keys stand at the top, such as epoch: 5 or "
        "save_dir: output",
    ),
    ("Model:\n\tname: LeNet", "lenet.yml:3: indented with a tab; use spaces"),
    ("seed: &a 1", f"lenet.yml:2: {NOT_ALLOWED}"),
    ("seed: 1\nepoch: *seed", f"lenet.yml:3: {NOT_ALLOWED}"),
    ("Model: {<<: {name: LeNet}}", f"lenet.yml:2: {NOT_ALLOWED}"),
    ("seed: !!int 1", "lenet.yml:2: tags (!…) are not allowed"),
    (
        EMA % "buffers: recomputed",
        "lenet.yml:3: Averages.ema.buffers must be one of average, copy, recompute, "
        "got 'recomputed'; did you mean 'recompute'?",
    ),
    (
        EMA % "schedule: treshold",
        "lenet.yml:3: Averages.ema.schedule must be one of constant, threshold, exponential, "
        "power, got 'treshold'; did you mean 'threshold'?",
    ),
    (
        "Optimizer: {name: Adamm}",
        "lenet.yml:2: Optimizer.name: there is no 'Adamm'; did you mean 'Adam'?",
    ),
    (CHAIN % "LinearLR", "lenet.yml:4: 'LearningRate.schedulers.1.total_steps' is missing"),
    (
        SWALR % "swa_lr: 0.1, start: 75 %, strategy: cosine",
        "lenet.yml:4: LearningRate.schedulers.1.strategy must be one of cos, linear, got 'cosine'; "
        "did you mean 'cos'?",
    ),
    (
        SWALR % "swa_lr: 0.0005, begin: 75 %",
        "lenet.yml:4: unknown key 'LearningRate.schedulers.1.begin'; known are swa_lr, start, "
        "anneal, strategy",
    ),
    (SWALR % "swa_lr: 0.0005", "lenet.yml:4: 'LearningRate.schedulers.1.start' is missing"),
    (
        SWALR % "swa_lr: 0.0005, start: 1, run: 5",
        "lenet.yml:4: 'LearningRate.schedulers.1.run' is set by ppema; leave it out",
    ),
    (
        "amp: O1\nuse_gpu: false",
        "lenet.yml:2: amp is O1, but Paddle has no half-precision kernels on a CPU; use a GPU or "
        "set amp: off",
    ),
]

# The same of files as they lie on the disk.
FILE_ROWS = [
    (b"epoch: 5 \xe9", "lenet.yml: not UTF-8 (byte 9)"),
    (b"", "lenet.yml: config is empty"),
    (b"_BASE_: b.yml", "_BASE_ loop: lenet.yml → b.yml → lenet.yml"),
]

# What only building the parts of a run finds, which is train.py's work.
PART_ROWS = [
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
        f"lenet.yml:3: Averages.ema.half_life {DURATION} '2 years'",
    ),
    (
        EMA % "exclude: [nothing.*]",
        "lenet.yml:3: Averages.ema.exclude must be patterns that match a weight's name "
        "(such as features.0.weight, features.0.bias, features.3.weight), got 'nothing.*'",
    ),
    (
        "Optimizer: {name: Adam, beta1: 2.0}",
        "lenet.yml:2: Optimizer (Adam): Invalid value of beta1, expect beta1 in [0,1).",
    ),
    (
        CHAIN % "StepDecay, step_size: 5",
        "lenet.yml:4: LearningRate.schedulers.1 (StepDecay) cannot go on from the schedule before "
        "it; those that can are LinearWarmup, CyclicSWALR, SWALR",
    ),
    (
        SWALR % "swa_lr: 0.0005, start: 3 years",
        f"lenet.yml:4: LearningRate.schedulers.1.start {DURATION} '3 years'",
    ),
    (
        SWALR % "swa_lr: 0.0005, start: 75 %, anneal: -1",
        "lenet.yml:4: LearningRate.schedulers.1.anneal must be a finite duration, 0 or more, "
        "got -1",
    ),
    (
        SWALR % "swa_lr: 0, start: 75 %",
        "lenet.yml:4: LearningRate.schedulers.1.swa_lr must be a finite number above 0, got 0.0",
    ),
    (
        CYCLIC % "min_lr: 0.01, start: 1, cycle: 5",
        "lenet.yml:4: LearningRate.schedulers.0.min_lr must be max_lr (0.001) or less, got 0.01",
    ),
    (
        CYCLIC % "min_lr: 0, start: 1, cycle: 0",
        "lenet.yml:4: LearningRate.schedulers.0.cycle must be a finite duration above 0, got 0",
    ),
    (
        CYCLIC % "min_lr: 0, start: 1, cycle: 1.5",
        "lenet.yml:4: LearningRate.schedulers.0.cycle must be a whole number above 0, got 1.5",
    ),
    (
        "TrainDataset: {name: MNIST, mode: train}",
        "TrainDataset and EvalDataset are MNIST and Digits; both must be the same data, since "
        "figures would otherwise mean nothing",
    ),
]
# The start of a command with each tool that reads a config.
TOOLS = {"train": (), "eval": (), "average": ("posthoc", "--sigma_rel", "0.1")}


def messages(rows):
    return [message[:60] for _, message in rows]


@pytest.mark.parametrize(("content", "message"), CONFIG_ROWS, ids=messages(CONFIG_ROWS))
def test_a_bad_config_gives_its_line_and_2(refuse, content, message):
    Path("lenet.yml").write_text(HEAD + content + "\n")
    for tool, start in TOOLS.items():
        assert refuse(2, tool, *start, "-c", "lenet.yml") == message


@pytest.mark.parametrize(("content", "message"), FILE_ROWS, ids=messages(FILE_ROWS))
def test_a_file_that_is_no_config_gives_its_line_and_2(refuse, content, message):
    Path("lenet.yml").write_bytes(content)
    Path("b.yml").write_text("_BASE_: lenet.yml")
    for tool, start in TOOLS.items():
        assert refuse(2, tool, *start, "-c", "lenet.yml") == message


@pytest.mark.parametrize(("content", "message"), PART_ROWS, ids=messages(PART_ROWS))
def test_a_part_that_cannot_be_built_gives_its_line_and_2(refuse, content, message):
    Path("lenet.yml").write_text(HEAD + content + "\n")
    assert refuse(2, "train", "-c", "lenet.yml") == message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "Model.num_classes=5",
            "-o Model.num_classes: Model (LeNet) gives [2,5] for 2 images, and the data have "
            "10 classes: [2,10] is needed",
        ),
        (
            "Model.num_classes=0",
            "Model (LeNet) gives [2,16,5,5] for 2 images, and the data have 10 classes: [2,10] is "
            "needed",
        ),
        ("Loss.reduction=none", "Loss (CrossEntropyLoss) gives [2], not one number"),
        # The rest of these lines is Paddle's.
        ("Loss.axis=7", "Loss (CrossEntropyLoss): "),
        ("Loss.soft_label=true", "Loss (CrossEntropyLoss): "),
        ("Loss={name: paddle.nn.MSELoss}", "Loss (paddle.nn.MSELoss): "),
    ],
)
def test_what_does_not_fit_the_data_is_said_before_training(refuse, config, override, message):
    line = refuse(2, "train", "-c", config("lenet_digits"), "-o", override)
    assert message in line


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
    ("arguments", "message"),
    [
        (
            ["-o", "Averages.ema.decay=1.5"],
            "-o Averages.ema.decay: Averages.ema.decay must be in [0, 1), got 1.5",
        ),
        (["-o", "epoch=two"], "-o epoch: epoch must be a whole number, got 'two'"),
        (
            ["--use_vdl=perhaps"],
            "argument --use_vdl: must be true or false, got 'perhaps' (see --help)",
        ),
        (["--epochs", "3"], "unrecognized arguments: --epochs 3 (see --help)"),
        (
            ["--amp", "-o", "use_gpu=false"],
            "-o amp: amp is O1, but Paddle has no half-precision kernels on a CPU; use a GPU or "
            "set amp: off",
        ),
    ],
)
def test_a_bad_argument_gives_its_line_and_2(refuse, config, arguments, message):
    assert refuse(2, "train", "-c", config("lenet_digits"), *arguments) == message


@pytest.mark.skipif(paddle.is_compiled_with_cuda(), reason="a CPU build's line")
def test_a_gpu_where_there_is_none(refuse, config):
    for tool, start in TOOLS.items():
        line = refuse(2, tool, *start, "-c", config("lenet_digits"), "-o", "use_gpu=true")
        assert line == (
            "-o use_gpu: use_gpu is true, but this Paddle was built without CUDA; "
            "install paddlepaddle-gpu or set use_gpu: false"
        )


def test_processes_of_their_own_say_the_same_and_nothing_else(tmp_path):
    """What Paddle prints as it is imported is no part of a tool's stderr."""
    (tmp_path / "lenet.yml").write_text(f"{HEAD}seed: !!int 1\n")
    (tmp_path / "digits.yml").write_text(HEAD)
    (tmp_path / "empty.pdparams").touch()
    before = contents(tmp_path)
    empty = "empty.pdparams: is not a Paddle weight file: it is empty"
    cases = [
        (("train.py", "-c", "lenet.yml"), 2, "lenet.yml:2: tags (!…) are not allowed"),
        (("eval.py", "-c", "digits.yml", "-o", "weights=empty.pdparams"), 3, empty),
        (("average.py", "soup", "empty.pdparams", "empty.pdparams"), 3, empty),
    ]
    commands = [
        [sys.executable, REPOSITORY / "tools" / arguments[0], *arguments[1:]]
        for arguments, _, _ in cases
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, cwd=tmp_path, **pipes) for command in commands]
    said = [process.communicate(timeout=120) for process in processes]
    for process, (_, err), (arguments, code, message) in zip(processes, said, cases):
        assert (process.returncode, err) == (code, f"{message}\n"), arguments
    assert contents(tmp_path) == before
