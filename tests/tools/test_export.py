"""tools/export_model.py writes the chosen weights, and what is written answers as they do."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from faulty_disk import Fault, FaultyDisk
from in_process import REPOSITORY
from networks import Oddities, TinyBN
from PIL import Image

from ppema import ExponentialMovingAverage
from ppema.data import Preprocess
from ppema.data.digits import load_digits
from ppema.errors import CheckpointError, ConfigError, DataError, NonFiniteError, StorageError
from ppema.export import Predictor, export_model

FOLDER = Path("output_inference/lenet_digits")
FILES = {"model.json", "model.pdiparams", "infer_cfg.yml"}
DIGITS = Preprocess((1, 28, 28), "uint8", 127.5, 127.5)
CLASSES = tuple("0123456789")


@pytest.fixture
def export(run_tool, config, digits_run):
    """Return a function that exports the weights of the shared run."""

    def run(*arguments, keys=()):
        weights = f"weights={digits_run}/lenet_digits"
        return run_tool(
            "export_model", "-c", config("lenet_digits"), *arguments, "-o", weights, *keys
        )

    return run


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return the folder of a small model's export, to be read; and the model."""
    paddle.seed(0)
    model, folder = TinyBN(), tmp_path_factory.mktemp("exported") / "model"
    export_small(model, folder)
    return folder, model


def noise(num_images=4):
    return np.random.RandomState(0).standard_normal((num_images, 1, 28, 28)).astype("float32")


def export_small(model, folder, **options):
    return export_model(model, DIGITS, CLASSES, {}, noise(), "noise", folder, **options)


def set_bias(model, value):
    model.fc.bias.set_value(np.full(10, value, "float32"))


def values(state):
    """Return the values of a state, whatever its names are, in one order."""
    return sorted(tensor.numpy().tobytes() for tensor in state.values())


def test_the_winner_s_weights_are_exported_to_the_bit(export, digits_run):
    result = export()
    assert (result.code, result.err) == (0, "")
    assert {path.name for path in FOLDER.iterdir()} == FILES
    assert re.search(r"^weights: ema of lenet_digits/step_\d+, ", result.out, re.M)
    assert re.search(r"^checked on 16 images: evaluation images \(the embedded", result.out, re.M)
    assert re.search(r"^model\.json: largest difference .* \d", result.out, re.M)
    # Of any number of pictures.
    assert '"D":[-1,1,28,28]' in (FOLDER / "model.json").read_text()
    program = paddle.jit.load(str(FOLDER / "model"))
    saved = paddle.load(str(digits_run / "lenet_digits/best_model/ema.pdparams"))
    assert values(program.state_dict()) == values(saved)
    raw = paddle.load(str(digits_run / "lenet_digits/best_model/model.pdparams"))
    assert values(raw) != values(saved)


def test_average_chooses_what_is_exported(export, digits_run):
    assert export("--average", "raw", "--output_dir", "raw").code == 0
    raw = paddle.load(str(digits_run / "lenet_digits/best_model/model.pdparams"))
    assert values(paddle.jit.load("raw/model").state_dict()) == values(raw)
    facts = yaml.safe_load(Path("raw/infer_cfg.yml").read_text())
    assert facts["source"]["average"] == "raw"
    assert export("--average", "swa").code == 2
    assert export("--average", "all").code == 2


def test_infer_cfg_says_what_goes_in_and_comes_out_and_where_it_is_from(export, digits_run):
    export()
    facts = yaml.safe_load((FOLDER / "infer_cfg.yml").read_text())
    manifest = json.loads((digits_run / "lenet_digits/best_model/manifest.json").read_text())
    assert facts["input"] == {"name": "image", "shape": [-1, 1, 28, 28], "dtype": "float32"}
    assert facts["output"] == {"shape": [-1, 10], "dtype": "float32"}
    assert facts["preprocess"] == DIGITS.to_dict() == manifest["data"]["preprocess"]
    assert facts["class_names"] == list(CLASSES)
    assert facts["source"] == {
        "config": "lenet_digits",
        "checkpoint": f"lenet_digits/step_{manifest['step']:09d}",
        "step": manifest["step"],
        "epoch": 1,
        "average": "ema",
        "figures": manifest["metrics"]["ema"],
        "figures_on": "test",
        "weights": {
            "file": "ema.pdparams",
            "sha256": manifest["files"]["ema.pdparams"]["sha256"],
        },
    }
    assert facts["check"]["model.json"]["num_images"] == 16
    assert 0 <= facts["check"]["model.json"]["largest_difference"] < 1e-4
    assert facts["made_by"]["paddle"] == paddle.__version__
    assert str(digits_run) not in (FOLDER / "infer_cfg.yml").read_text()


