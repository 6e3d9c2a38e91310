"""Every key of a config changes what it says, through the command line."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import paddle
import pytest
from in_process import REPOSITORY
from small_mnist import write_mnist

from ppema import RunLength
from ppema.builder import make_model, read_config
from ppema.builder.parts import make_averages, make_optimizer, make_rounding
from ppema.config import ConfigError

FOLDER = Path("output/lenet_mnist")
# One epoch of 29 steps, of images enough for them and no more: what is learned matters to no test.
SHORT = (
    *("TrainDataset.dataset_dir=data", "EvalDataset.dataset_dir=data"),
    *("epoch=1", "TrainReader.batch_size=4", "use_vdl=false"),
)


@pytest.fixture(autouse=True)
def data(run_tool):
    write_mnist(Path("data"), num_images=115)


@pytest.fixture
def train(run_tool, config):
    """Return a function that trains a short run with some keys set."""

    def run(*keys, flags=("--overwrite",)):
        result = run_tool("train", "-c", config("lenet_mnist"), *flags, "-o", *SHORT, *keys)
        assert result.code == 0, result.err
        return result

    return run


def final_weights(folder=FOLDER):
    weights = paddle.load(str(folder / "model_final/model.pdparams"))
    return b"".join(tensor.numpy().tobytes() for tensor in weights.values())


def manifest(folder=FOLDER):
    return json.loads((folder / "model_final/manifest.json").read_text())


def test_seed_shuffle_and_accumulation_change_the_weights_and_the_same_keys_do_not(train):
    found = {}
    for key in (
        *("seed=0", "seed=1", "TrainReader.shuffle=false", "accumulate_steps=2"),
        *("TrainReader.drop_last=true", "LearningRate.base_lr=0.01", "Optimizer.beta1=0.5"),
        "LearningRate.schedulers=[{name: StepDecay, step_size: 5}]",
    ):
        train(key)
        found[key] = (final_weights(), manifest()["step"])
    assert len({weights for weights, _ in found.values()}) == len(found)
    assert found["accumulate_steps=2"][1] == 15
    assert found["TrainReader.drop_last=true"][1] == 28
    train("seed=0")
    assert final_weights() == found["seed=0"][0]


FORM_SPY = """
from paddle.vision.models import LeNet

class Net(LeNet):
    forms = set()
    def forward(self, x):
        Net.forms.add("forward" in vars(self.features[0]))
        return super().forward(x)
"""


def test_fast_cpu_changes_the_forms_of_layers_and_no_bit(
    train, run_tool, config, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(str(tmp_path))
    found, lines = {}, {}
    for value in ("true", "false"):
        (tmp_path / f"form_spy_{value}.py").write_text(FORM_SPY)
        keys = (f"fast_cpu={value}", f"Model.name=form_spy_{value}.Net", "log_iter=1")
        trained = train(*keys, flags=("--overwrite", "--eval"))
        forms = sys.modules[f"form_spy_{value}"].Net.forms
        assert (True in forms) is (value == "true")
        forms.clear()
        evaluated = run_tool("eval", "-c", config("lenet_mnist"), "-o", *SHORT, *keys)
        assert evaluated.code == 0, evaluated.err
        assert forms == {value == "true"}
        records = [json.loads(line) for line in (FOLDER / "metrics.jsonl").read_text().splitlines()]
        figures = [(r["step"], r["loss"], r.get("average"), r.get("top1")) for r in records]
        assert len(figures) == 31
        (lines[value],) = [line for line in trained.out.splitlines() if "fast_cpu: " in line]
        found[value] = (final_weights(), figures, evaluated.out)
    assert found["true"] == found["false"]
    assert lines["true"].endswith("fast_cpu: true; 4 layers take their fast form, to the same bits")
    assert "fast_cpu: false; 0 layers" in lines["false"]


def test_log_iter_snapshot_iter_and_keep_checkpoint_max(train):
    train("log_iter=7", "snapshot_iter=5", "keep_checkpoint_max=2")
    records = [json.loads(line) for line in (FOLDER / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [7, 14, 21, 28, 29]
    assert sorted(path.name for path in FOLDER.glob("step_*")) == [
        "step_000000025",
        "step_000000029",
    ]


def test_select_decides_whose_figures_are_best(train, run_tool, config):
    for select in ("raw", "ema"):
        result = train(f"select={select}", flags=("--overwrite", "--eval"))
        assert manifest()["winner"] == manifest()["best"]["average"] == select
        (marked,) = [line for line in result.out.splitlines() if "<- selected" in line]
        assert marked.startswith(select)


def test_save_dir_says_where_the_run_s_folder_is(train):
    train("save_dir=else where")
    assert final_weights(Path("else where/lenet_mnist"))
    assert not Path("output").exists()


BAD_PIXEL = """
import paddle
from paddle.vision.models import LeNet

