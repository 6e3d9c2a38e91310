"""tools/infer.py says, writes and draws what the run's weights take pictures for."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from ppema import builder
from ppema.data.digits import load_digits

FOLDER = Path("output/lenet_digits/infer")
NUM_PICTURES = 12


@pytest.fixture
def pictures(tmp_path):
    """Return a folder of digits, one picture each, named by their place."""
    dataset = load_digits("test")
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(NUM_PICTURES):
        Image.fromarray(dataset.images[index, 0]).save(folder / f"{index:02d}.png")
    return folder


@pytest.fixture
def infer(run_tool, config, digits_run):
    """Return a function that runs the tool on the weights of the shared run."""

    def run(*arguments, name="lenet_digits", keys=()):
        weights = f"weights={digits_run}/lenet_digits"
        return run_tool("infer", "-c", config(name), *arguments, "-o", weights, *keys)

    return run


def expected(run, name="ema"):
    """Return the probabilities of the pictures, [N, 10], by plain Paddle and NumPy."""
    model = paddle.vision.models.LeNet()
    file = "model" if name == "raw" else name
    model.set_state_dict(paddle.load(str(run / f"lenet_digits/best_model/{file}.pdparams")))
    model.eval()
    image = (load_digits("test").images[:NUM_PICTURES].astype("float32") - 127.5) / 127.5
    with paddle.no_grad():
        logits = model(paddle.to_tensor(image)).numpy().astype("float64")
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def winner(run):
    return json.loads((run / "lenet_digits/best_model/manifest.json").read_text())["winner"]


def written(folder=FOLDER):
    return json.loads((folder / "predictions.json").read_text())


def test_table_file_and_pictures_say_what_the_winner_s_weights_say(infer, pictures, digits_run):
    result = infer("--infer_dir", "pictures")
    assert (result.code, result.err) == (0, "")
    # Quiet where no terminal is.
    assert "\x1b" not in result.out
    name = winner(digits_run)
    assert name == "ema"
    assert f"weights: {name} of lenet_digits/step_" in result.out
    shares = expected(digits_run, name)
    facts = written()
    assert facts["format"] == 1
    assert facts["class_names"] == list("0123456789")
    assert (facts["source"]["average"], facts["failures"]) == (name, [])
    assert facts["source"]["weights"]["file"] == f"{name}.pdparams"
    assert len(facts["predictions"]) == NUM_PICTURES
    for index, (prediction, row) in enumerate(zip(facts["predictions"], shares)):
        assert prediction["file"] == f"pictures/{index:02d}.png"
        order = np.argsort(-row)[:5]
        assert [guess["class_id"] for guess in prediction["classes"]] == order.tolist()
        assert [guess["name"] for guess in prediction["classes"]] == [str(i) for i in order]
        found = [guess["probability"] for guess in prediction["classes"]]
        assert found == pytest.approx(row[order], rel=1e-4)
        (line,) = re.findall(
            rf"^{index:02d}\.png +(\d) +([\d.]+) % +(\d) ([\d.]+) %$", result.out, re.M
        )
        assert (int(line[0]), int(line[2])) == tuple(order[:2])
        assert [float(line[1]), float(line[3])] == pytest.approx(100 * row[order[:2]], abs=0.006)
        with Image.open(FOLDER / prediction["picture"]) as drawn:
            # Of 28 pixels, enlarged so that people see something.
            assert min(drawn.size) >= 280
    assert (FOLDER / "overview.png").is_file()


def test_average_chooses_the_weights(infer, pictures, digits_run):
    for name in ("raw", "ema"):
        result = infer("--infer_dir", "pictures", "--average", name)
        assert result.code == 0, result.err
        found = [p["classes"][0]["probability"] for p in written()["predictions"]]
        assert found == pytest.approx(expected(digits_run, name).max(axis=1), rel=1e-4)
    for name, said in (("swa", "has raw, ema"), ("all", "one set of weights is needed")):
        result = infer("--infer_dir", "pictures", "--average", name)
        assert result.code == 2
        assert said in result.err


def test_the_layers_form_and_the_batch_change_nothing(infer, pictures):
    found = []
    for keys in (("EvalReader.batch_size=5",), ("fast_cpu=false",)):
        assert infer("--infer_dir", "pictures", keys=keys).code == 0
        found.append([p["classes"][0] for p in written()["predictions"]])
    for one, other in zip(*found):
        assert one["class_id"] == other["class_id"]
        assert one["probability"] == pytest.approx(other["probability"], rel=1e-5)


def test_files_and_lists_name_pictures_each_with_a_picture_of_its_own(infer, pictures):
    Path("more").mkdir()
    (pictures / "00.png").rename("more/01.png")
    # As ls writes them, and as Windows' editors do.
    Path("files.txt").write_bytes("\ufeffpictures/01.png\r\n\nmore/01.png\n".encode())
    for arguments in (
        ("--infer_img", "pictures/01.png", "more/01.png"),
        ("--infer_list", "files.txt"),
    ):
        result = infer(*arguments, "--output_dir", "out", "--top_k", "2")
        assert result.code == 0, result.err
        found = written(Path("out"))["predictions"]
        assert [p["file"] for p in found] == ["pictures/01.png", "more/01.png"]
        assert [p["picture"] for p in found] == ["pictures/01.png", "pictures/01_2.png"]
        assert all((Path("out") / p["picture"]).is_file() for p in found)
        assert [len(p["classes"]) for p in found] == [2, 2]


def test_pictures_of_one_stem_do_not_overwrite_each_other(infer, pictures):
    with Image.open(pictures / "00.png") as picture:
        picture.save(pictures / "00.bmp")
    assert infer("--infer_dir", "pictures").code == 0
    drawn = [p["picture"] for p in written()["predictions"]]
    assert drawn[:2] == ["pictures/00.png", "pictures/00.png.png"]
    assert len(set(drawn)) == NUM_PICTURES + 1


def test_files_that_cannot_be_used_are_named_and_hold_up_no_other(infer, pictures):
    content = (pictures / "00.png").read_bytes()
    (pictures / "03.png").write_bytes(b"")
    (pictures / "04.png").write_bytes(b"text")
    (pictures / "05.png").write_bytes(content[: len(content) // 2])
    (pictures / "sub.png").mkdir()
    (pictures / "sub.png" / "00.png").write_bytes(content)
    result = infer("--infer_dir", "pictures")
    assert result.code == 3
    lines = result.err.splitlines()
    assert [line.split(": ")[0] for line in lines[:-1]] == [
        f"pictures/{name}.png" for name in ("03", "04", "05")
    ]
    assert lines[0].endswith("is empty")
    assert "is no image of a known kind" in lines[1]
    assert "is damaged" in lines[2]
    assert lines[-1] == "3 of 13 files could not be used; they are named above"
    facts = written()
    assert [failure["reason"] for failure in facts["failures"]] == lines[:-1]
    assert len(facts["predictions"]) == 10
    assert facts["predictions"][-1]["picture"] == "pictures/sub.png/00.png"
    result = infer("--infer_img", "none.png", "pictures", "pictures/01.png")
    assert result.code == 3
    assert result.err.splitlines()[:2] == ["none.png: is not there", "pictures: is no file"]
    assert len(written()["predictions"]) == 1


def test_where_no_file_can_be_used_that_is_what_is_written(infer, pictures):
    result = infer("--infer_img", "none.png")
    assert result.code == 3
    assert written()["predictions"] == []
    assert not (FOLDER / "overview.png").exists()


def test_pictures_of_every_mode_and_names_of_every_kind_are_taken(infer, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    picture = Image.fromarray(load_digits("test").images[0, 0])
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        picture.convert(mode).save(folder / f"{mode}.png")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.save(folder / "moving.gif", save_all=True, append_images=[picture])
    picture.convert("P").save(folder / "hole.gif", transparency=0)
    for name in ("图 1.png", "two\nlines.png", os.fsdecode(b"\xff.png"), "a.b.png", "-x.png"):
        picture.save(folder / name)
    result = infer("--infer_dir", "odd")
    assert (result.code, result.err) == (0, "")
    found = written()["predictions"]
    assert len(found) == len(list(folder.iterdir())) == 14
    assert {Path(p["file"]) for p in found} == {
        path.relative_to(tmp_path) for path in folder.iterdir()
    }
    assert all((FOLDER / p["picture"]).is_file() for p in found)


def test_other_files_in_a_folder_are_named_and_are_no_failure(infer, pictures):
    (pictures / "notes.txt").write_text("of mine")
    (pictures / ".hidden.png").write_bytes(b"")
    result = infer("--infer_dir", "pictures")
    assert result.code == 0
    assert result.err == "pictures/notes.txt: is left out; its ending is not a picture's\n"
    assert len(written()["predictions"]) == NUM_PICTURES


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--infer_dir", "empty"), 3, r"empty: holds no pictures \(\.bmp .*\)"),
        (("--infer_dir", "none"), 3, r"none: no such folder"),
        (("--infer_dir", "text.txt"), 3, r"text.txt: is no folder"),
        (("--infer_list", "none"), 3, r"none: No such file or directory"),
        (("--infer_list", "empty"), 3, r"empty: is no file"),
        (("--infer_list", "text.txt"), 3, r"text.txt: names no file; expected one a line"),
        (("--infer_list", "nul.txt"), 3, r"nul.txt:2: NUL is in no file's name"),
        (("--infer_list", "latin.txt"), 3, r"latin.txt: not UTF-8 \(byte 0\)"),
        ((), 2, r"one of the arguments --infer_img --infer_dir --infer_list is required .*"),
        (("--infer_img", "a.png", "--infer_dir", "b"), 2, r".*not allowed with.*"),
        (("--infer_img", "a.png", "--top_k", "0"), 2, r"--top_k must be 1 or more, got 0"),
    ],
)
def test_one_line_says_why_there_is_nothing_to_do(infer, arguments, code, said):
    Path("empty").mkdir()
    Path("text.txt").write_text("\n\n")
    Path("nul.txt").write_text("a.png\nb\0.png\n")
    Path("latin.txt").write_bytes("ä.png".encode("latin-1"))
    result = infer(*arguments)
    assert result.code == code
    assert re.fullmatch(said + "\n", result.err)
    assert not FOLDER.exists()


def test_what_is_written_is_kept_apart_from_other_files(infer, pictures):
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years")
    Path("file").write_text("")
    for output_dir, said in (
        ("mine", "holds other files; name a new folder, such as mine/infer"),
        ("file", "is no folder"),
        ("pictures", "lies in --infer_dir pictures"),
        ("pictures/new", "lies in --infer_dir pictures"),
    ):
        result = infer("--infer_dir", "pictures", "--output_dir", output_dir)
        assert result.code == 2
        assert said in result.err
        assert len(result.err.splitlines()) == 1
    assert len(list(pictures.iterdir())) == NUM_PICTURES
    for _ in range(2):
        assert infer("--infer_dir", "pictures", "--output_dir", "mine/infer").code == 0


def test_a_bare_weight_file_gives_the_same(infer, pictures, run_tool, config, digits_run):
    infer("--infer_dir", "pictures", "--output_dir", "run", "--average", "ema")
    bare = Path("mine.pdparams")
    bare.write_bytes((digits_run / "lenet_digits/best_model/ema.pdparams").read_bytes())
    for name in ("lenet_digits", "lenet_mnist"):
        result = run_tool(
            *("infer", "-c", config(name), "--infer_dir", "pictures"),
            *("--output_dir", name, "-o", f"weights={bare}"),
        )
        assert result.code == 0, result.err
        found, of_run = written(Path(name)), written(Path("run"))
        assert found["source"]["average"] == "mine"
        assert found["source"]["weights"]["sha256"] == of_run["source"]["weights"]["sha256"]
        assert [p["classes"] for p in found["predictions"]] == [
            p["classes"] for p in of_run["predictions"]
        ]


def test_without_an_evaluation_the_only_average_is_taken_and_of_several_none(
    run_tool, config, pictures
):
    keys = ["-o", "epoch=1", "TrainReader.batch_size=512", "use_vdl=false"]
    other = "Averages.swa={name: StochasticWeightAverage}"
    assert run_tool("train", "-c", config("lenet_digits"), *keys, other).code == 0
    arguments = ("infer", "-c", config("lenet_digits"), "--infer_dir", "pictures")
    result = run_tool(*arguments)
    assert result.code == 2
    assert result.err == (
        "nothing was evaluated, so no winner is known; choose one of raw, ema, swa with --average\n"
    )
    assert run_tool(*arguments, "-o", other, "select=swa").code == 0
    assert written()["source"]["average"] == "swa"
    assert run_tool("train", "-c", config("lenet_digits"), *keys, "--overwrite").code == 0
    assert run_tool(*arguments).code == 0
    assert written()["source"]["average"] == "ema"
    evaluated = ("--eval", "--overwrite", *keys, "select=raw")
    assert run_tool("train", "-c", config("lenet_digits"), *evaluated).code == 0
    assert run_tool(*arguments).code == 0
    assert written()["source"]["average"] == "raw"


def test_the_model_is_in_eval_mode(config, digits_run):
    keys = [f"weights={digits_run}/lenet_digits"]
    served = builder.load_served(builder.read_config(str(config("lenet_digits")), keys), None)
    assert not any(layer.training for layer in served.model.sublayers(include_self=True))


def test_a_model_that_does_not_fit_the_run_is_one_line(infer, pictures):
    for key, said in (
        ("Model.num_classes=7", "best_model/.*fc.2.*|fit"),
        ("Model.name=LeNetBN", "fit"),
    ):
        result = infer("--infer_dir", "pictures", keys=(key,))
        assert result.code == 3
        assert re.search(said, result.err)
        assert len(result.err.splitlines()) == 1


def test_weights_that_are_not_finite_are_refused(run_tool, config, pictures, digits_run):
    state = paddle.load(str(digits_run / "lenet_digits/best_model/ema.pdparams"))
    state["fc.0.bias"][3] = float("nan")
    paddle.save(state, "nan.pdparams")
    result = run_tool(
        *("infer", "-c", config("lenet_digits"), "--infer_dir", "pictures"),
        *("-o", "weights=nan.pdparams"),
    )
    assert result.code == 4
    assert result.err == "fc.0.bias holds NaN; refusing to use them\n"


def test_a_folder_that_cannot_be_written_is_one_line(infer, pictures):
    FOLDER.parent.mkdir(parents=True)
    FOLDER.symlink_to("/dev/full/nothing")
    result = infer("--infer_dir", "pictures")
    assert result.code == 6
    assert len(result.err.splitlines()) == 1


def test_class_names_in_any_alphabet_and_of_any_length_are_drawn(tmp_path):
    from ppema.annotate import Annotated, annotate, open_picture, sheet
    from ppema.ranking import Guess

    random = np.random.RandomState(0)
    names = ["猫", "Ελληνικά", "x" * 300, "a\nb", "", "\U0010fffe"]
    for shape in ((1, 28, 28), (3, 5, 900), (2, 2000, 3)):
        picture = open_picture(Path("none"), random.rand(*shape).astype("float32"))
        assert 280 <= max(picture.size) <= 900 or min(shape[1:]) * 280 > 900
        for name in names:
            guesses = [Guess(name, 0, 0.75), Guess(name, 1, 0.25)]
            drawn = annotate(Annotated(picture, guesses))
            assert drawn.size[0] >= 280
        assert sheet([Annotated(picture, guesses)] * 7).size[0] > 1000


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_drawn_of_a_see_through_picture_is_what_the_model_is_fed(mode, tmp_path):
    from ppema.annotate import open_picture
    from ppema.data.picture import read_image

    random, path = np.random.RandomState(0), tmp_path / "see_through.png"
    pixels = random.randint(0, 256, (300, 300, 4)).astype("uint8")
    pixels[:150, :, 3] = 0
    picture = Image.fromarray(pixels, "RGBA").convert(mode)
    picture.save(path, **({"transparency": 0} if mode == "P" else {}))
    drawn = np.moveaxis(np.asarray(open_picture(path)), -1, 0)
    np.testing.assert_array_equal(drawn, read_image(path, None, 3))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_shows_how_far_it_is_where_that_takes_time(infer, pictures, monkeypatch, digits_run):
    """Two seconds, by a clock of the test's own: what is done sooner shows none."""
    terminal = Terminal()
    clock = itertools.count(100.0, step=0.3)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys, "stderr", terminal)
    assert infer("--infer_dir", "pictures").code == 0
    shown = re.findall(r"pictures \[#*\.*\] +(\d+) %", terminal.getvalue())
    assert 2 <= len(shown) < NUM_PICTURES
    # While the last of twelve is looked at; then there is no bar.
    assert shown[-1] == "91"
    # Wiped, so that the table stands on a clean line.
    assert terminal.getvalue().endswith("\x1b[K")