def test_fast_forms_of_layers_leave_no_trace(export):
    found = []
    for value in ("true", "false"):
        assert export("--output_dir", value, keys=(f"fast_cpu={value}",)).code == 0
        # Layers are counted through the life of a process.
        program = re.sub(r"_\d+/", "/", (Path(value) / "model.json").read_text())
        found.append((program, (Path(value) / "model.pdiparams").read_bytes()))
    assert found[0] == found[1]


def test_an_export_is_only_replaced_when_asked_and_nothing_else_ever_is(export):
    assert export().code == 0
    before = (FOLDER / "infer_cfg.yml").read_bytes()
    result = export("--average", "raw")
    assert result.code == 2
    assert result.err == f"{FOLDER} holds an export; name another folder, or --overwrite\n"
    assert (FOLDER / "infer_cfg.yml").read_bytes() == before
    assert export("--average", "raw", "--overwrite").code == 0
    assert (FOLDER / "infer_cfg.yml").read_bytes() != before
    assert [path.name for path in FOLDER.parent.iterdir()] == ["lenet_digits"]
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years")
    Path("file").write_text("")
    for target, said in (("mine", "mine holds other files"), ("file", "file: is no folder")):
        result = export("--output_dir", target, "--overwrite")
        assert result.code == 2
        assert said in result.err
    assert os.listdir("mine") == ["thesis.txt"]


def test_noise_stands_in_for_data_that_are_not_at_hand(run_tool, config, digits_run, monkeypatch):
    """As a run on MNIST finds it on a machine without MNIST; nothing is downloaded."""
    monkeypatch.setenv("PPEMA_MIRRORS", "http://127.0.0.1:1/")
    weights = f"weights={digits_run}/lenet_digits"
    result = run_tool(
        *("export_model", "-c", config("lenet_digits"), "--output_dir", "out", "-o", weights),
        "EvalDataset={name: MNIST, mode: test, dataset_dir: nowhere}",
    )
    assert result.code == 0, result.err
    said = "16 images: seeded noise (as the evaluation data are not at hand: the run was trained on"
    assert said in result.out


def test_batch_norm_exports_the_statistics_of_the_average_and_evaluates(tmp_path):
    paddle.seed(1)
    model = TinyBN()
    ema = ExponentialMovingAverage(model, decay=0.5, schedule="constant")
    optimizer = paddle.optimizer.SGD(0.1, parameters=model.parameters())
    for seed in range(3):
        image = paddle.to_tensor(3 + np.random.RandomState(seed).rand(8, 1, 28, 28).astype("f4"))
        model(image).square().mean().backward()
        optimizer.step()
        optimizer.clear_grad()
        ema.update()
    wanted = ema.averaged_state_dict()
    with ema.average_parameters():
        model.eval()
        expected = model(paddle.to_tensor(noise())).numpy()
        model.train()
        export_small(model, tmp_path / "out")
        assert model.training
    assert values(paddle.jit.load(str(tmp_path / "out/model")).state_dict()) == values(wanted)
    predictor = Predictor(tmp_path / "out")
    np.testing.assert_allclose(predictor.logits(noise()), expected, atol=1e-5)
    # Not the statistics of the batch, nor of the raw model.
    np.testing.assert_allclose(predictor.logits(noise()[:1]), expected[:1], atol=1e-5)
    model.eval()
    assert np.abs(model(paddle.to_tensor(noise())).numpy() - expected).max() > 1e-2


def test_odd_weights_are_exported_too(tmp_path):
    paddle.seed(0)

    class Flat(Oddities):
        def forward(self, image):
            return super().forward(paddle.flatten(image, 1))

    checks = export_small(Flat(), tmp_path / "out")
    assert checks["model.json"].is_passed
    assert Predictor(tmp_path / "out").logits(noise(3)).shape == (3, 10)


class Restless(TinyBN):
    """A model that gives something else each time it is asked."""

    def forward(self, image):
        return super().forward(image) + paddle.rand([1])


class Untraceable(TinyBN):
    def forward(self, image):
        return super().forward(paddle.to_tensor(np.array(image.numpy())))


class FixedBatch(TinyBN):
    """A model that was written for batches of one size."""

    def forward(self, image):
        return super().forward(image).reshape([4, 10])