class Net(LeNet):
    steps = 0
    def forward(self, x):
        if self.training:
            Net.steps += 1
            if Net.steps in {steps}:
                x = x * float("nan")
        return super().forward(x)
"""


def test_non_finite_and_max_skips(run_tool, config, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    skip = ("non_finite=skip", "max_skips=2")
    cases = [((3,), (), 4), ((3, 4), skip, 0), ((3, 4, 5), skip, 4)]
    for number, (steps, keys, code) in enumerate(cases):
        module = f"bad_pixel_{number}"
        (tmp_path / f"{module}.py").write_text(BAD_PIXEL.format(steps=set(steps)))
        keys = (f"Model.name={module}.Net", *keys)
        result = run_tool("train", "-c", config("lenet_mnist"), "--overwrite", "-o", *SHORT, *keys)
        assert result.code == code, (result.out, result.err)
        num_skips = result.out.count("is not finite; the step is left out")
        assert num_skips == (2 if len(keys) > 1 else 0)
        assert len(result.err.splitlines()) == (1 if code else 0)


ROUNDING = "Rounding={name: BlockFloatingPoint, bits: 3, block: tensor}"

FROZEN_NET = """
from paddle.vision.models import LeNet

class Net(LeNet):
    def __init__(self):
        super().__init__()
        for parameter in self.parameters():
            parameter.stop_gradient = True
