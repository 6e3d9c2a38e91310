"""docs/migration.md: all of it runs, and what it calls equal is equal to the other's formula."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from networks import TinyBN

from ppema import (
    AveragedModel,
    ExponentialMovingAverage,
    ExponentialMovingAverageModel,
    LatestWeightAverage,
    PowerFunctionEMA,
    RunLength,
    StochasticWeightAverage,
    builder,
    posthoc_residual,
)
from ppema.averaging.decay import make_schedule
from ppema.builder.pretrained import load_pretrained
from ppema.config import ConfigError
from ppema.config.schema import FOREIGN_KEYS

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = (REPOSITORY / "docs/migration.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n# ([^\n]+)\n(.*?)```", PAGE, re.S)
BASE = f"_BASE_: {REPOSITORY}/configs/lenet_digits.yml\n"


def blocks(language, mark):
    return [text for kind, first, text in BLOCKS if (kind, first) == (language, mark)]


(PREAMBLE,) = blocks("python", "before each block")
(COPIED_CLASS,) = [text for text in blocks("python", "there") if text.startswith("class ")]


def run_block(text):
    """Run a block of the page after the page's preamble, and return what it leaves."""
    paddle.seed(0)
    namespace = {}
    exec(PREAMBLE, namespace)  # noqa: S102
    exec(text, namespace)  # noqa: S102
    return namespace


class OneWeight(paddle.nn.Layer):
    """A model of one weight, set by hand, so that an average of it is an average of numbers."""

    def __init__(self, value):
        super().__init__()
        self.weight = self.create_parameter([], dtype="float64")
        self.set(value)

    def set(self, value):
        self.weight.set_value(np.array(value))


WEIGHTS = np.random.RandomState(7).randn(1100)
INITIAL = 3.0


def averages_of(make, weights=WEIGHTS):
    """Return what an average here says after each update; `make` takes the model."""
    model = OneWeight(INITIAL)
    average = make(model)
    found = []
    for value in weights:
        model.set(value)
        if isinstance(average, AveragedModel):
            average.update_parameters(model)
            found.append(float(average.module.weight))
        else:
            average.update()
            found.append(float(average.averaged_state_dict()["weight"]))
    return np.array(found)


def ema_here(**arguments):
    return lambda model: ExponentialMovingAverage(model, shadow_dtype="float64", **arguments)


def running(decays, weights=WEIGHTS, start=INITIAL):
    """Return `value = d * value + (1 - d) * weight` after each update: every EMA there is this."""
    value, found = start, []
    for t, weight in enumerate(weights):
        d = decays(t)
        value = d * value + (1 - d) * weight
        found.append(value)
    return np.array(found)


# The page runs.


def test_every_block_is_marked_and_of_a_kind_that_is_tested_here():
    assert len(BLOCKS) + PAGE.count("```bash\n") == PAGE.count("```") / 2
    assert {(kind, mark) for kind, mark, _ in BLOCKS} == {
        ("python", "before each block"),
        *((kind, mark) for kind in ("python", "yaml") for mark in ("there", "here")),
    }


