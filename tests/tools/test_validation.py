"""A run that keeps validation data out: what it says, what it is held to, what chooses weights."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from in_process import REPOSITORY, run_in
from PIL import Image
from small_mnist import data_keys

from ppema import builder
from ppema.checkpoint import Checkpoint
from ppema.checkpoint.manifest import render

CONFIG = REPOSITORY / "configs/lenet_mnist_posthoc.yml"
KEYS = (
    *("epoch=1", "TrainReader.batch_size=256", "use_vdl=false", "posthoc_every=1"),
    *("Model={name: LeNetBN, num_classes: 10}", "recompute_batches=1"),
    *("train_samples=600", "label_noise=0.25"),
)
VALIDATION = "validation=0.1"
RUN = Path("output/lenet_mnist_posthoc")
NOTE = "(on the embedded UCI digits, not MNIST; validation images)"
FIGURES = r"top1 \S+ %  top2 \S+ %  loss \S+  ece \S+ %"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("validation")
    said = run_in(folder, "train", "-c", CONFIG, "--eval", "-o", *KEYS, VALIDATION)
    (folder / "output/said.txt").write_text(said)
    return folder / "output"


@pytest.fixture
def tool(run_tool, trained, tmp_path):
    """Return a function that runs a tool beside a finished run of its own, with other keys."""
    shutil.copytree(trained, tmp_path / "output", symlinks=True)

    def run(name, *arguments, keys=(VALIDATION,)):
        return run_tool(name, *arguments, "-c", CONFIG, "-o", *KEYS, *keys)

    return run


def figures(text, name):
    return re.search(rf"^{name} +({FIGURES})", text, re.M)[1]


def test_its_first_lines_and_its_figures_say_so(trained):
    said = (trained / "said.txt").read_text()
    assert "train: the embedded UCI digits" in said
    assert "; 600 of its images; " in said
    assert "with a wrong label\n" in said
    assert re.search(r"eval: .*; 144 of its images, kept out of training\n", said)
    assert re.search(r"test: .*355 images.*; not looked at in training\n", said)
    assert f"Eval: epoch 1, step 3 {NOTE}\n" in said
    assert re.search(rf"best: .* loss \S+ {re.escape(NOTE)}\n", said)


def test_the_manifest_has_the_parts(trained):
    data = Checkpoint((trained / RUN.name / "best_model").resolve()).manifest["data"]
    config = builder.read_config(str(CONFIG), [*KEYS, VALIDATION])
    expected = builder.load_data(config, None)
    parts = {"train": expected.train, "eval": expected.eval, "validation": expected.validation}
    assert {name: data[name]["digest"] for name in parts} == {
        name: part.digest for name, part in parts.items()
    }
    assert len(expected.train) == 600
    assert expected.evaluated is expected.validation


def test_the_test_set_is_evaluated_unless_validation_is_asked_for(tool, trained):
    training = (trained / "said.txt").read_text()
    on_test, on_validation = tool("eval"), tool("eval", "--on", "validation")
    assert (on_test.code, on_validation.code) == (0, 0), on_validation.err
    assert "data: the embedded UCI digits (test: 355 images" in on_test.out
    assert "validation" not in on_test.out
    assert NOTE in on_validation.out
    for name in ("raw", "power_10"):
        assert figures(on_validation.out, name) == figures(training, name)
        assert figures(on_test.out, name) != figures(training, name)


def test_another_validation_is_not_that_of_the_run(tool):
    result = tool("eval", "--on", "validation", keys=("validation=0.2",))
    assert (result.code, result.out) == (3, "")
    assert result.err.endswith("; validation was 0.1, is 0.2\n")
    result = tool("eval", "--on", "validation", keys=())
    assert result.code == 2
    assert "keeps no validation data out; such as -o validation=0.1" in result.err


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("validation=null", "validation was 0.1, is not set"),
        ("validation_seed=1", "validation_seed was 0, is 1"),
        ("train_samples=700", "train_samples was 600, is 700"),
        ("label_noise=0", "label_noise was 0.25, is 0.0"),
        ("label_noise_seed=3", "label_noise_seed was 0, is 3"),
    ],
)
def test_a_run_goes_on_with_its_own_parts_only(tool, key, said):
    result = tool("train", "--eval", "-r", "auto", keys=(VALIDATION, "epoch=2", key))
    assert result.code == 3
    assert f"; {said}; --accept data goes on with them, from the start of the epoch" in result.err


def test_a_run_goes_on_with_the_validation_images_that_chose_its_best(tool):
    for path in RUN.glob("step_*/manifest.json"):
        manifest = json.loads(path.read_text())
        manifest["data"]["validation"]["digest"] = "0" * 64
        path.write_text(render(manifest))
    result = tool("train", "--eval", "-r", "auto", keys=(VALIDATION, "epoch=2"))
    assert result.code == 3
    assert "kept out of training: these are not the data of the run" in result.err
    for path in RUN.glob("step_*/manifest.json"):
        manifest = json.loads(path.read_text())
        manifest["data"]["validation"] = 5
        path.write_text(render(manifest))
    result = tool("train", "--eval", "-r", "auto", keys=(VALIDATION, "epoch=2"))
    assert (result.code, "has no data.validation" in result.err) == (3, True)


def test_other_parts_that_are_accepted_are_gone_on_with(tool):
    keys = ("validation=0.2", "epoch=2")
    result = tool("train", "--eval", "-r", "auto", "--accept", "data", keys=keys)
    assert result.code == 0, result.err
    assert "the best so far was so on other data; it does not count any more" in result.out
    manifest = Checkpoint((RUN / "best_model").resolve()).manifest
    assert manifest["config_values"]["validation"] == 0.2
    assert manifest["best"]["step"] == 6


def test_a_run_of_an_earlier_version_goes_on_without_its_figures_and_keys(run_tool, run_folder):
    """Of the one that knew neither calibration nor parts."""
    for path in run_folder.glob("step_*/manifest.json"):
        manifest = json.loads(path.read_text())
        for found in (*manifest["metrics"].values(), manifest["best"]):
            found.pop("ece", None)
        for key in list(manifest["config_values"]):
            if re.match("validation|train_samples|label_noise", key):
                del manifest["config_values"][key]
        path.write_text(render(manifest))
    metrics = run_folder / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    for line in lines:
        line.pop("ece", None)
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ("-c", REPOSITORY / "configs/lenet_mnist.yml", *data_keys("data", "epoch=2"))
    assert "  ece " in run_tool("eval", *command).out
    assert run_tool("compare", run_folder).code == 0
    result = run_tool("train", "--eval", "-r", "auto", *command)
    assert result.code == 0, result.err
    assert re.findall(r"changed since then: (\S+)", result.out) == ["epoch"]
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    has_ece = [(r["epoch"], "ece" in r) for r in records if r["split"] == "eval"]
    assert set(has_ece) == {(1, False), (2, True)}


def test_an_export_says_what_its_figures_are_on(tool):
    assert tool("export_model", "--average", "raw").code == 0
    facts = yaml.safe_load(Path(f"output_inference/{RUN.name}/infer_cfg.yml").read_text())
    assert facts["source"]["figures_on"] == "validation"


def test_averages_made_after_the_run_are_chosen_on_validation(tool, trained):
    result = tool("average", "posthoc", "--sigma_rel", "0.1")
    assert result.code == 0, result.err
    assert NOTE in result.out
    (path,) = (RUN / "posthoc").glob("*.json")
    keys = (VALIDATION, f"weights={path.with_suffix('.pdparams')}")
    again = tool("eval", "--on", "validation", keys=keys)
    (line,) = re.findall(FIGURES, again.out)
    assert line in result.out
    manifest = Checkpoint((RUN / "best_model").resolve()).manifest
    assert json.loads(path.read_text())["data"] == manifest["data"]["validation"]
    refused = tool("average", "posthoc", "--sigma_rel", "0.1", keys=("validation=0.3",))
    assert (refused.code, "validation was 0.1, is 0.3" in refused.err) == (3, True)
    weights = [RUN / f"step_{step:09d}/model.pdparams" for step in (3,)]
    soup = tool("average", "soup", *weights)
    assert soup.code == 0, soup.err
    assert "144 of its images, kept out of training" in soup.out


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("validation=1.0", "validation must be a share below 1, such as 0.1, or a whole number"),
        ("validation=0", "validation must be a finite number above 0"),
        ("validation=2000", "validation is 2,000, but there are 1,442 images to take"),
        ("train_samples=7000", "train_samples is 7,000, but there are 6,490 images to take"),
        ("label_noise=1.5", "label_noise must be 1 or less"),
        ("train_samples=0", "train_samples must be 1 or more"),
    ],
)
def test_a_number_that_cannot_be_is_refused(refuse, key, said):
    keys = (*KEYS, VALIDATION, key)
    line = refuse(2, "train", "-c", CONFIG, "--overwrite", "-o", "save_dir=other", *keys)
    assert line.startswith(f"-o {key.partition('=')[0]}: ")
    assert said in line


def test_pictures_of_sizes_of_their_own_are_evaluated_as_evaluation_has_them(refuse, tmp_path):
    (tmp_path / "run.yml").write_text(
        f"_BASE_: {REPOSITORY}/configs/imagefolder.yml\n"
        "TrainDataset: {image_size: null}\n"
        "TrainReader: {batch_size: 2, transforms: [{name: Resize, size: [8, 8]}]}\n"
        "validation: 0.5\n"
    )
    line = refuse(2, "train", "-c", "run.yml", "--check")
    assert "image_size is missing" in line
    assert "it may be left out where EvalReader.transforms make the size" in line


def test_the_commands_of_the_page_do_what_it_says(run_tool, tmp_path):
    page = (REPOSITORY / "docs/data.md").read_text()
    *_, block = re.findall(r"```bash\n(.*?)```", page, re.S)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    short = ("epoch=1", "TrainReader.batch_size=512", "use_vdl=false")
    found = []
    for line in block.splitlines():
        _, tool, *arguments = line.split()
        keys = ("-o", *short) if "-o" not in arguments else short
        found.append(run_tool(Path(tool).stem, *arguments, *keys))
    assert [result.code for result in found] == [0, 0, 0], [result.err for result in found]
    trained, on_test, on_validation = (figures(result.out, "ema") for result in found)
    assert trained == on_validation != on_test


def test_validation_images_of_a_size_of_their_own_are_tried_before_training(tmp_path, caplog):
    for name in ("ant", "bee"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (9, 9)).save(tmp_path / "images" / name / f"{number}.png")
    (tmp_path / "run.yml").write_text(
        f"_BASE_: {REPOSITORY}/configs/imagefolder.yml\n"
        f"TrainDataset: {{dataset_dir: {tmp_path}/images, image_size: 40}}\n"
        f"EvalDataset: {{dataset_dir: {tmp_path}/images, image_size: 32}}\n"
        "TrainReader: {batch_size: 2, transforms: [{name: Resize, size: [32, 32]}]}\n"
        "Model: {num_classes: 2}\n"
        "validation: 4\n"
    )
    config = builder.read_config(str(tmp_path / "run.yml"), [])
    data = builder.load_data(config, None)
    builder.try_one_batch(config, builder.make_trainer(config, data), data)
    assert re.search(r"in training .*32x?.*; in evaluation .*40.*; is that meant", caplog.text)
