"""A folder of images becomes the same data wherever it lies, or a line that names the file."""

from __future__ import annotations

import io
import logging
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppema import progress
from ppema.data import ArrayReader, ImageFolder, LoaderReader, image_folder, load_datasets
from ppema.data import load_dataset as load_part
from ppema.data.dataset import ArrayDataset
from ppema.data.samples import SampleDataset
from ppema.errors import ConfigError, DataError

CLASSES = ("ant", "bee", "cat")


@pytest.fixture
def folder(tmp_path):
    """Return a folder of 10 images in each of three classes."""
    root = tmp_path / "images"
    random = np.random.RandomState(0)
    for name in CLASSES:
        for number in range(10):
            write(root / name / f"{number}.png", random.randint(0, 256, (12, 10, 3)))
    return root


def write(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)


def load(root, mode="train", size=8, **options):
    return load_part(ImageFolder(mode, str(root), size, **options), "error")


def fault(root, **options):
    with pytest.raises(DataError) as caught:
        load(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_small_folder_is_in_memory_by_class_and_name(folder):
    dataset = load(folder)
    assert isinstance(dataset, ArrayDataset)
    assert dataset.images.shape == (30, 3, 8, 8)
    assert dataset.labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert dataset.class_names == CLASSES
    assert dataset.source == f"train images (30 in 3 classes) from {folder}"
    with Image.open(folder / "bee" / "3.png") as image:
        expected = np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR))
    assert (dataset.images[13] == expected.transpose(2, 0, 1)).all()


def test_image_size_is_rows_and_columns(folder):
    assert load(folder, size=(6, 9)).images.shape == (30, 3, 6, 9)
    # At the files' own size nothing is interpolated.
    dataset = load(folder, size=(12, 10))
    with Image.open(folder / "ant" / "0.png") as image:
        assert (dataset.images[0] == np.asarray(image).transpose(2, 0, 1)).all()


def test_other_proportions_are_stretched_cut_or_padded(tmp_path, monkeypatch):
    # White in the middle third of the columns, at 12 rows and 36 columns.
    pixels = np.zeros((12, 36, 3))
    pixels[:, 12:24] = 255
    write(tmp_path / "ant" / "0.png", pixels)
    rows = {
        resize: load(tmp_path, size=12, resize=resize).images[0, 0].astype(int)
        for resize in ("stretch", "crop", "pad")
    }
    assert (rows["crop"] == 255).all()
    assert (rows["stretch"][:, 5:7] == 255).all()
    assert rows["stretch"][:, [0, 1, 10, 11]].max() == 0
    # The whole picture in a third of the rows, black above and below.
    assert rows["pad"][[0, 1, 2, 3, 8, 9, 10, 11]].max() == 0
    assert (rows["pad"][5:7, 5:7] > 240).all()
    for max_bytes in (image_folder.MAX_BYTES_IN_MEMORY, 0):
        monkeypatch.setattr(image_folder, "MAX_BYTES_IN_MEMORY", max_bytes)
        assert len({load(tmp_path, size=12, resize=resize).digest for resize in rows}) == 3


def test_pixels_are_scaled_as_mean_and_std_say(folder, monkeypatch):
    scale = {"mean": (1.0, 2.0, 3.0), "std": (10.0, 20.0, 40.0)}
    pixels = load(folder).images[:5].astype(float)
    expected = (pixels - np.array([[[1]], [[2]], [[3]]])) / np.array([[[10]], [[20]], [[40]]])
    (in_memory,) = ArrayReader(load(folder, **scale), 30, False, False, 0).batches(1)
    assert np.abs(in_memory.image[:5] - expected).max() < 1e-5
    assert load(folder, **scale).digest == load(folder).digest
    monkeypatch.setattr(image_folder, "MAX_BYTES_IN_MEMORY", 0)
    (read,) = LoaderReader(load(folder, **scale), 30, False, False, 0, 0).batches(1)
    assert (read.image == in_memory.image).all()


