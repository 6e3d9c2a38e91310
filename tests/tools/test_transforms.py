"""Runs with transforms, from a config through training, evaluation and a resume."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from in_process import REPOSITORY
from PIL import Image

HEAD = f"_BASE_: {REPOSITORY}/configs/lenet_digits.yml\nuse_vdl: false\n"
FOLDER = """
epoch: 3
TrainDataset: {name: ImageFolder, mode: train, dataset_dir: pictures, split: 0.8%s}
EvalDataset: {name: ImageFolder, mode: test, dataset_dir: pictures, split: 0.8%s}
TrainReader:
  batch_size: 4
  transforms: %s
EvalReader:
  batch_size: 4
  transforms: %s
Model: {name: paddle.vision.models.LeNet, num_classes: 2}
"""
GREY = ", image_size: 28, channels: 1"
PLAIN = FOLDER % (GREY, GREY, "[]", "[]")
SHIFT = "[{name: RandomCrop, size: 28, padding: 2}, {name: RandomRotation, degrees: 10}]"
VARIED = FOLDER % (GREY, GREY, SHIFT, "[{name: CenterCrop, size: 28}]")
MY_TRANSFORMS = """
class Invert:
    def __init__(self, strength: float = 1.0):
        self.strength = strength

    def __call__(self, picture):
        return picture.point(lambda pixel: 255 - pixel)

def not_callable():
    return 3