@pytest.mark.parametrize(
    ("cls", "error", "said"),
    [
        (Restless, CheckpointError, r"model\.json gives other logits than the model, by up to 0\."),
        (Untraceable, ConfigError, r"the model \(Untraceable\) cannot be exported: "),
        (FixedBatch, CheckpointError, r"the exported model does not take 1 images: "),
    ],
)
def test_a_model_that_does_not_answer_alike_is_not_exported(tmp_path, cls, error, said):
    paddle.seed(0)
    with pytest.raises(error, match=said) as caught:
        export_small(cls(), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_refused(tmp_path):
    model = TinyBN()
    set_bias(model, float("inf"))
    with pytest.raises(NonFiniteError, match=r"fc\.bias holds Inf; refusing to export them"):
        export_small(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_whatever_the_disk_refuses_the_folder_is_whole_or_as_it_was(tmp_path):
    paddle.seed(0)
    model, folder = TinyBN(), tmp_path / "out"
    export_small(model, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    set_bias(model, 1.0)
    with FaultyDisk(tmp_path) as disk:
        export_small(model, folder, overwrite=True)
    num_changes = len(disk.changes)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after["model.pdiparams"] != before["model.pdiparams"]
    assert num_changes > 8
    refused = 0
    for number in range(num_changes):
        # Another one each time.
        set_bias(model, float(number + 2))
        standing = {path.name: path.read_bytes() for path in folder.iterdir()}
        fault = FaultyDisk(tmp_path, Fault(number, errno.ENOSPC))
        with contextlib.suppress(StorageError), fault:
            export_small(model, folder, overwrite=True)
            # Of what is tidied away once the export stands.
            standing = None
        found = {path.name: path.read_bytes() for path in folder.iterdir()}
        is_new = np.allclose(Predictor(folder).logits(noise()), evaluated(model), atol=1e-4)
        assert is_new or found == standing
        refused += not is_new
    assert refused >= 6


def evaluated(model, images=None):
    model.eval()
    return model(paddle.to_tensor(noise() if images is None else images)).numpy()


@pytest.fixture
def copy(exported, tmp_path):
    """Return a copy of the small export, to be damaged."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in exported[0].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_a_predictor_takes_bytes_paths_and_arrays_and_gives_one_answer(exported, tmp_path):
    folder, model = exported
    digit = load_digits("test").images[3]
    buffer = io.BytesIO()
    Image.fromarray(digit[0]).save(buffer, format="PNG")
    path = tmp_path / "digit.png"
    path.write_bytes(buffer.getvalue())
    predictor = Predictor(str(folder))
    answers = [predictor(picture) for picture in (buffer.getvalue(), path, str(path), digit)]
    assert all(answer == answers[0] for answer in answers)
    logits = evaluated(model, DIGITS(digit)[np.newaxis])[0].astype("float64")
    shares = np.exp(logits) / np.exp(logits).sum()
    order = np.argsort(-shares)[:5]
    assert [name for name, _ in answers[0]] == [CLASSES[index] for index in order]
    assert [share for _, share in answers[0]] == pytest.approx(shares[order], rel=1e-4)
    assert len(predictor(digit, top_k=3)) == 3
    assert sum(share for _, share in predictor(digit, top_k=99)) == pytest.approx(1.0, abs=1e-12)
    for size in (1, 3, 2):
        np.testing.assert_allclose(
            predictor.logits(noise(size)), evaluated(model, noise(size)), atol=1e-5
        )
    with pytest.raises(DataError, match="the picture: is no image"):
        predictor(b"no picture")


def test_threads_that_share_a_predictor_get_their_own_answers(exported, request):
    request.addfinalizer(partial(sys.setswitchinterval, sys.getswitchinterval()))
    sys.setswitchinterval(1e-6)
    predictor, images = Predictor(exported[0]), load_digits("test").images[:8]
    expected = [predictor(image) for image in images]
    found = {}

    def ask(index):
        found[index] = [predictor(images[index]) for _ in range(20)]

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {index: [answer] * 20 for index, answer in enumerate(expected)}


@pytest.mark.parametrize("name", ["model.json", "model.pdiparams"])
def test_a_damaged_or_missing_file_is_named(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}: checksum differs from infer_cfg.yml"):
        Predictor(copy)
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: No such file"):
        Predictor(copy)


@pytest.mark.parametrize(
    ("name", "content"), [("model.json", b"[]"), ("model.pdiparams", bytes(range(1, 200)))]
)
def test_a_stranger_s_file_with_its_digest_is_refused(copy, name, content):
    digest = hashlib.sha256((copy / name).read_bytes()).hexdigest()
    (copy / name).write_bytes(content)
    description = copy / "infer_cfg.yml"
    text = description.read_text()
    description.write_text(text.replace(digest, hashlib.sha256(content).hexdigest()))
    with pytest.raises(CheckpointError, match="Paddle cannot load it"):
        Predictor(copy)


def test_a_class_whose_name_is_no_text_is_refused(copy):
    description = copy / "infer_cfg.yml"
    text = re.sub(
        r"class_names:.*?\n(?=\S)",
        "class_names: [1, 2]\n",
        description.read_text(),
        flags=re.DOTALL,
    )
    description.write_text(text)
    with pytest.raises(CheckpointError, match="class_names holds what is no text"):
        Predictor(copy)


@pytest.mark.parametrize(
    ("found", "put", "said"),
    [
        ("format: 1", "format: 2", r"infer_cfg\.yml: format 2, this ppema reads 1"),
        ("class_names:", "classes:", r"infer_cfg\.yml: has no class_names"),
        ("dtype: uint8", "dtype: uint16", r"infer_cfg\.yml: dtype must be uint8 or float32"),
        ("mean: 127.5", "mean: [1, 2]", r"infer_cfg\.yml: mean .* for 1 channels"),
        ("format: 1", "format: !!python/object:os.system 1", r"infer_cfg\.yml:1: tags"),
        ("class_names: [", "class_names: [more, ", r"infer_cfg\.yml: names 11 classes, .* 10"),
    ],
)
def test_a_description_that_does_not_fit_is_named(copy, found, put, said):
    path = copy / "infer_cfg.yml"
    text = path.read_text()
    assert found in text
    path.write_text(text.replace(found, put, 1))
    with pytest.raises(CheckpointError, match=said):
        Predictor(copy)


def test_a_folder_without_an_export_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no export \(infer_cfg\.yml is missing\)"):
        Predictor(tmp_path)


def test_class_names_of_any_kind_come_back_as_text(tmp_path):
    names = ("0", "no", "1e3", "猫", 'a "b"', "c: d", "", "null", "- x", "#")
    export_model(TinyBN(), DIGITS, names, {}, noise(), "noise", tmp_path / "out")
    assert Predictor(tmp_path / "out").class_names == names
    text = (tmp_path / "out/infer_cfg.yml").read_text()
    assert [str(name) for name in yaml.safe_load(text)["class_names"]][3:] == list(names[3:])


@pytest.mark.parametrize("missing", ["paddle2onnx", "onnxruntime"])
def test_onnx_without_its_extra_is_one_line_and_installs_nothing(export, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr(subprocess, "Popen", None)
    result = export("--onnx")
    assert result.code == 2
    assert missing in result.err
    assert "pip install 'ppema[onnx]'" in result.err
    assert len(result.err.splitlines()) == 1
    assert not FOLDER.exists()


def test_onnx_answers_as_the_model_and_nothing_is_installed(export, monkeypatch):
    for name in ("paddle2onnx", "onnxruntime"):
        pytest.importorskip(name)
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setenv("POLYGRAPHY_AUTOINSTALL_DEPS", "1")
    result = export("--onnx")
    assert result.code == 0, result.err
    assert {path.name for path in FOLDER.iterdir()} == FILES | {"model.onnx"}
    facts = yaml.safe_load((FOLDER / "infer_cfg.yml").read_text())
    assert facts["check"]["model.onnx"]["largest_difference"] < 1e-4
    assert "model.onnx" in facts["files"]


def test_the_server_answers_pictures_and_says_what_is_none(exported, tmp_path):
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "examples/serve.py"), str(exported[0]), "0"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        address = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
        buffer = io.BytesIO()
        Image.fromarray(load_digits("test").images[3][0]).save(buffer, format="PNG")
        with urllib.request.urlopen(address, data=buffer.getvalue(), timeout=30) as response:
            assert response.headers["Content-Type"] == "application/json"
            answer = json.loads(response.read())
        expected = Predictor(exported[0])(buffer.getvalue())
        assert [name for name, _ in answer] == [name for name, _ in expected]
        assert [share for _, share in answer] == pytest.approx([share for _, share in expected])
        for body in (b"text", b""):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(address, data=body, timeout=30)
            assert refused.value.code == 400
            assert json.loads(refused.value.read())["error"].startswith("the picture: is ")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_the_server_has_ten_lines():
    text = (REPOSITORY / "examples/serve.py").read_text()
    body = text.partition("predictor = ")[2]
    assert len([line for line in body.splitlines() if line.strip()]) <= 16
