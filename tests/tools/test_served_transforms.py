"""What serves a run feeds its model what the run's evaluation fed it, transforms and all."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from in_process import REPOSITORY, line_of, run_in
from PIL import Image

from ppema import builder
from ppema.errors import CheckpointError
from ppema.export import Predictor

CONFIG = f"""_BASE_: {REPOSITORY}/configs/lenet_digits.yml
use_vdl: false
epoch: 1
TrainDataset: {{name: ImageFolder, mode: train, dataset_dir: pictures, split: 0.8%s}}
EvalDataset: {{name: ImageFolder, mode: test, dataset_dir: pictures, split: 0.8%s}}
TrainReader: {{batch_size: 4, num_workers: 0, transforms: %s}}
EvalReader: {{batch_size: 4, num_workers: 0, transforms: %s}}
Model: {{name: paddle.vision.models.LeNet, num_classes: 2}}
"""
OWN_SIZE = (
    "[{name: Resize, size: 30}, {name: CenterCrop, size: 28}, {name: Grayscale}, "
    "{name: Normalize, mean: 100.0, std: 50.0}]"
)
PADDED = ", image_size: [28, 28], channels: 1, resize: pad, mean: 99.0, std: 88.0"
MY_TRANSFORMS = """
class Invert:
    def __init__(self, limit: int = 255):
        self.limit = limit

    def __call__(self, picture):
        return picture.point(lambda pixel: self.limit - pixel)