"""


@pytest.fixture
def pictures(run_tool):
    """Return a folder of pictures of many sizes, red ones and blue ones."""
    random = np.random.RandomState(0)
    for label, name in enumerate(("red", "blue")):
        for number in range(10):
            pixels = random.randint(0, 99, (20 + number, 30 - number, 3)).astype(np.uint8)
            pixels[:, :, 2 * label] += 150
            path = Path("pictures", name, f"{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return "pictures"


def line_of(result, code):
    assert result.code == code, (result.code, result.out, result.err)
    assert len(result.err.splitlines()) == 1, result.err
    return result.err.strip()


def train(run_tool, content, *arguments, code=0):
    Path("run.yml").write_text(HEAD + content)
    result = run_tool("train", "-c", "run.yml", *arguments)
    if code:
        return line_of(result, code)
    assert (result.code, result.err) == (0, ""), result.err
    return result


def final_bytes():
    return [Path(f"output/run/model_final/{f}.pdparams").read_bytes() for f in ("model", "ema")]


@pytest.mark.usefixtures("pictures")
def test_a_run_is_the_same_with_any_workers_and_after_a_resume(run_tool):
    train(run_tool, VARIED, "--eval", "-o", "TrainReader.num_workers=2")
    whole = final_bytes()
    train(run_tool, VARIED, "--overwrite", "-o", "epoch=1", "TrainReader.num_workers=0")
    resumed = train(run_tool, VARIED, "-r", "auto")
    assert final_bytes() == whole
    assert "changed since then: TrainReader.num_workers was 0, is 1" in resumed.out
    assert "TrainReader.transforms was" not in resumed.out
    manifest = json.loads(Path("output/run/model_final/manifest.json").read_text())
    assert manifest["config_values"]["TrainReader"]["transforms"] == [
        {"name": "RandomCrop", "size": 28, "padding": 2},
        {"name": "RandomRotation", "degrees": 10},
    ]


@pytest.mark.usefixtures("pictures")
def test_other_transforms_change_the_run_and_a_resume_says_so(run_tool):
    train(run_tool, PLAIN, "-o", "epoch=1")
    before = final_bytes()
    train(run_tool, VARIED, "--overwrite", "-o", "epoch=1")
    assert final_bytes() != before
    flip = FOLDER % (GREY, GREY, "[{name: RandomVerticalFlip}]", "[]")
    resumed = train(run_tool, flip, "-r", "auto", "-o", "epoch=2")
    assert (
        f"changed since then: TrainReader.transforms was {SHIFT}, is [{{name: RandomVerticalFlip}}]"
        in resumed.out
    )


@pytest.mark.usefixtures("pictures")
def test_those_of_the_evaluation_count_in_its_figures_alone(run_tool):
    train(run_tool, PLAIN, "--eval", "-o", "epoch=2")

    def evaluate(transforms):
        out = run_tool("eval", "-c", "run.yml", "-o", f"EvalReader.transforms={transforms}").out
        # Without the lines of the log, which have the time in them.
        figures = re.findall(r"^\w+ +top1 .*", out, re.M)
        assert len(figures) == 2
        return figures

    upright, turned = evaluate("[]"), evaluate("[{name: RandomVerticalFlip, prob: 1.0}]")
    assert upright != turned
    # The same each time, random as they may be.
    first, second = (evaluate("[{name: RandomVerticalFlip}]") for _ in range(2))
    assert first == second
    assert first not in (upright, turned)


@pytest.mark.usefixtures("pictures")
def test_a_callable_of_a_user_s_own_by_its_import_path(run_tool, tmp_path, monkeypatch):
    (tmp_path / "own_transforms.py").write_text(MY_TRANSFORMS)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = "TrainReader: {batch_size: 512, transforms: [{name: own_transforms.%s}]}"
    line = train(run_tool, own % "Invert, strenth: 2.0", code=2)
    assert line.endswith("unknown key 'TrainReader.transforms.0.strenth'; did you mean 'strength'?")
    line = train(run_tool, own % "not_callable", code=2)
    assert line == (
        "run.yml:3: TrainReader.transforms.0 (own_transforms.not_callable) gives a int, which "
        "cannot be called with an image"
    )
    inverted = FOLDER % (GREY, GREY, "[{name: own_transforms.Invert, strength: 2.0}]", "[]")
    train(run_tool, inverted, "-o", "epoch=1")
    before = final_bytes()
    train(run_tool, PLAIN, "--overwrite", "-o", "epoch=1")
    assert final_bytes() != before


def readers(*transforms):
    items = "\n".join(f"    - {transform}" for transform in transforms)
    return f"TrainReader:\n  batch_size: 256\n  transforms:\n{items}\n"


FAULTS = [
    (
        readers("{name: RandomHorizontalFlip}", "{name: RandomCorp, size: 28}"),
        "run.yml:7: TrainReader.transforms.1.name: there is no 'RandomCorp'; did you mean "
        "'RandomCrop'?",
    ),
    (
        readers("{name: RandomCrop, size: 28, pading: 2}"),
        "run.yml:6: unknown key 'TrainReader.transforms.0.pading'; did you mean 'padding'?",
    ),
    (readers("{name: RandomCrop}"), "run.yml:6: 'TrainReader.transforms.0.size' is missing"),
    (
        readers("RandomHorizontalFlip: {prob: 0.5}"),
        "run.yml:6: 'TrainReader.transforms.0.name' is missing; write {name: "
        "RandomHorizontalFlip, …}",
    ),
    (
        readers("{name: RandomHorizontalFlip, prob: 2}"),
        "run.yml:6: TrainReader.transforms.0 (RandomHorizontalFlip): probability must be between",
    ),
    (
        readers("{name: Resize, size: 28, keys: [boxes]}"),
        "run.yml:6: 'TrainReader.transforms.0.keys' is set by ppema; leave it out",
    ),
    (readers("{name: Compose, transforms: []}"), "run.yml:6: TrainReader.transforms.0.name: there"),
    (
        readers("{name: RandomCrop, size: 99}"),
        "NOT MNIST: sample 0: TrainReader.transforms.0 (RandomCrop) on a picture of 28x28 (L): ",
    ),
    (
        "TrainReader: {sample_transforms: [{RandomFlip: {prob: 0.5}}]}",
        "run.yml:3: 'TrainReader.sample_transforms' is written in the readers here: TrainReader: "
        "{batch_size: 64, transforms: [{name: RandomHorizontalFlip, prob: 0.5}]}",
    ),
    (
        readers("{name: CenterCrop, size: 20}"),
        "; the images are [1,20,20] by TrainReader.transforms",
    ),
    (
        "Model: {name: paddle.nn.Conv2D, in_channels: 3, out_channels: 10, kernel_size: 28}",
        "; the images are [1,28,28]; TrainReader.transforms can make others of them, by Resize and "
        "Grayscale",
    ),
]


@pytest.mark.parametrize(("content", "message"), FAULTS, ids=[m[:50] for _, m in FAULTS])
def test_a_bad_list_gives_its_line_and_2(run_tool, content, message):
    assert message in train(run_tool, content, code=2)
    assert not Path("output").exists()


def test_bad_arguments_are_found_by_check_too(run_tool):
    Path("run.yml").write_text(HEAD + readers("{name: Resize, size: [1, 2, 3]}"))
    line = line_of(run_tool("train", "-c", "run.yml", "--check"), 2)
    assert line.startswith("run.yml:6: TrainReader.transforms.0 (Resize): ")


OWN = "[{name: RandomResizedCrop, size: 28, scale: [0.5, 1.0]}, {name: Grayscale}]"
EVAL = "[{name: Resize, size: [28, 28]}, {name: Grayscale}]"


@pytest.mark.usefixtures("pictures")
def test_pictures_of_their_own_size_train_where_transforms_make_one(run_tool):
    result = train(run_tool, FOLDER % ("", "", OWN, EVAL), "--eval")
    assert "train: train images (16 in 2 classes) from pictures" in result.out
    assert run_tool("eval", "-c", "run.yml").code == 0


BAD_FOLDERS = [
    (
        ("", ", image_size: 28", "[]", "[]"),
        2,
        "run.yml:5: TrainDataset.image_size is missing, such as image_size: 64; it may be left "
        "out where TrainReader.transforms make the size",
    ),
    (
        ("", "", "[{name: Grayscale}]", EVAL),
        3,
        "train images (16 in 2 classes) from pictures: sample 2: image is uint8 [1,",
    ),
    (
        ("", "", "[{name: Resize, size: 28}, {name: Grayscale}]", EVAL),
        3,
        "(of one number it makes the shorter side alone)",
    ),
    (
        (", image_size: 28", ", image_size: 28", "[]", "[]"),
        2,
        "the images are [3,28,28] by TrainDataset.image_size and TrainDataset.channels",
    ),
    (
        (", image_size: 28, channels: 1", ", image_size: 28", "[]", "[]"),
        2,
        "the images are [3,28,28] by EvalDataset.image_size and EvalDataset.channels",
    ),
    (
        (", image_size: 40, channels: 1", ", image_size: 28", "[]", "[]"),
        2,
        "the images are [1,40,40] by TrainDataset.image_size and TrainDataset.channels",
    ),
    (
        (", image_size: 0", ", image_size: 28", "[]", "[]"),
        2,
        "run.yml:5: TrainDataset (ImageFolder): image_size must be 1 or more, got 0",
    ),
    (
        (", image_size: big", ", image_size: 28", "[]", "[]"),
        2,
        "run.yml:5: TrainDataset.image_size must be a whole number or a list",
    ),
    (
        (", image_size: 28, channels: 2", ", image_size: 28", "[]", "[]"),
        2,
        "run.yml:5: TrainDataset.channels must be one of 1, 3, got 2",
    ),
    (
        (", image_size: 28, resize: cropp", ", image_size: 28", "[]", "[]"),
        2,
        "run.yml:5: TrainDataset.resize must be one of stretch, crop, pad, got 'cropp'; did you "
        "mean 'crop'?",
    ),
    (
        (", image_size: 28, std: [0.5, 0.5, 0.5]", ", image_size: 28", "[]", "[]"),
        2,
        "run.yml:5: TrainDataset (ImageFolder): std must be 1 or more, in units of pixels",
    ),
]


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize(("parts", "code", "message"), BAD_FOLDERS)
def test_what_a_folder_cannot_be_gives_its_line(run_tool, parts, code, message):
    assert message in train(run_tool, FOLDER % parts, code=code)
    assert not Path("output").exists()


@pytest.mark.usefixtures("pictures")
def test_a_wrong_path_or_class_of_data_gives_the_nearest_right_one(run_tool):
    content = FOLDER % (", image_size: 28", ", image_size: 28", "[]", "[]")
    line = train(run_tool, content.replace("pictures", "pictrues"), code=3)
    assert line == "dataset_dir pictrues: no such folder; did you mean pictures?"
    line = train(run_tool, content.replace("ImageFolder", "ImagesFolder"), code=2)
    assert (
        line
        == "run.yml:5: TrainDataset.name: there is no 'ImagesFolder'; did you mean 'ImageFolder'?"
    )


@pytest.mark.usefixtures("pictures")
def test_images_of_other_sizes_in_training_and_evaluation_are_warned_of(
    run_tool, tmp_path, monkeypatch
):
    (tmp_path / "any_size_nets.py").write_text(
        "import paddle\n"
        "class Net(paddle.nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(paddle.nn.AdaptiveAvgPool2D(1), paddle.nn.Flatten(),\n"
        "                         paddle.nn.Linear(3, 2))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    content = FOLDER % (
        ", image_size: 28",
        ", image_size: 32",
        "[{name: CenterCrop, size: 24}]",
        "[]",
    )
    content = content.replace("paddle.vision.models.LeNet, num_classes: 2", "any_size_nets.Net")
    result = train(run_tool, content, "-o", "epoch=1")
    assert (
        "in training the images are [3,24,24] by TrainDataset.image_size and "
        "TrainDataset.channels and TrainReader.transforms; in evaluation the images are [3,32,32] "
        "by EvalDataset.image_size and EvalDataset.channels; is that meant?" in result.out
    )
