"""Confusion matrices and mistakes: what is drawn, for many classes, shapes and alphabets."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ppema.calibration import Reliability
from ppema.plots import (
    Mistake,
    PixelScale,
    confusion,
    draw_mistakes,
    figure,
    plot_confusion,
    plot_reliability,
    reliability,
)
from ppema.plots.mistakes import plot_mistakes

COUNTS = np.array([[8, 2, 0], [0, 9, 1], [0, 0, 0]])


@pytest.fixture
def drawn(monkeypatch):
    """Return the figures that would have been saved."""
    figures = []
    for module in (confusion, reliability):
        monkeypatch.setattr(module, "save", lambda figure, *_: figures.append(figure))
    yield figures
    from matplotlib import pyplot

    pyplot.close("all")


def mistake(image, **facts):
    given = {"index": 7, "label": 0, "predicted": 1, "probability": 0.99999, **facts}
    return Mistake(image=np.asarray(image, np.float32), **given)


def test_a_cell_has_its_count_and_the_colour_of_its_share_of_the_row(drawn, tmp_path):
    plot_confusion(COUNTS, ["ant", "bee", "cat"], "a model", tmp_path / "c.png")
    axes = drawn[0].axes[0]
    cells = {text.get_position()[::-1]: text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "8", (0, 1): "2", (1, 1): "9", (1, 2): "1"}
    right, wrong = (image.get_array() for image in axes.images)
    assert right[0, 0] == pytest.approx(0.8)
    assert (wrong[0, 1], wrong[1, 2], wrong[2, 0]) == (pytest.approx(20), pytest.approx(10), 0)
    assert wrong.mask.diagonal().all()
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["ant", "bee", "cat"]
    assert axes.get_title() == "a model\nmost often: ant as bee (2), bee as cat (1)"


def test_a_model_without_mistakes_has_no_scale_of_them(drawn, tmp_path):
    plot_confusion(np.diag([3, 4]), ["a", "b"], "a model", tmp_path / "c.png")
    assert len(drawn[0].axes) == 1
    assert drawn[0].axes[0].get_title() == "a model\nno mistakes"


def test_many_classes_have_names_but_no_counts(drawn, tmp_path):
    names = [f"a class with a long name {index}" for index in range(100)]
    plot_confusion(np.eye(100, dtype=int), names, "a model", tmp_path / "c.png")
    axes = drawn[0].axes[0]
    assert len(axes.texts) == 0
    assert [tick.get_text() for tick in axes.get_xticklabels()][:1] == ["a class with a lo…"]


def test_a_name_that_no_font_here_can_write_is_no_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(figure, "_WIDE_FONTS", ())
    path = tmp_path / "c.png"
    plot_confusion(COUNTS, ["蚂蚁", "蜜蜂", "猫"], "a model", path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert draw_mistakes([mistake(np.zeros([1, 8, 8]))], PixelScale(), ["蚂蚁", "蜜蜂"]).any()


def test_names_in_other_letters_take_a_font_that_has_them(monkeypatch):
    from matplotlib import font_manager

    monkeypatch.setattr(font_manager, "get_font_names", lambda: ["DejaVu Sans", "SimHei"])
    assert figure.font_families(["ant"]) == ["DejaVu Sans"]
    assert figure.font_families(["ant", "蚂蚁"]) == ["DejaVu Sans", "SimHei"]


def test_what_was_normalised_is_seen_as_it_was_stored():
    stored = np.array([[[0, 255]], [[10, 20]], [[30, 40]]], np.uint8)
    mean, std = (10.0, 20.0, 30.0), (2.0, 4.0, 8.0)
    fed = (stored - np.reshape(mean, [3, 1, 1])) / np.reshape(std, [3, 1, 1])
    pixels = PixelScale(mean, std).to_pixels(fed.astype("float32"))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.moveaxis(stored, 0, -1))


@pytest.mark.parametrize("low_high", [(-1.0, 1.0), (0.0, 1.0), (-3.0, 40.0)])
def test_floats_are_stretched_from_the_least_to_the_largest(low_high):
    low, high = low_high
    image = np.array([[[low, (low + high) / 2, high]]], np.float32)
    assert PixelScale().to_pixels(image)[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_an_image_of_one_value_and_of_any_channels_can_be_seen(channels):
    assert PixelScale().to_pixels(np.ones([channels, 4, 5], np.float32)).shape == (4, 5, 3)


def test_a_sheet_shows_each_image_enlarged_in_its_place():
    images = [np.full([1, 16, 16], value) for value in (50, 100, 150)]
    scale = PixelScale(0.0, 1.0)
    sheet = draw_mistakes([mistake(i) for i in images], scale, ["ant", "bee"], "three", columns=2)
    for value in (50, 100, 150):
        rows, columns = np.nonzero((sheet == value).all(axis=-1))
        inner = sheet[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        # Seven times 16; a letter's edge may be of the same grey.
        assert inner.shape[:2] >= (112, 112)
    without_title = draw_mistakes([mistake(images[0])], scale, ["ant", "bee"])
    assert without_title.shape[0] < sheet.shape[0] / 2


def test_a_caption_says_classes_probability_and_number(monkeypatch):
    from PIL import ImageDraw

    said = []
    draw_text = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda self, place, text, **rest: said.append(text) or draw_text(self, place, text, **rest),
    )
    draw_mistakes([mistake(np.zeros([3, 8, 8]))], PixelScale(), ["ant", "bee"], "a model")
    # 0.99999 is not certain.
    assert said == ["a model", "is ant", "taken for bee", "at 99.99 %  (no. 7)"]


def test_a_sheet_is_written_as_a_picture(tmp_path):
    path = tmp_path / "deep/m.png"
    plot_mistakes([mistake(np.zeros([3, 8, 8]))], PixelScale(), ["ant", "bee"], "a model", path)
    with Image.open(path) as image:
        assert image.size[0] > 150
    assert [entry.name for entry in path.parent.iterdir()] == ["m.png"]


def test_a_reliability_diagram_has_a_bar_for_each_bin_with_answers_and_its_gap(drawn, tmp_path):
    confidence = np.array([0.5, 0.52, 0.99, 0.97], np.float32)
    found = Reliability.of(confidence, np.array([True, False, True, True]))
    plot_reliability(found, "a model", tmp_path / "r.png")
    upper, lower = drawn[0].axes
    right, gaps = upper.containers
    assert [bar.get_height() for bar in right] == [50, 100]
    assert [bar.get_x() for bar in right] == [pytest.approx(100 * b / 15) for b in (7, 14)]
    assert [bar.get_y() for bar in gaps] == [50, 100]
    assert [bar.get_height() for bar in gaps] == [pytest.approx(1, abs=1e-4), pytest.approx(-2)]
    assert [bar.get_height() for bar in lower.containers[0]] == [0] * 7 + [2] + [0] * 6 + [2]
    # (2 * 0.01 + 2 * 0.02) / 4
    assert upper.get_title() == "a model\nECE 1.50 % (15 bins)"
