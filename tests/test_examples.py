"""Each example runs as it stands, is short, uses ppema's library face, and says what is so."""

from __future__ import annotations

import ast
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

import ppema

FOLDER = Path(__file__).resolve().parents[1] / "examples"
# The data of the others, and a server, which tests/tools/test_deployment_docs.py starts.
_NO_LOOPS = ("synthetic", "serve")
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in _NO_LOOPS)
DECAYS = {"attach_to_optimizer": 0.5 ** (1 / 75), "gradient_accumulation": 0.5 ** (1 / 60)}
# Paddle's own, of its train_batch and its DataLoader.
pytestmark = pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run an example as its own process would; return its names, its last line and its steps."""

    def run_example(name, folder=FOLDER):
        monkeypatch.delitem(sys.modules, "synthetic", raising=False)
        steps = []
        step = paddle.optimizer.Adam.step

        def recording_step(optimizer):
            result = step(optimizer)
            # Of the first network's first layer; a second has weights of its own.
            steps.append(optimizer._parameter_list[0].numpy().astype("float64"))
            return result

        with monkeypatch.context() as patch, paddle.utils.unique_name.guard():
            patch.setattr(paddle.optimizer.Adam, "step", recording_step)
            names = runpy.run_path(str(folder / f"{name}.py"), run_name="__main__")
        return names, capsys.readouterr().out.splitlines()[-1], steps

    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(tmp_path)
    yield run_example
    sys.modules.pop("synthetic", None)


def printed(line):
    raw, averaged = re.search(r"raw ([\d.]+) %  averaged ([\d.]+) %$", line).groups()
    return float(raw), float(averaged)


def averaged_accuracy(names):
    if "averaged_model" in names:
        return names["accuracy"](names["averaged_model"])
    if "model_ema" in names:
        return names["accuracy"](names["model_ema"].module)
    average = names["callback"].average if "callback" in names else names["ema"]
    with average.average_parameters():
        return names["accuracy"](average.model)


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_prints_the_figures_of_its_weights_and_the_average_is_better(name, run):
    names, line, _ = run(name)
    raw, averaged = printed(line)
    network = names.get("layers", names["model"])
    assert raw == pytest.approx(names["accuracy"](network), abs=0.006)
    assert averaged == pytest.approx(averaged_accuracy(names), abs=0.006)
    assert averaged > raw
    assert raw > 80


@pytest.mark.parametrize(
    "name",
    [
        *("attach_to_optimizer", "gradient_accumulation", "mixed_precision", "plain_loop"),
        "stop_and_go_on",
    ],
)
def test_its_average_is_that_of_the_weights_after_each_step(name, run):
    names, _, steps = run(name)
    average = names["ema"]
    decay, wanted = DECAYS.get(name, 0.99), steps[0]
    for t, weight in enumerate(steps[1:], start=1):
        kept = min(decay, (1 + t) / (10 + t))
        wanted = kept * wanted + (1 - kept) * weight
    first = next(iter(average.averaged_state_dict().values())).numpy()
    # The weights before the first step, not seen here, keep 1e-5 after ten, and less than nothing.
    np.testing.assert_allclose(first, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_swa_is_the_mean_of_its_points(run):
    names, _, steps = run("swa_with_batch_norm")
    points = steps[309::10]
    assert int(names["averaged_model"].n_averaged) == len(points) == 30
    first = names["averaged_model"].module[0].weight.numpy()
    np.testing.assert_allclose(first, np.mean(points, 0), rtol=0, atol=1e-5)


def test_the_one_in_paddleclas_style_is_a_constant_decay(run):
    names, _, steps = run("paddleclas_style")
    wanted = steps[0]
    for weight in steps[1:]:
        wanted = 0.99 * wanted + 0.01 * weight
    first = names["model_ema"].module[0].weight.numpy()
    # The weights before the first step stand in for those after it, with a share of 0.99**500.
    np.testing.assert_allclose(first, wanted, rtol=0, atol=1e-2 * np.abs(wanted).max())
    assert set(paddle.load("best_model_ema.pdparams")) == set(names["model"].state_dict())


def test_the_one_that_stops_goes_on_with_the_same_bits(run):
    run("stop_and_go_on")
    names, line, _ = run("stop_and_go_on")
    assert line.startswith("epoch 4: ")
    assert names["ema"].num_updates == 400
    Path("run.pdstates").unlink()
    text = (FOLDER / "stop_and_go_on.py").read_text()
    Path("straight.py").write_text(text.replace("for _ in range(2):", "for _ in range(4):"))
    whole, _, _ = run("straight", Path())
    wanted = whole["ema"].averaged_state_dict()
    for key, tensor in names["ema"].averaged_state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), wanted[key].numpy(), key)


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_is_short_and_uses_the_library_face_alone(name):
    text = (FOLDER / f"{name}.py").read_text()
    assert len(text.splitlines()) < 40
    modules = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            modules.setdefault(node.module, set()).update(alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            modules.update({alias.name: set() for alias in node.names})
    assert modules.pop("ppema", set()) <= set(ppema.__all__)
    assert set(modules) <= {
        *("os", "paddle", "synthetic", "ppema.hapi", "ppema.integrations.paddleclas")
    }


def test_each_is_in_the_list():
    listed = re.findall(r"^\| \[(\w+)\.py\]\(\1\.py\) \|", (FOLDER / "README.md").read_text(), re.M)
    assert sorted(listed) == EXAMPLES
