"""What docs/deployment.md says to type works, from a folder of pictures to a served answer."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from in_process import REPOSITORY
from PIL import Image, ImageDraw

PAGE = (REPOSITORY / "docs/deployment.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.S)
COMMANDS = [line for language, text in BLOCKS if language == "bash" for line in text.splitlines()]
MAKE_DIGITS, PREDICT, LOAD, RUN = (text for language, text in BLOCKS if language == "python")
PICTURE = "pictures/circle/00.png"
CLASSES = ["circle", "cross", "square", "triangle"]
NUM_PER_CLASS = 50


def draw(name, random):
    """Return a picture of a shape, in some size, place and colours."""
    side = int(random.randint(60, 110))
    light, dark = random.randint(160, 256, 3), random.randint(0, 100, 3)
    picture = Image.new("RGB", (side, side), tuple(map(int, light)))
    pen, ink = ImageDraw.Draw(picture), tuple(map(int, dark))
    radius = side * random.uniform(0.25, 0.35)
    x, y = (side * random.uniform(0.4, 0.6) for _ in range(2))
    box = (x - radius, y - radius, x + radius, y + radius)
    if name == "circle":
        pen.ellipse(box, ink)
    elif name == "square":
        pen.rectangle(box, ink)
    elif name == "triangle":
        pen.polygon([(x, box[1]), (box[0], box[3]), (box[2], box[3])], ink)
    else:
        pen.line([(box[0], y), (box[2], y)], ink, int(radius / 2))
        pen.line([(x, box[1]), (x, box[3])], ink, int(radius / 2))
    return picture


@pytest.fixture(scope="module")
def clone(tmp_path_factory, digits_run):
    """Return a folder like a clone's, with 200 pictures and the run on the digits in it."""
    folder, random = tmp_path_factory.mktemp("clone"), np.random.RandomState(0)
    for name in ("tools", "configs", "examples"):
        (folder / name).symlink_to(REPOSITORY / name)
    for name in CLASSES:
        (folder / "pictures" / name).mkdir(parents=True)
        for number in range(NUM_PER_CLASS):
            draw(name, random).save(folder / "pictures" / name / f"{number:02d}.png")
    (folder / "output").mkdir()
    (folder / "output/lenet_digits").symlink_to(digits_run / "lenet_digits")
    return folder


def start(folder, command, **options):
    arguments = shlex.split(command.replace(".venv/bin/python", sys.executable))
    environment = {**os.environ, "HOME": str(folder), "PPEMA_MIRRORS": ""}
    environment["PYTHONPATH"] = str(REPOSITORY)
    return subprocess.Popen(
        arguments, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, **options
    )


def run(folder, command):
    """Run a command to its end; return what it printed."""
    with start(folder, command, stderr=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, ""), (command, out)
    return out


def serve_and_ask(folder, serve, ask):
    """Start the server as typed, on a port that is free, and return its answer as typed."""
    assert serve.endswith(" 8080")
    with start(folder, f"{serve[:-5]} 0", stderr=subprocess.DEVNULL) as server:
        try:
            address = server.stdout.readline().strip()
            command = ask.replace("http://127.0.0.1:8080", address)
            assert address in command
            if shutil.which("curl") is None:
                pytest.skip("curl, with which the docs ask the server, is not here")
            process = subprocess.run(
                shlex.split(command), cwd=folder, capture_output=True, timeout=60, check=True
            )
        finally:
            server.kill()
    return json.loads(process.stdout)


def test_every_block_is_of_a_kind_that_is_tested_here():
    assert {language for language, _ in BLOCKS} == {"bash", "json", "python", "text"}


def test_the_commands_lead_from_pictures_to_an_answer(clone, monkeypatch):
    """All of them, in the order given, with one epoch in place of 4; then the Python blocks."""
    train, evaluate, infer, export, serve, ask, *others = COMMANDS
    out = run(clone, f"{train} epoch=1")
    assert "pictures" in out
    figures = re.findall(r"^\w+ +top1 [\d.]+ %.*?(?=  <-|$)", out, re.M)
    assert len(figures) == 2
    out = run(clone, evaluate)
    assert re.findall(r"^\w+ +top1 [\d.]+ %.*?(?=  <-|$)", out, re.M) == figures
    out = run(clone, infer)
    table = re.findall(r"^(\w+/\d\d\.png) +(\w+) +[\d.]+ %  \w+ [\d.]+ %$", out, re.M)
    assert len(table) == 4 * NUM_PER_CLASS
    folder = clone / "output/imagefolder/infer"
    facts = json.loads((folder / "predictions.json").read_text())
    assert facts["class_names"] == CLASSES
    assert len(list((folder / "pictures").glob("*/*.png"))) == 4 * NUM_PER_CLASS
    # Of the run's own folder, which the command does not name.
    assert "evaluation images (test images (40 in 4 classes)" in run(clone, export)
    answer = serve_and_ask(clone, serve, ask)
    (same,) = (p["classes"] for p in facts["predictions"] if p["file"] == PICTURE)
    assert [name for name, _ in answer] == [guess["name"] for guess in same]
    shares = [guess["probability"] for guess in same]
    assert [share for _, share in answer] == pytest.approx(shares, abs=1e-4)
    monkeypatch.chdir(clone)
    check_python(shares, [CLASSES.index(guess["name"]) for guess in same])
    for command in others:
        assert "18 pictures" in run(clone, command) or "--infer_img" in command


def check_python(shares, order):
    """Run the Python blocks, which load the export and make the digits."""
    namespace = {}
    for text in (MAKE_DIGITS, PREDICT, LOAD, RUN):
        exec(text, namespace)  # noqa: S102
    assert [share for _, share in namespace["answer"]] == pytest.approx(shares, abs=1e-4)
    found = namespace["probabilities"].numpy()[0]
    assert found[order] == pytest.approx(shares, abs=1e-4)
    logits = namespace["logits"][0].astype("float64")
    assert np.exp(logits)[order] / np.exp(logits).sum() == pytest.approx(shares, abs=1e-4)


def test_the_files_and_keys_it_tells_of_are_there(clone):
    """After the commands above."""
    export = clone / "output_inference/imagefolder"
    named = set(re.findall(r"^\| `([\w.]+)` \|", PAGE, re.M))
    assert {path.name for path in export.iterdir()} == named - {"model.onnx"}
    facts = yaml.safe_load((export / "infer_cfg.yml").read_text())
    assert facts["input"]["shape"] == [-1, 3, 64, 64]
    predictions = json.loads((clone / "guesses/predictions.json").read_text())
    (example,) = (json.loads(text) for language, text in BLOCKS if language == "json")
    (wanted,) = example["predictions"]
    found = predictions["predictions"][0]
    assert wanted.keys() == found.keys()
    assert (wanted["file"], wanted["picture"]) == (found["file"], found["picture"])
    assert wanted["classes"][0].keys() == found["classes"][0].keys()
    assert all(re.search(rf'[`"]{key}[`"]', PAGE) for key in predictions)
    assert (clone / "guesses/overview.png").is_file()