"""


def test_rounding_leaves_few_values_and_a_resumed_run_says_what_changed(train):
    result = train("snapshot_iter=10", "keep_checkpoint_max=99", ROUNDING)
    said = "weights are rounded after each step: BlockFloatingPoint(bits=3, block='tensor')"
    assert said in result.out
    assert manifest()["config_values"]["Rounding"]["bits"] == 3
    weights = paddle.load(str(FOLDER / "model_final/model.pdparams"))
    assert all(len(tensor.unique()) <= 8 for tensor in weights.values())
    start = str(FOLDER / "step_000000010")
    changed = train(ROUNDING, "Rounding.bits=4", flags=("-r", start, "--overwrite"))
    assert "changed since then: Rounding.bits was 3, is 4" in changed.out
    weights = paddle.load(str(FOLDER / "model_final/model.pdparams"))
    assert 8 < max(len(tensor.unique()) for tensor in weights.values()) <= 16


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["Rounding.bits=17"], "Rounding.bits: Rounding.bits must be a whole number from 2 to 16"),
        (["Rounding.block=column"], "Rounding.block: Rounding.block must be one of row, tensor, "),
        (["Rounding.seed=3"], "Rounding.seed: 'Rounding.seed' is set by ppema; leave it out"),
        (["Model.name=frozen_net.Net"], "Rounding: Rounding (BlockFloatingPoint): nothing"),
    ],
)
def test_a_rounding_that_cannot_be_is_refused(run_tool, config, monkeypatch, keys, message):
    Path("frozen_net.py").write_text(FROZEN_NET)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    for flag in ("--check", "--eval"):
        result = run_tool("train", "-c", config("lenet_mnist"), flag, "-o", *SHORT, ROUNDING, *keys)
        assert result.code == 2
        (line,) = result.err.splitlines()
        assert line.startswith(f"-o {message}")


def test_rounding_and_weights_of_half_precision_exclude_each_other(config):
    keys = [ROUNDING, "amp=O2"]
    o2 = read_config(str(config("lenet_mnist")), keys)
    with pytest.raises(ConfigError, match=r"^-o amp: amp is O2, .*; set amp: O1 or off, or Round"):
        make_rounding(o2, make_model(o2))
    o1 = read_config(str(config("lenet_mnist")), [ROUNDING, "amp=O1"])
    assert make_rounding(o1, make_model(o1)) is not None


def test_max_loss_and_max_loss_ratio_leave_steps_out_of_the_averages(train):
    shut = train("max_loss=1e-6", "log_iter=29")
    assert re.search(r"step 1: loss [\d.]+.*; left out of the averages \(1 so far\)", shut.out)
    assert shut.out.count("left out of the averages (") == 10
    assert "29 of 29 steps are left out of the averages" in shut.out
    assert "initial weights 100.0 %" in shut.out
    record = json.loads((FOLDER / "metrics.jsonl").read_text().splitlines()[-1])
    assert (record["left_out"], record["never_moved"]["ema"]) == (29, 1.0)
    # The loss falls from step to step, so a ratio just above 1 still leaves out a few.
    some = train("max_loss_ratio=1.001", "LearningRate.base_lr=0.1")
    record = json.loads((FOLDER / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 < record["left_out"] < 29
    assert f"{record['left_out']} of 29 steps are left out of the averages" in some.out


CHAIN = (
    "LearningRate.schedulers=[{name: CosineAnnealingDecay, T_max: 40},"
    " {name: LinearWarmup, warmup_steps: 5, start_lr: 0.0, end_lr: 0.001}, {%s}]"
)
# 50 % of 29 steps are 14, 20 % are 6, 10 % are 3.
CONSTANT = "name: SWALR, swa_lr: 0.0005, start: 50 %, anneal: 20 %, strategy: linear"
CYCLIC = "name: CyclicSWALR, max_lr: 0.0008, min_lr: 0.0002, start: 50 %, cycle: 10 %"


def rates_of_the_chain(last):
    """Return the rates of steps 1 to 29, from the formulas."""
    rates = [0.001 * step / 5 for step in range(5)]
    rates += [0.001 * (1 + math.cos(math.pi * step / 40)) / 2 for step in range(9)]
    for i in range(1, 16):
        if last == CONSTANT:
            alpha = min(1, i / 6)
            rates.append(alpha * 0.0005 + (1 - alpha) * rates[13])
        else:
            rates.append((0.0006, 0.0004, 0.0002)[(i - 1) % 3])
    return rates


@pytest.mark.parametrize("last", [CONSTANT, CYCLIC], ids=["constant", "cyclic"])
def test_a_chain_of_schedules_gives_its_rates_and_goes_on_after_a_stop(train, last):
    keys = (CHAIN % last, "log_iter=1", "snapshot_iter=1", "keep_checkpoint_max=99")
    train(*keys)
    records = [json.loads(line) for line in (FOLDER / "metrics.jsonl").read_text().splitlines()]
    found = [record["lr"] for record in records]
    assert found == pytest.approx(rates_of_the_chain(last), rel=1e-9)
    weights = final_weights()
    # In the last of the schedules, in the first, and in the warmup between them.
    for step in (24, 9, 3):
        train(*keys, flags=("-r", str(FOLDER / f"step_{step:09d}"), "--overwrite"))
        assert final_weights() == weights
    names = f"CosineAnnealingDecay, LinearWarmup, {last.split()[1].rstrip(',')}"
    assert manifest()["identity"]["schedule"] == names


def test_the_points_of_the_cyclic_config_are_at_the_lowest_rate_of_each_cycle(config):
    run = RunLength(num_steps=4690, steps_per_epoch=938, images_per_step=64)
    swa_config = read_config(str(config("lenet_mnist_swa_cyclic")), [])
    model = make_model(swa_config)
    _, schedule = make_optimizer(swa_config, model, run)
    swa = make_averages(swa_config, model, run)["swa"]
    points = {}
    for step in range(1, run.num_steps + 1):
        before = swa.num_points
        swa.update()
        if swa.num_points > before:
            points[step] = schedule()
        schedule.step()
    assert points == dict.fromkeys(range(2345, 4691, 469), 0.0005)


def test_a_window_longer_than_the_run_is_warned_about(train):
    slow = "Averages.slow={name: ExponentialMovingAverage, decay: 0.9999, schedule: constant}"
    result = train(slow)
    assert (
        "slow: decay 0.9999 over 29 steps leaves 100 % of the initial weights in the average; "
        "use a warmup or a half-life of 1-5 % of the run"
    ) in result.out
    assert "ema: decay" not in result.out


def test_an_average_that_begins_after_the_run_is_warned_about(train):
    averages = (
        "Averages.swa={name: StochasticWeightAverage, start: 30}",
        "Averages.latest={name: LatestWeightAverage, every: 30}",
        "Averages.late={name: ExponentialMovingAverage, start: 200 %}",
        "Averages.last={name: StochasticWeightAverage, start: 100 %}",
        "Averages.fine={name: StochasticWeightAverage, start: 28}",
    )
    found = train(*averages).out
    for name, step in (("swa", 30), ("latest", 30), ("late", 58), ("last", 29)):
        assert f"{name}: begins at step {step} of a run of 29, so it averages next to" in found
    assert found.count("averages next to nothing") == 4
    assert "late: begins at step 58: until then it is the weights of now" in found


def test_runs_that_share_a_vdl_folder_leave_each_other_s_records(run_tool, config):
    for name in ("lenet_bn_mnist", "lenet_mnist"):
        result = run_tool(
            *("train", "-c", config(name), "-o", *SHORT[:4], "save_dir=runs"),
            *("--vdl_log_dir", "shared"),
        )
        assert result.code == 0, result.err
    assert {path.name for path in Path("shared").iterdir()} == {"lenet_bn_mnist", "lenet_mnist"}
    assert all(list(path.glob("train/vdlrecords.*.log")) for path in Path("shared").iterdir())


def test_a_flipped_bit_in_a_named_file_of_a_checkpoint_is_noticed(train, run_tool, config):
    train()
    path = FOLDER / "model_final/ema.pdparams"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    result = run_tool("eval", "-c", config("lenet_mnist"), "-o", f"weights={path}")
    assert result.code == 3
    assert result.err.endswith("ema.pdparams: checksum differs\n")


@pytest.mark.parametrize(
    "shell", ["{} | head -n 2", "{} >&-", "{} > /dev/full", "PYTHONIOENCODING=ascii {}"]
)
def test_a_screen_that_goes_away_or_is_narrow_does_not_end_a_run(tmp_path, shell):
    options = ("epoch=1", "TrainReader.batch_size=512", "log_iter=1", "save_dir='öffentlich'")
    command = (
        f"{sys.executable} {REPOSITORY}/tools/train.py -c {REPOSITORY}/configs/lenet_digits.yml"
    )
    command = f"{command} -o {' '.join(options)}"
    environment = {**os.environ, "HOME": str(tmp_path), "PPEMA_MIRRORS": ""}
    result = subprocess.run(
        ["bash", "-c", shell.format(command)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        timeout=120,
    )
    assert result.stderr == b""
    assert final_weights(tmp_path / "öffentlich/lenet_digits")