"""
INVERT = "[{name: serving_transforms.Invert, limit: %d}]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with pictures of many sizes, and three runs on them."""
    folder, random = tmp_path_factory.mktemp("served"), np.random.RandomState(0)
    for label, name in enumerate(("red", "blue")):
        for number in range(10):
            pixels = random.randint(0, 99, (20 + number, 40 - number, 3)).astype(np.uint8)
            pixels[:, :, 2 * label] += 150
            path = folder / "pictures" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    (folder / "serving_transforms.py").write_text(MY_TRANSFORMS)
    sys.path.insert(0, str(folder))
    try:
        for name, (dataset, transforms) in {
            "own_size": ("", OWN_SIZE),
            "padded": (PADDED, "[]"),
            "of_mine": (PADDED, INVERT % 255),
        }.items():
            content = CONFIG % (dataset, dataset, transforms, transforms)
            (folder / f"{name}.yml").write_text(content)
            run_in(folder, "train", "-c", f"{name}.yml", "--eval")
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("serving_transforms")
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    """Work in the folder, where the user's modules can be imported."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    sys.modules.pop("serving_transforms", None)


def evaluated(name):
    """Return the files of the evaluation, what it fed the model for them, and the model's shares.

    Read anew from the folder, without what the run's manifest says.
    """
    config = builder.read_config(f"{name}.yml", [])
    request = config.EvalDataset.cls(**config.EvalDataset.arguments)
    dataset = builder.load_eval_data(config, {})
    fed = np.concatenate([b.image for b in builder.make_eval_reader(config, dataset).batches(1)])
    folders = sorted(path for path in Path(request.dataset_dir).iterdir())
    order = [np.random.RandomState([0, label]).permutation(10)[8:] for label in (0, 1)]
    files = [p / f"{n}.png" for p, numbers in zip(folders, order) for n in sorted(numbers)]
    model = paddle.vision.models.LeNet(num_classes=2)
    manifest = json.loads(Path(f"output/{name}/best_model/manifest.json").read_text())
    winner = {"raw": "model"}.get(manifest["winner"], manifest["winner"])
    model.set_state_dict(paddle.load(f"output/{name}/best_model/{winner}.pdparams"))
    model.eval()
    shares = paddle.nn.functional.softmax(model(paddle.to_tensor(fed))).numpy()
    return files, fed, shares


def answers(name):
    """Return the probabilities that infer.py wrote, by file, in the order of the classes."""
    facts = json.loads(Path(f"output/{name}/infer/predictions.json").read_text())
    return {
        entry["file"]: [
            guess["probability"] for guess in sorted(entry["classes"], key=lambda g: g["class_id"])
        ]
        for entry in facts["predictions"]
    }


@pytest.mark.parametrize("name", ["own_size", "padded"])
def test_infer_and_the_export_are_fed_what_the_evaluation_fed(here, run_tool, name, monkeypatch):
    monkeypatch.chdir(here)
    files, fed, shares = evaluated(name)
    served = builder.load_served(builder.read_config(f"{name}.yml", []), None)
    assert run_tool("infer", "-c", f"{name}.yml", "--infer_dir", "pictures").code == 0
    result = run_tool("export_model", "-c", f"{name}.yml")
    assert (result.code, result.err) == (0, "")
    assert "checked on 16 images: evaluation images (test images (4 in 2 classes)" in result.out
    predictor = Predictor(f"output_inference/{name}")
    found = answers(name)
    for file, image, share in zip(files, fed, shares):
        assert served.preprocess(file).tobytes() == image.tobytes()
        assert predictor.preprocess(file).tobytes() == image.tobytes()
        assert found[str(file)] == pytest.approx(share, abs=1e-6)
        answer = dict(predictor(file.read_bytes()))
        assert [answer["blue"], answer["red"]] == pytest.approx(share, abs=1e-5)


def test_the_server_answers_by_what_the_evaluation_fed(here, run_tool, monkeypatch):
    monkeypatch.chdir(here)
    assert run_tool("export_model", "-c", "own_size.yml", "--output_dir", "answering").code == 0
    (file, *_), _, (share, *_) = evaluated("own_size")
    with subprocess.Popen(
        [sys.executable, str(REPOSITORY / "examples/serve.py"), "answering", "0"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        try:
            address = server.stdout.readline().strip()
            with urllib.request.urlopen(address, data=file.read_bytes(), timeout=30) as response:
                answer = dict(json.loads(response.read()))
        finally:
            server.kill()
    assert [answer["blue"], answer["red"]] == pytest.approx(share, abs=1e-5)


def test_an_export_says_how_a_picture_becomes_what_is_fed(here, run_tool, monkeypatch):
    monkeypatch.chdir(here)
    assert run_tool("export_model", "-c", "own_size.yml", "--output_dir", "described").code == 0
    facts = yaml.safe_load(Path("described/infer_cfg.yml").read_text())
    assert facts["preprocess"] == {
        "shape": [1, 28, 28],
        "dtype": "uint8",
        "decoded_shape": [3, -1, -1],
        "resize": "stretch",
        "transforms": yaml.safe_load(OWN_SIZE),
        "mean": 0.0,
        "std": 1.0,
    }
    assert facts["input"]["shape"] == [-1, 1, 28, 28]


def test_nothing_is_imported_by_what_an_export_says(here, run_tool, monkeypatch):
    monkeypatch.chdir(here)
    assert run_tool("export_model", "-c", "padded.yml", "--output_dir", "hostile").code == 0
    path = Path("hostile/infer_cfg.yml")
    facts = yaml.safe_load(path.read_text())
    facts["preprocess"]["transforms"] = [{"name": "serving_transforms.Invert", "limit": 255}]
    path.write_text(yaml.safe_dump(facts))
    with pytest.raises(CheckpointError, match="a transform of somebody's own"):
        Predictor("hostile")
    assert importlib.util.find_spec("serving_transforms") is not None
    assert "serving_transforms" not in sys.modules


def test_transforms_of_one_s_own_are_those_of_the_config_and_of_no_manifest(
    here, run_tool, monkeypatch
):
    monkeypatch.chdir(here)
    files, fed, shares = evaluated("of_mine")
    assert run_tool("infer", "-c", "of_mine.yml", "--infer_dir", "pictures").code == 0
    found = answers("of_mine")
    served = builder.load_served(builder.read_config("of_mine.yml", []), None)
    for file, image, share in zip(files, fed, shares):
        assert served.preprocess(file).tobytes() == image.tobytes()
        assert found[str(file)] == pytest.approx(share, abs=1e-6)
    sys.modules.pop("serving_transforms")
    for key in ("EvalReader.transforms=[]", "EvalReader.transforms=" + INVERT % 254):
        line = line_of(
            run_tool("infer", "-c", "of_mine.yml", "--infer_dir", "pictures", "-o", key), 2
        )
        assert "EvalReader.transforms are not those of the run" in line
    line = line_of(
        run_tool(
            "infer", "-c", "padded.yml", "--infer_dir", "pictures", "-o", "weights=output/of_mine"
        ),
        2,
    )
    assert "serving_transforms.Invert, which is not Paddle's and only taken from the config" in line


def test_an_export_of_one_s_own_transforms_is_refused(here, run_tool, monkeypatch):
    monkeypatch.chdir(here)
    line = line_of(run_tool("export_model", "-c", "of_mine.yml"), 2)
    assert line == (
        "EvalReader.transforms: serving_transforms.Invert is code of your own, and an export holds "
        "none; evaluate with transforms of Paddle's, or make the images in your dataset"
    )
    assert not Path("output_inference/of_mine").exists()


def test_a_run_without_facts_in_its_manifest_takes_those_of_the_config(here, monkeypatch):
    monkeypatch.chdir(here)
    files, fed, _ = evaluated("own_size")
    Path("alone.pdparams").write_bytes(Path("output/own_size/best_model/ema.pdparams").read_bytes())
    config = builder.read_config("own_size.yml", ["weights=alone.pdparams"])
    served = builder.load_served(config, None)
    assert "data" not in served.weights.manifest
    for file, image in zip(files, fed):
        assert served.preprocess(file).tobytes() == image.tobytes()
