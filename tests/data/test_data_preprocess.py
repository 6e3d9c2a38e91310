"""A picture is fed to a served model as evaluation fed it, to the bit."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from cifar_archives import cifar10_members, write_tar
from PIL import Image

from ppema.data import (
    ArrayReader,
    Cifar10,
    Digits,
    ImageFolder,
    LoaderReader,
    Preprocess,
    image_folder,
    load_dataset,
)
from ppema.errors import DataError

SHAPES = {
    "wide.png": (20, 30, 3),
    "tall.jpg": (40, 11, 3),
    "grey.png": (9, 9),
    "dot.bmp": (1, 1, 3),
}


@pytest.fixture
def pictures(tmp_path):
    """Return a folder of pictures of many kinds, one turned by its EXIF, one see-through."""
    random = np.random.RandomState(0)
    for name in ("ant", "bee"):
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for file, shape in SHAPES.items():
            Image.fromarray(random.randint(0, 256, shape).astype(np.uint8)).save(folder / file)
        turned = Image.fromarray(random.randint(0, 256, (12, 25, 3)).astype(np.uint8))
        exif = turned.getexif()
        exif[0x0112] = 6
        turned.save(folder / "turned.jpg", exif=exif)
        see_through = random.randint(0, 256, (14, 8, 4)).astype(np.uint8)
        Image.fromarray(see_through, "RGBA").save(folder / "see_through.png")
    return tmp_path / "pictures"


def read_all(dataset):
    """Return what an evaluation of the dataset feeds the model."""
    if hasattr(dataset, "images"):
        reader = ArrayReader(dataset, 7, shuffle=False, drop_last=False, seed=0)
    else:
        reader = LoaderReader(dataset, 7, False, False, 0, num_workers=0)
    return np.concatenate([batch.image for batch in reader.batches(1)])


def round_trip(preprocess):
    """Return it as it comes back from a manifest."""
    return Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict())))


# Pillow's mode argument is deprecated for what it guesses itself.
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize("is_small", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_is_fed_as_evaluation_of_its_folder_feeds_it(
    pictures, channels, is_small, monkeypatch
):
    if not is_small:
        monkeypatch.setattr(image_folder, "MAX_BYTES_IN_MEMORY", 0)
    dataset = load_dataset(ImageFolder("test", str(pictures), (16, 24), channels), "error")
    assert hasattr(dataset, "images") == is_small
    preprocess = round_trip(Preprocess.of(dataset))
    files = sorted(pictures.glob("*/*"))
    assert len(files) == 12
    fed = read_all(dataset)
    for image, file in zip(fed, files):
        for picture in (file, file.read_bytes()):
            made = preprocess(picture)
            assert made.dtype == np.float32
            assert made.tobytes() == image.tobytes(), file


def test_a_digit_saved_as_a_picture_is_fed_as_the_digit(tmp_path):
    dataset = load_dataset(Digits("test"), "error")
    preprocess = round_trip(Preprocess.of(dataset))
    fed = read_all(dataset)
    for index in range(10):
        Image.fromarray(dataset.images[index, 0]).save(tmp_path / "digit.png")
        np.save(tmp_path / "digit.npy", dataset.images[index])
        for picture in (tmp_path / "digit.png", tmp_path / "digit.npy", dataset.images[index]):
            assert preprocess(picture).tobytes() == fed[index].tobytes()


def test_each_channel_of_cifar_has_its_own_scale(tmp_path):
    write_tar(tmp_path / "cifar-10-python.tar.gz", cifar10_members(2))
    dataset = load_dataset(Cifar10("test", str(tmp_path)), "error")
    preprocess = round_trip(Preprocess.of(dataset))
    assert len(set(preprocess.mean)) == 3
    fed = read_all(dataset)
    Image.fromarray(np.moveaxis(dataset.images[1], 0, -1)).save(tmp_path / "photo.png")
    assert preprocess(tmp_path / "photo.png").tobytes() == fed[1].tobytes()


class Samples(paddle.io.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], 0


def test_arrays_of_a_user_s_dataset_are_fed_as_they_are_or_scaled_where_they_are_bytes():
    random = np.random.RandomState(0)
    for dtype in ("uint8", "float32"):
        images = (200 * random.rand(3, 2, 5, 4)).astype(dtype)
        dataset = load_dataset(Samples(images), "error")
        preprocess = round_trip(Preprocess.of(dataset))
        assert not preprocess.takes_pictures
        for image, fed in zip(images, read_all(dataset)):
            assert preprocess(image).tobytes() == fed.tobytes()


def digits():
    return Preprocess((1, 28, 28), "uint8", 127.5, 127.5)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.png", b"", "is empty"),
        ("text.png", b"no picture", "is no image of a known kind"),
        ("short.npy", b"\x93NUMPY\x01\x00v\x00{", "is no array of NumPy, or is damaged"),
        ("pickle.npy", b"cos\nsystem\n(S'true'\ntR.", "is no array of NumPy, or is damaged"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        digits()(path)
    assert str(error.value).startswith(f"{path}: {said}")
    assert "\n" not in str(error.value)


def test_a_folder_a_missing_file_and_an_archive_of_arrays_are_named(tmp_path):
    np.savez(tmp_path / "many.npz", a=np.zeros(3))
    (tmp_path / "many.npz").rename(tmp_path / "many.npy")
    for path, said in [
        (tmp_path, "is no file"),
        (tmp_path / "none.png", "is not there"),
        (tmp_path / "none.npy", "No such file"),
        (tmp_path / "many.npy", "is an archive of NumPy's, not one array"),
    ]:
        with pytest.raises(DataError, match=said):
            digits()(path)


def test_bytes_are_named_as_the_caller_says(tmp_path):
    for content, said in [(b"", "upload 7: is empty"), (b"GIF89a", "upload 7: is ")]:
        with pytest.raises(DataError, match=said):
            digits()(content, "upload 7")


def test_an_array_of_another_kind_is_refused():
    for array in (np.zeros((1, 28, 27), "uint8"), np.zeros((1, 28, 28), "float32")):
        with pytest.raises(DataError, match=r"this model takes uint8 \[1, 28, 28\]"):
            digits()(array)
    floats = Preprocess((1, 28, 28), "float32", 0.0, 1.0)
    with pytest.raises(DataError, match=r"trained on float32 arrays .* give arrays \(\.npy\)"):
        floats(b"any")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shape": [1, 28]}, "shape must be channels, rows and columns"),
        ({"shape": "any"}, "shape must be three whole numbers"),
        ({"shape": [0, 28, 28]}, "shape must be"),
        ({"dtype": "int64"}, "dtype must be uint8 or float32"),
        ({"resize": "crop"}, "resize must be stretch"),
        ({"std": 0.0}, "std above 0"),
        ({"mean": "127"}, "mean must be a number"),
        ({"mean": [1.0, 2.0]}, "for 1 channels"),
        ({"more": 1}, "needs the keys"),
    ],
)
def test_facts_that_fit_nothing_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        Preprocess.from_dict({**digits().to_dict(), **change})
    with pytest.raises(ValueError, match="needs the keys"):
        Preprocess.from_dict(None)