def test_without_a_size_each_image_keeps_its_own_and_makes_no_batch(folder):
    write(folder / "ant" / "0.png", np.zeros((5, 7, 3)))
    dataset = load(folder, size=None)
    assert isinstance(dataset, SampleDataset)
    assert not dataset.has_one_size
    assert [dataset.samples[index][0].shape for index in (0, 1)] == [(3, 5, 7), (3, 12, 10)]
    with pytest.raises(ValueError, match="batches need transforms that make one size"):
        LoaderReader(dataset, 8, False, False, 0, 0)


def test_one_channel_is_grey_and_three_are_colours_whatever_the_file_has(folder):
    write(folder / "ant" / "0.png", np.full((12, 10), 77))
    Image.new("RGBA", (10, 12), (10, 20, 30, 255)).save(folder / "ant" / "1.png")
    Image.new("P", (10, 12)).save(folder / "ant" / "2.gif")
    grey = load(folder, channels=1)
    assert grey.images.shape == (30 + 1, 1, 8, 8)
    colours = load(folder).images
    assert np.unique(colours[0]).tolist() == [77]
    assert colours[1][:, 0, 0].tolist() == [10, 20, 30]


def test_a_palette_with_transparency_is_read_as_it_looks(tmp_path):
    image = Image.new("P", (6, 6))
    image.putpalette([9, 8, 7] * 2)
    (tmp_path / "a").mkdir()
    image.save(tmp_path / "a" / "0.png", transparency=b"\xff\x80")
    assert load(tmp_path).images[0, :, 0, 0].tolist() == [9, 8, 7]


def test_a_photograph_is_turned_upright(tmp_path):
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:, :3] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    write(tmp_path / "a" / "0.png", pixels, exif=exif)
    image = load(tmp_path, size=(6, 4)).images[0, 0]
    assert (image[:3] == 255).all()
    assert (image[3:] == 0).all()


def test_images_deeper_down_are_found_and_hidden_names_passed_over(folder, caplog):
    write(folder / "ant" / "deep" / "x.JPG", np.zeros((3, 3, 3)))
    write(folder / ".thumbs" / "x.png", np.zeros((3, 3, 3)))
    write(folder / "ant" / ".cache" / "x.png", np.zeros((3, 3, 3)))
    assert len(load(folder)) == 31
    assert [r for r in caplog.records if r.levelname != "INFO"] == []


def test_files_that_are_no_images_are_counted_in_one_line(folder, caplog):
    for name in CLASSES:
        (folder / name / "Thumbs.db").write_bytes(b"x")
    (folder / "ant" / "notes.txt").write_text("x")
    (folder / "README.md").write_text("beside the classes, nobody asks")
    with caplog.at_level(logging.WARNING, "ppema"):
        assert len(load(folder)) == 30
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{folder}: 4 files that are no images are left out (Thumbs.db, notes.txt)"
    )


def test_images_beside_the_classes_are_named(folder, caplog):
    write(folder / "b.png", np.zeros((3, 3, 3)))
    write(folder / "a.png", np.zeros((3, 3, 3)))
    write(folder / ".hidden.png", np.zeros((3, 3, 3)))
    with caplog.at_level(logging.WARNING, "ppema"):
        assert len(load(folder)) == 30
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert said == [f"{folder}: 2 images beside the classes' folders are left out (a.png, b.png)"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is empty"),
        (b"no image at all", "is no image of a known kind"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no image of a known kind"),
        ("truncated", "is damaged ("),
    ],
)
@pytest.mark.parametrize("in_memory", [True, False])
def test_a_bad_image_is_named(folder, monkeypatch, content, text, in_memory):
    path = folder / "bee" / "4.png"
    if content == "truncated":
        content = path.read_bytes()[:150]
    path.write_bytes(content)
    if not in_memory:
        monkeypatch.setattr(image_folder, "MAX_BYTES_IN_MEMORY", 100)
    with pytest.raises(DataError) as caught:
        read_all(folder)
    assert str(caught.value).startswith(f"{path}: {text}")


def read_all(folder):
    dataset = load(folder)
    list(LoaderReader(dataset, 8, False, False, 0).batches(1))