@pytest.mark.parametrize("text", blocks("python", "here"))
def test_python_runs_as_written(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("old.pdparams", "old.pdema"):
        paddle.save(paddle.vision.models.LeNet().state_dict(), name)
    run_block(text)


@pytest.mark.parametrize("text", blocks("yaml", "here"))
def test_yaml_is_read_and_checked_as_written(text, tmp_path):
    path = tmp_path / "mine.yml"
    path.write_text(BASE + text)
    builder.check(builder.read_config(str(path), []))


def test_training_starts_from_old_weights(tmp_path, monkeypatch):
    (section,) = re.findall(r"`(pretrain_weights: .*?)`", PAGE)
    monkeypatch.chdir(tmp_path)
    old = paddle.vision.models.LeNet().state_dict()
    paddle.save(old, "old.pdparams")
    Path("mine.yml").write_text(BASE + section + "\n")
    config = builder.read_config("mine.yml", [])
    model = builder.make_model(config)
    load_pretrained(config, model)
    for name, weight in model.state_dict().items():
        np.testing.assert_array_equal(weight.numpy(), old[name].numpy())


def test_half_life_replaces_the_decay_of_the_base_by_null(tmp_path):
    path = tmp_path / "mine.yml"
    assert "`decay: null, half_life: 5 %`" in PAGE
    average = "Averages: {ema: {name: ExponentialMovingAverage, %shalf_life: 5 %%}}\n"
    path.write_text(BASE + average % "decay: null, ")
    builder.check(builder.read_config(str(path), []))
    path.write_text(BASE + average % "")
    with pytest.raises(ConfigError, match="half_life must be left out where decay is given"):
        builder.check(builder.read_config(str(path), []))


@pytest.mark.parametrize("text", blocks("yaml", "there"))
def test_each_key_from_there_gets_a_line_that_says_what_to_write(text, tmp_path):
    path = tmp_path / "mine.yml"
    for line in text.splitlines():
        path.write_text(BASE + line + "\n")
        key = line.partition(":")[0]
        with pytest.raises(ConfigError, match=f"mine.yml:2: '{key}' ") as caught:
            builder.read_config(str(path), [])
        assert FOREIGN_KEYS[key] in str(caught.value)


@pytest.mark.parametrize("key", FOREIGN_KEYS)
def test_what_is_advised_for_a_foreign_key_is_a_config(key, tmp_path):
    advice = FOREIGN_KEYS[key].partition(" here: ")[2].partition("}};")
    path = tmp_path / "mine.yml"
    if re.match(r"\w+: \S", advice[0]) and key != "AMP":  # half precision needs a GPU
        path.write_text(BASE + advice[0] + advice[1].rstrip(";") + "\n")
        builder.check(builder.read_config(str(path), []))
    else:
        assert key in (
            *("AMP", "ema_filter_no_grad", "cycle_epoch", "DataLoader", "Global", "worker_num"),
            *("metric", "Metric"),
        )


def test_an_old_file_is_evaluated_by_the_command_as_typed(tmp_path):
    (command,) = re.findall(r"```bash\n(.*?)\n```", PAGE, re.S)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    (tmp_path / "tools").symlink_to(REPOSITORY / "tools")
    paddle.save(paddle.vision.models.LeNet().state_dict(), str(tmp_path / "old.pdparams"))
    result = subprocess.run(
        command.replace(".venv/bin/python", sys.executable).split(),
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "PPEMA_MIRRORS": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert re.search(r"^old  top1 [\d.]+ %", result.stdout, re.M)


def test_every_bug_that_is_linked_has_a_row_and_rows_are_numbered_in_order():
    rows = re.findall(r'^\| <a id="b(\d+)"></a>B(\d+) \|', PAGE, re.M)
    assert [(int(a), int(b)) for a, b in rows] == [(n, n) for n in range(1, len(rows) + 1)]
    links = re.findall(r"\[B(\d+)\]\(#b(\d+)\)", PAGE)
    assert all(text == target and int(text) <= len(rows) for text, target in links)


# PaddleDetection.


def detection(kind, decay, weights=WEIGHTS):
    """Return what its three decay types give: from zeros, two of them divided when read."""
    decays = {
        "threshold": lambda t: min(decay, (1 + t) / (10 + t)),
        "exponential": lambda t: decay * (1 - math.exp(-(t + 1) / 2000)),
        "normal": lambda t: decay,
    }[kind]
    raw = running(decays, weights, start=0.0)
    if kind == "exponential":
        return raw
    return raw / [1 - decays(t) ** (t + 1) for t in range(len(weights))]


def test_normal_is_constant_with_debias():
    found = averages_of(ema_here(decay=0.9998, schedule="constant", debias=True))
    np.testing.assert_allclose(found, detection("normal", 0.9998), rtol=0, atol=1e-12)
    without = averages_of(ema_here(decay=0.9998, schedule="constant"))
    initial = (without - running(lambda t: 0.9998, start=0.0)) / INITIAL
    assert initial[999] == pytest.approx(0.82, abs=0.002)


def test_exponential_is_equal_from_the_third_update_on():
    found = averages_of(ema_here(decay=0.9998, schedule="exponential", tau=2000))
    difference = np.abs(found - detection("exponential", 0.9998))
    assert difference[1] == pytest.approx(5e-7 * INITIAL, rel=0.01)
    assert difference[2:].max() < 1e-8


def test_threshold_is_equal_but_for_their_division():
    ones = np.ones(1000)
    theirs = detection("threshold", 0.9998, ones)
    np.testing.assert_allclose(
        [theirs[1], theirs[9], theirs[999]], [1.0154, 1.0016, 1.00013], atol=4e-5
    )
    assert (averages_of(ema_here(schedule="threshold", debias=True), ones) == 1.0).all()
    undivided = detection("threshold", 0.9998) * [
        1 - min(0.9998, (1 + t) / (10 + t)) ** (t + 1) for t in range(len(WEIGHTS))
    ]
    found = averages_of(ema_here(decay=0.9998, schedule="threshold"))
    initial = (found - undivided) / INITIAL
    assert initial[9] == pytest.approx(1e-5, rel=0.1)
    np.testing.assert_allclose(found[100:], undivided[100:], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("schedule", "decays"),
    [
        ("constant", lambda t: 0.99),
        ("threshold", lambda t: min(0.99, (1 + t) / (10 + t))),
        ("exponential", lambda t: 0.99 * (1 - math.exp(-(t + 1) / 2000))),
        ("power", lambda t: min(0.99, 1 - (1 + t) ** (-2 / 3))),
    ],
)
def test_debias_divides_by_the_sum_of_all_shares(schedule, decays):
    shares = running(decays, np.ones(len(WEIGHTS)), start=0.0)
    found = averages_of(ema_here(decay=0.99, schedule=schedule, debias=True))
    expected = running(decays, start=0.0) / shares
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("debias", [False, True])
def test_an_old_average_goes_on_as_if_it_had_never_stopped(debias, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = {"decay": 0.9998, "schedule": "constant" if debias else "threshold"}
    whole = averages_of(ema_here(**arguments, debias=debias))
    state = {"weight": paddle.to_tensor(whole[999], dtype="float64")}
    model = OneWeight(0.0)
    model.set_state_dict(state)
    ema = ema_here(**arguments, debias=debias)(model)
    extra = {"normalizer": 1 - 0.9998**1000} if debias else {}
    ema.set_state_dict({**ema.state_dict(), "num_updates": 1000, **extra})
    for value in WEIGHTS[1000:]:
        model.set(value)
        ema.update()
    found = float(ema.averaged_state_dict()["weight"])
    assert found == pytest.approx(whole[-1], abs=1e-12)
    if debias:  # what they do: the corrected value is taken for the accumulator
        raw = running(lambda t: 0.9998, np.ones(1), start=1.0)[-1]
        assert raw / (1 - 0.9998**1001) == pytest.approx(5.51, abs=0.01)
        assert raw / (1 - 0.9998**5001) == pytest.approx(1.58, abs=0.01)


def test_the_block_that_goes_on_keeps_average_raw_weights_and_count(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = [text for text in blocks("python", "here") if "old.pdema" in text]
    for name in ("old.pdparams", "old.pdema"):
        paddle.save(paddle.vision.models.LeNet().state_dict(), name)
    names = run_block(block)
    average, raw = paddle.load("old.pdparams"), paddle.load("old.pdema")
    averaged, live = names["ema"].averaged_state_dict(), names["model"].state_dict()
    for name in raw:
        np.testing.assert_array_equal(averaged[name].numpy(), average[name].numpy())
        np.testing.assert_array_equal(live[name].numpy(), raw[name].numpy())
    assert names["ema"].update() == min(0.9998, 12001 / 12010)


# The copied class.


def test_the_copied_class_is_equal_step_by_step():
    theirs = run_block(COPIED_CLASS)["ExponentialMovingAverage"]
    paddle.seed(3)
    model = TinyBN()
    optimizer = paddle.optimizer.Momentum(0.05, parameters=model.parameters())
    ema, copied = ExponentialMovingAverage(model, 0.97, buffers="copy"), theirs(model, 0.97)
    copied.register()
    for _ in range(300):
        model(paddle.randn([4, 1, 28, 28])).square().mean().backward()
        optimizer.step()
        optimizer.clear_grad()
        ema.update()
        copied.update()
    averaged, live = ema.averaged_state_dict(), model.state_dict()
    assert set(live) - set(copied.shadow) == {"bn._mean", "bn._variance"}
    for name, tensor in averaged.items():
        expected = copied.shadow.get(name, live[name].numpy())
        scale = np.abs(expected).max()
        np.testing.assert_allclose(tensor.numpy(), expected, rtol=0, atol=5e-6 * scale)


def test_two_applies_lose_the_raw_weights_there_and_are_an_error_here():
    theirs = run_block(COPIED_CLASS)["ExponentialMovingAverage"]
    model = paddle.nn.Linear(1, 1, bias_attr=False)
    model.weight.set_value(np.full([1, 1], 1.0, "float32"))
    ema, copied = ExponentialMovingAverage(model, 0.5), theirs(model, 0.5, thres_steps=False)
    copied.register()
    model.weight.set_value(np.full([1, 1], 2.0, "float32"))
    copied.update()
    copied.apply()
    copied.apply()
    copied.restore()
    assert model.weight.item() == 1.5
    model.weight.set_value(np.full([1, 1], 2.0, "float32"))
    ema.update()
    ema.apply()
    with pytest.raises(RuntimeError, match="applied already"):
        ema.apply()
    ema.restore()
    assert model.weight.item() == 2.0


# PyTorch, timm, mmengine, ema-pytorch, PaddleClas.


def first_is_copied(decays):
    return running(lambda t: decays(t) if t else 0.0)


def timm_with_warm_up(t, limit=0.9, update_after_step=0):
    step = max(0, (t + 1) - update_after_step - 1)  # its training loop counts steps from 1
    return min(limit, 1 - (1 + step / 1.0) ** (-2 / 3)) if step > 0 else 0.0


EQUAL = {
    "PaddleClas": (
        ema_here(decay=0.9999, schedule="constant"),
        running(lambda t: 0.9999),
    ),
    "torch SWA": (AveragedModel, np.cumsum(WEIGHTS) / np.arange(1, len(WEIGHTS) + 1)),
    "torch EMA": (
        lambda model: ExponentialMovingAverageModel(model, 0.999),
        first_is_copied(lambda t: 0.999),
    ),
    "torch SWA by steps": (
        lambda model: StochasticWeightAverage(model, shadow_dtype="float64"),
        np.cumsum(WEIGHTS) / np.arange(1, len(WEIGHTS) + 1),
    ),
    "timm with warm-up": (
        ema_here(decay=0.9, schedule="power", gamma=1.0, power=0.6666667),
        running(timm_with_warm_up),
    ),
    "mmengine annealing": (
        ema_here(decay=1 - 0.01, schedule="power", gamma=100, power=1.0),
        first_is_copied(lambda t: 1 - max(0.01, 100 / (100 + t))),
    ),
}


@pytest.mark.parametrize("who", EQUAL)
def test_the_formula_there_gives_the_average_here(who):
    make, expected = EQUAL[who]
    np.testing.assert_allclose(averages_of(make), expected, rtol=0, atol=2e-7)


@pytest.mark.parametrize("decay", [0.999, 0.9998])
def test_registered_after_the_first_step_a_constant_decay_is_torch_s_and_timm_s(decay):
    def make(model):
        model.set(WEIGHTS[0])
        return ema_here(decay=decay, schedule="constant")(model)

    expected = first_is_copied(lambda t: decay)[1:]
    np.testing.assert_allclose(averages_of(make, WEIGHTS[1:]), expected, rtol=0, atol=1e-12)


def test_mmdetection_s_momentum_is_the_exponential_schedule():
    here = make_schedule("exponential", 1 - 0.0002, 2000, 1.0, 1.0)
    for t in (0, 1, 100, 5000, 50_000):
        momentum = (1 - 0.0002) * math.exp(-(1 + t) / 2000) + 0.0002
        assert here(t) == pytest.approx(1 - momentum, abs=1e-12)


def test_every_kth_step_there_is_the_root_of_the_decay_here():
    kept_there = running(lambda t: 0.9, WEIGHTS[9::10])
    here = averages_of(ema_here(decay=0.9 ** (1 / 10), schedule="constant", update_every=10))
    np.testing.assert_allclose(here[9::10], kept_there, rtol=0, atol=1e-12)


def mean_age(found, ramp):
    """Return how far behind the run an average is, in steps, where each weight is its step."""
    return ramp[-1] - found


def test_ema_pytorch_s_window_and_what_becomes_of_it_without_the_root():
    steps = 20_000
    ramp = np.arange(steps, dtype="float64")

    def there(t):  # t is the step, of which every tenth is folded in
        return 0.0 if t <= 100 else min(0.9999, 1 - (t - 100) ** (-2 / 3))

    value = 0.0
    for t in range(0, steps, 10):
        value = there(t) * value + (1 - there(t)) * ramp[t]
    schedules = {
        "as on the page": make_schedule("power", 0.9999 ** (1 / 10), 1, 0.0316, 2 / 3),
        "as it stands": make_schedule("power", 0.9999, 1, 1.0, 2 / 3),
    }
    ages = {}
    for name, decay in schedules.items():
        ages[name] = mean_age(running(decay, ramp, start=0.0)[-1], ramp)
    wanted = mean_age(value, ramp)
    assert ages["as on the page"] == pytest.approx(wanted, rel=0.02)
    assert ages["as it stands"] < wanted / 5


@pytest.mark.parametrize("update_every", [1, 10, 100])
def test_the_power_function_keeps_its_width_at_any_interval(update_every):
    ramp = np.arange(1, 10_001) / 10_000
    model = OneWeight(0.0)
    average = PowerFunctionEMA(model, 0.10, update_every=update_every, shadow_dtype="float64")
    for value in ramp:
        model.set(value)
        average.update()
    found = float(average.averaged_state_dict()["weight"])
    assert 0.888 <= found < 0.8935


def test_the_mixed_snapshots_are_near_the_ema_of_the_wanted_width():
    (block,) = [text for text in blocks("python", "here") if "posthoc" in text]
    names = run_block(block)
    shares, times, widths = names["shares"], names["times"], names["widths"]
    assert len(times) == len(widths) == len(names["snapshots"]) == 16
    assert shares.sum() == pytest.approx(1.0)
    assert posthoc_residual(times, widths, 32, 0.15) < 0.05
    run = block.replace("(0.05, 0.10)]", "(0.15,)]").partition("times, widths =")[0]
    direct = run_block(run)["averages"][0].averaged_state_dict()
    last = names["snapshots"][-1]
    for name, tensor in names["mixed"].items():
        off = np.abs(tensor.numpy() - direct[name].numpy()).max()
        moved = np.abs(last[name].numpy() - direct[name].numpy()).max()
        assert off < 0.1 * moved, name


def test_swalr_of_the_page_anneals_as_torch_does():
    (block,) = [text for text in blocks("python", "here") if "SWALR" in text]
    names = run_block(block)
    schedule = names["scheduler"]
    for epoch in range(25):
        # There the first step of SWALR is after the first epoch that is averaged.
        done = min(1.0, max(0.0, (epoch - 14) / 5))
        alpha = (1 - math.cos(math.pi * done)) / 2
        schedule.step(epoch)
        assert schedule.get_lr() == pytest.approx(0.005 * alpha + 0.01 * (1 - alpha))
    assert int(names["averaged"].n_averaged) == 5


def test_swa_from_80_percent_takes_the_ends_of_the_last_epochs():
    run = RunLength(num_steps=200, steps_per_epoch=10, images_per_step=1)
    model = OneWeight(0.0)
    swa = StochasticWeightAverage(model, start="80 %", every="1 epochs", run=run)
    for step in range(1, 201):
        model.set(float(step))
        swa.update()
    assert swa.num_points == 5
    assert float(swa.averaged_state_dict()["weight"]) == 180.0


def test_a_latest_weight_average_stands_for_paddle_s_model_average():
    found = averages_of(lambda model: LatestWeightAverage(model, k=20, every=50))
    assert found[-1] == pytest.approx(WEIGHTS[49::50][-20:].mean(), abs=1e-6)
