"""The embedded digits are the published ones, scaled the same everywhere and split for good."""

from __future__ import annotations

import gzip
import importlib.util
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ppema.data import digits
from ppema.data.digits import Digits, eval_split, load_digits, place, resize
from ppema.errors import DataError

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def published():
    with np.load(REPOSITORY / "ppema/data/digits.npz", allow_pickle=False) as archive:
        return archive["images"], archive["labels"]


@pytest.fixture(scope="module")
def make_digits():
    spec = importlib.util.spec_from_file_location(
        "make_digits", REPOSITORY / "tools/make_digits.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def slow_resize(image, size):
    """Interpolate with floats, pixel by pixel: the twin of the integer arithmetic."""
    old = len(image)
    scaled = np.zeros((size, size))
    at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
    for row in range(size):
        for column in range(size):
            top, left = min(int(at[row]), old - 2), min(int(at[column]), old - 2)
            down, right = at[row] - top, at[column] - left
            upper = (1 - right) * image[top, left] + right * image[top, left + 1]
            lower = (1 - right) * image[top + 1, left] + right * image[top + 1, left + 1]
            scaled[row, column] = ((1 - down) * upper + down * lower) * 255 / 16
    return scaled


def test_the_published_digits_are_all_there(published):
    images, labels = published
    assert images.shape == (1797, 8, 8)
    assert images.max() == 16
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert images[0, 0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]


@pytest.mark.parametrize("size", [8, 20, 28])
def test_resize_equals_the_slow_one(published, size):
    scaled = resize(published[0][:5], size)
    for image, expected in zip(scaled, published[0]):
        # Integers round halves up; the float twin may fall on either side of a half.
        assert np.abs(image - slow_resize(expected, size)).max() <= 0.5 + 1e-9


def test_resize_keeps_black_and_white():
    levels = np.array([[[0] * 8] * 8, [[16] * 8] * 8], np.uint8)
    assert np.unique(resize(levels, 20)[0]).tolist() == [0]
    assert np.unique(resize(levels, 20)[1]).tolist() == [255]


def test_place_moves_down_and_right_without_losing_a_pixel():
    square = np.full((1, 20, 20), 7, np.uint8)
    moved = place(square, 1, -2)[0]
    rows, columns = np.nonzero(moved)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 24, 2, 21)
    assert moved.sum() == square.sum()


def test_every_fifth_of_each_class_is_for_evaluation():
    labels = np.array([0, 1] * 10, np.uint8)
    assert np.flatnonzero(eval_split(labels)).tolist() == [8, 9, 18, 19]


def test_no_evaluation_image_is_trained_on():
    train, test = load_digits("train"), load_digits("test")
    trained = {image.tobytes() for image in train.images}
    assert not [index for index, image in enumerate(test.images) if image.tobytes() in trained]


def test_evaluation_images_are_not_moved(published):
    images, labels = published
    is_eval = eval_split(labels)
    test = load_digits("test")
    np.testing.assert_array_equal(test.images[:, 0], place(resize(images[is_eval], 20), 0, 0))
    np.testing.assert_array_equal(test.labels, labels[is_eval])


def test_training_images_come_in_five_positions(published):
    images, labels = published
    is_train = ~eval_split(labels)
    train = load_digits("train")
    expected = resize(images[is_train], 20)
    assert len(train) == 5 * is_train.sum() == 7210
    for index, (down, right) in enumerate([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)]):
        part = slice(index * len(expected), (index + 1) * len(expected))
        np.testing.assert_array_equal(train.images[part, 0], place(expected, down, right))
        np.testing.assert_array_equal(train.labels[part], labels[is_train])


@pytest.mark.parametrize(
    ("mode", "digest"),
    [
        ("train", "9ee363f966a420f1f5a7728af04e3d3b39bd8551539700514415c0c0ab6cf4e9"),
        ("test", "913a2f7074966f4bedc77433f50ec18e95de3c2d7dda069d99be232f2efde388"),
    ],
)
def test_bytes_are_the_same_on_every_machine(mode, digest):
    assert load_digits(mode).digest == digest


def test_source_says_that_it_is_not_mnist():
    train, test = load_digits("train"), load_digits("test")
    assert train.kind == test.kind == "digits"
    assert "NOT MNIST" in train.source
    assert "1,442 images in 5 positions" in train.source
    assert "NOT MNIST" in test.source
    assert "355 images," in test.source


def test_unknown_mode():
    with pytest.raises(ValueError, match="mode must be train or test, got 'eval'"):
        Digits(mode="eval")


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "pickle"])
def test_damaged_package_is_one_line(tmp_path, monkeypatch, damage):
    copy = tmp_path / "digits.npz"
    whole = (REPOSITORY / "ppema/data/digits.npz").read_bytes()
    if damage == "truncated":
        copy.write_bytes(whole[:50000])
    elif damage == "flipped":
        copy.write_bytes(whole[:50000] + bytes([whole[50000] ^ 1]) + whole[50001:])
    elif damage == "pickle":
        np.savez(copy, images=np.array([{}], dtype=object), labels=np.zeros(1))
    monkeypatch.setattr(digits, "_FILE", copy)
    with pytest.raises(DataError) as caught:
        load_digits("test")
    assert str(caught.value).startswith(f"{copy}: ")
    assert str(caught.value).endswith("; install ppema anew")
    assert "\n" not in str(caught.value)


def test_licence_and_makers_ship_with_the_digits():
    notice = (REPOSITORY / "ppema/data/DIGITS-LICENSE.txt").read_text()
    for words in ("Alpaydin", "Kaynak", "CC BY 4.0", "10.24432/C50P49"):
        assert words in notice
        assert words in digits.__doc__


def write_csv(path, published):
    images, labels = published
    lines = [",".join(map(str, [*image.ravel(), label])) for image, label in zip(images, labels)]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))


def test_the_tool_makes_the_archive_again_to_the_byte(tmp_path, published, make_digits, capsys):
    write_csv(tmp_path / "digits.csv.gz", published)
    with zipfile.ZipFile(tmp_path / "some.whl", "w") as wheel:
        wheel.write(tmp_path / "digits.csv.gz", make_digits.MEMBER)
    for source in ("digits.csv.gz", "some.whl"):
        output = tmp_path / f"{source}.npz"
        assert make_digits.main([str(tmp_path / source), "--output", str(output)]) == 0
        assert output.read_bytes() == (REPOSITORY / "ppema/data/digits.npz").read_bytes()
        assert f"wrote 1797 digits (CC BY 4.0) to {output}" in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["missing", "not gzip", "not numbers", "17", "no member"])
def test_the_tool_refuses_other_files(tmp_path, published, make_digits, fault):
    source = tmp_path / "source"
    if fault == "not gzip":
        source.write_bytes(b"0,1,2")
    elif fault == "not numbers":
        source.write_bytes(gzip.compress(b"a,b\n"))
    elif fault == "17":
        write_csv(source, (published[0][:2] + np.uint8(17), published[1][:2]))
    elif fault == "no member":
        with zipfile.ZipFile(source, "w") as wheel:
            wheel.writestr("other", "")
    with pytest.raises(DataError, match=f"^{source}: "):
        make_digits.read_digits(source)