def test_a_bad_image_ends_the_reading_of_the_others(folder, monkeypatch):
    (folder / "ant" / "0.png").write_bytes(b"x")
    read, read_image = [], image_folder.read_image

    def slowly(path, *arguments):
        time.sleep(0.02)
        read.append(path)
        return read_image(path, *arguments)

    monkeypatch.setattr(image_folder, "read_image", slowly)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    fault(folder)
    assert len(read) < 15


def test_reading_that_takes_long_is_shown_on_a_terminal(folder, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(progress, "_WAIT_S", -1.0)
    monkeypatch.setattr("sys.stderr", Terminal())
    load(folder, size=100)
    assert "reading 30 images [....................]   0 %" in sys.stderr.getvalue()


def test_files_that_cannot_be_reached_are_named(folder):
    link = folder / "bee" / "gone.png"
    link.symlink_to(folder / "nowhere.png")
    assert fault(folder) == f"{link}: No such file or directory"


def test_a_folder_that_may_not_be_read_is_named_not_passed_over(folder, monkeypatch):
    closed, scandir = folder / "bee" / "closed", os.scandir
    closed.mkdir()

    def refuse(path):
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert fault(folder) == f"{closed}: Permission denied"


def test_sixteen_bits_are_not_cut_off_silently(folder):
    Image.fromarray(np.full((5, 5), 40_000, np.uint16)).save(folder / "ant" / "0.png")
    assert fault(folder) == (f"{folder}/ant/0.png: has more than 8 bits a channel; save it with 8")


def test_a_folder_without_classes(tmp_path):
    write(tmp_path / "0.png", np.zeros((3, 3)))
    expected = "has no sub-folders; expected one a class, with its images"
    hint = f"; if it is a class itself, name {tmp_path.parent}"
    assert fault(tmp_path) == f"{tmp_path}: {expected}{hint}"
    (tmp_path / "0.png").rename(tmp_path / "0.txt")
    assert fault(tmp_path) == f"{tmp_path}: {expected}"
    assert fault(tmp_path / "no") == f"dataset_dir {tmp_path / 'no'}: no such folder"


def test_the_name_of_a_folder_that_is_near_is_said(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/images/ant").mkdir(parents=True)
    for wrong, right in (
        ("data/imges", "data/images"),
        ("data/IMAGES", "data/images"),
        ("dta/images", "data/images"),
        ("dta/pictures", "data"),
        (tmp_path / "dat" / "images" / "ant", tmp_path / "data/images/ant"),
    ):
        assert fault(wrong) == f"dataset_dir {wrong}: no such folder; did you mean {right}?"
    assert fault("zzz/images") == "dataset_dir zzz/images: no such folder"
    file = folder / "ant/0.png"
    assert fault(file) == f"dataset_dir {file}: is a file; name the folder that it is in"


def test_parts_are_not_taken_for_classes(folder):
    for name in ("Train", "val"):
        (folder / name).mkdir()
        shutil.copytree(folder / "ant", folder / name / "ant")
    parts = folder / "parts"
    parts.mkdir()
    for name in ("Train", "val"):
        (folder / name).rename(parts / name)
    assert fault(parts) == (
        f"{parts}: its sub-folders Train, val are no classes; set TrainDataset.dataset_dir and "
        f"EvalDataset.dataset_dir to one of them each ({parts / 'Train'} and {parts / 'val'}), and "
        "split: null"
    )


def test_a_class_without_images(folder):
    (folder / "dog").mkdir()
    assert fault(folder).startswith(f"{folder / 'dog'}: has no images; known are .bmp .gif .jpeg")


@pytest.mark.parametrize("seed", [0, 1])
def test_a_split_puts_each_image_of_each_class_into_one_part(folder, seed):
    parts = {"dataset_dir": str(folder), "image_size": 8, "split": 0.8, "split_seed": seed}
    train, test = load_datasets(
        ImageFolder("train", **parts), ImageFolder("test", **parts), "error"
    )
    assert train.labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    whole = {image.tobytes() for image in load(folder).images}
    assert {image.tobytes() for data in (train, test) for image in data.images} == whole
    # Each part in the folder's order.
    in_order = [image.tobytes() for image in load(folder).images]
    for data in (train, test):
        places = [in_order.index(image.tobytes()) for image in data.images]
        assert places == sorted(places)


def test_the_split_depends_on_its_seed_alone(folder):
    digests = [load(folder, split=0.8, split_seed=seed).digest for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_a_split_leaves_an_image_for_each_part(folder):
    for share, sizes in ((0.01, (3, 27)), (0.99, (27, 3))):
        found = [len(load(folder, mode, split=share)) for mode in ("train", "test")]
        assert tuple(found) == sizes
    for number in range(1, 10):
        (folder / "bee" / f"{number}.png").unlink()
    assert fault(folder, split=0.5) == f"{folder / 'bee'}: a split needs 2 images or more, found 1"


def test_train_and_eval_folders_must_have_the_same_classes(folder, tmp_path):
    for name in ("ant", "cat"):
        write(tmp_path / "val" / name / "0.png", np.zeros((3, 3)))
    with pytest.raises(DataError) as caught:
        load_datasets(
            ImageFolder("train", str(folder), 8),
            ImageFolder("test", str(tmp_path / "val"), 8),
            "error",
        )
    assert str(caught.value).endswith(
        "its 2 classes are not the 3 of the training data: only one has bee"
    )


def test_a_large_folder_is_read_by_workers_to_the_same_bits(folder, monkeypatch):
    small = load(folder)
    monkeypatch.setattr(image_folder, "MAX_BYTES_IN_MEMORY", 30 * 3 * 8 * 8 - 1)
    large = load(folder)
    assert isinstance(large, SampleDataset)
    assert large.class_names == CLASSES
    for workers in (0, 1):
        read = LoaderReader(large, 7, True, False, 5, workers).batches(2)
        for batch, expected in zip(read, ArrayReader(small, 7, True, False, 5).batches(2)):
            assert batch.image.tobytes() == expected.image.tobytes()
            assert batch.label.tolist() == expected.label.tolist()


@pytest.mark.parametrize("limit", [100, 1 << 20])
def test_the_digest_tells_other_images_and_other_classes(folder, monkeypatch, limit):
    monkeypatch.setattr(image_folder, "MAX_BYTES_IN_MEMORY", limit)
    before = load(folder).digest
    assert load(folder).digest == before
    assert load(folder, size=9).digest != before
    write(folder / "ant" / "0.png", np.zeros((5, 5, 3)))
    changed = load(folder).digest
    (folder / "ant").rename(folder / "aphid")
    assert len({before, changed, load(folder).digest}) == 3


def test_an_image_folder_goes_with_no_other_data(folder):
    with pytest.raises(ConfigError, match="both must be the same data"):
        load_datasets(ImageFolder("train", str(folder), 8), [], "error")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"mode": "val"}, "mode must be train or test, got 'val'"),
        ({"dataset_dir": " "}, "dataset_dir must name a folder, got ' '"),
        ({"image_size": 0}, "image_size must be 1 or more, got 0"),
        ({"image_size": (8, -1)}, "image_size must be 1 or more, got (8, -1)"),
        ({"resize": "fit"}, "resize must be stretch, crop, pad, got 'fit'"),
        (
            {"resize": "pad", "image_size": None},
            "resize is pad, and there is no image_size to resize to",
        ),
        ({"std": 0.0}, "mean 127.5 and std 0.0 must be finite, std above 0"),
        ({"mean": (1.0, 2.0)}, "mean (1.0, 2.0) and std 127.5 for 3 channels"),
        (
            {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
            "std must be 1 or more, in units of pixels from 0 to 255 (0.5 of 1 is 127.5), "
            "got (0.229, 0.224, 0.225)",
        ),
        ({"channels": 4}, "channels must be 1 or 3, got 4"),
        ({"split": 1.0}, "split must be above 0 and below 1, got 1.0"),
        ({"split_seed": -1}, "split_seed must be in [0, 4294967295], got -1"),
    ],
)
def test_arguments_out_of_range(changes, text):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        ImageFolder(**{"mode": "train", "dataset_dir": "x", "image_size": 8, **changes})
    assert str(caught.value) == text
