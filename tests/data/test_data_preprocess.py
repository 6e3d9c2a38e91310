"""A picture is fed to a served model as evaluation fed it, to the bit."""

from __future__ import annotations

import json
import random
import sys
import threading

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
    Step,
    Transforms,
    image_folder,
    load_dataset,
    paddle_transforms,
    transform_samples,
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
    source = np.random.RandomState(0)
    for name in ("ant", "bee"):
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for file, shape in SHAPES.items():
            Image.fromarray(source.randint(0, 256, shape).astype(np.uint8)).save(folder / file)
        turned = Image.fromarray(source.randint(0, 256, (12, 25, 3)).astype(np.uint8))
        exif = turned.getexif()
        exif[0x0112] = 6
        turned.save(folder / "turned.jpg", exif=exif)
        see_through = source.randint(0, 256, (14, 8, 4)).astype(np.uint8)
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


def of_paddle(*entries):
    """Return transforms as a config makes them: name and arguments."""
    return Transforms(
        [
            Step(f"EvalReader.transforms.{number}", name, paddle_transforms()[name](**given), given)
            for number, (name, given) in enumerate(entries)
        ]
    )


RESIZE = [("Resize", {"size": 18}), ("CenterCrop", {"size": [16, 14]})]
NORMALIZE = ("Normalize", {"mean": [90.0, 120.0, 150.0], "std": [60.0, 50.0, 40.0]})
SCALES = {"mean": (120.0, 110.0, 100.0), "std": (60.0, 61.0, 62.0)}
# How a folder is read, and its transforms.
JOINED = {
    "crop": ({"image_size": (16, 24), "resize": "crop", **SCALES}, []),
    "pad": ({"image_size": (16, 24), "resize": "pad", "channels": 1}, []),
    "stretched, then cut": ({"image_size": 20}, [("CenterCrop", {"size": 16})]),
    "padded, then cut": ({"image_size": 20, "resize": "pad"}, [("CenterCrop", {"size": 16})]),
    "own size": (SCALES, RESIZE),
    "own size, grey": ({"channels": 1, "mean": 99.0}, RESIZE),
    "own size to floats": ({}, [*RESIZE, NORMALIZE]),
    "own size to a tensor": (
        {},
        [*RESIZE, ("ToTensor", {}), ("Normalize", {"mean": 0.4, "std": 0.3})],
    ),
    "colours to grey": ({}, [*RESIZE, ("Grayscale", {"num_output_channels": 1})]),
    "colours to three greys": (SCALES, [*RESIZE, ("Grayscale", {"num_output_channels": 3})]),
    "grey to a tensor": ({"channels": 1}, [*RESIZE, ("ToTensor", {})]),
    "a border": ({"image_size": 9}, [("Pad", {"padding": [1, 2, 3, 4], "fill": 7})]),
    "upside down": ({"image_size": 9}, [("RandomVerticalFlip", {"prob": 1.0})]),
}


@pytest.mark.parametrize("is_small", [True, False])
@pytest.mark.parametrize("how", JOINED)
def test_a_file_is_fed_as_the_reader_of_the_evaluation_feeds_it(
    pictures, how, is_small, monkeypatch
):
    if not is_small:
        monkeypatch.setattr(image_folder, "MAX_BYTES_IN_MEMORY", 0)
    request, entries = JOINED[how]
    dataset = load_dataset(ImageFolder("test", str(pictures), **request), "error")
    stretched = load_dataset(ImageFolder("test", str(pictures), (16, 24)), "error")
    if entries:
        dataset = transform_samples(dataset, of_paddle(*entries))
    preprocess = round_trip(Preprocess.of(dataset))
    fed, plain = read_all(dataset), read_all(stretched)
    for image, other, file in zip(fed, plain, sorted(pictures.glob("*/*"))):
        made = preprocess(file)
        assert (made.dtype, made.shape) == (np.float32, image.shape)
        assert made.tobytes() == image.tobytes() == preprocess(file.read_bytes()).tobytes(), file
        # It is not what was done before there were other ways.
        assert made.tobytes() != other.tobytes()


def test_an_array_goes_through_the_transforms_too(tmp_path):
    dataset = load_dataset(Digits("test"), "error")
    cut = transform_samples(dataset, of_paddle(("CenterCrop", {"size": 20})))
    preprocess = round_trip(Preprocess.of(cut))
    np.save(tmp_path / "digit.npy", dataset.images[3])
    for picture in (tmp_path / "digit.npy", dataset.images[3]):
        assert preprocess(picture).tobytes() == read_all(cut)[3].tobytes()
    with pytest.raises(DataError, match=r"this model takes uint8 \[1, 28, 28\]"):
        preprocess(dataset.images[3][:, :20, :20])


def test_a_user_s_images_of_several_sizes_are_not_stretched_to_the_first(tmp_path):
    source = np.random.RandomState(0)
    images = [source.randint(0, 256, (3, 20, n)).astype("uint8") for n in (25, 31)]
    dataset = transform_samples(load_dataset(Samples(images), "error"), of_paddle(*RESIZE))
    preprocess = round_trip(Preprocess.of(dataset))
    Image.fromarray(np.moveaxis(images[1], 0, -1)).save(tmp_path / "second.png")
    for picture in (tmp_path / "second.png", images[1]):
        assert preprocess(picture).tobytes() == read_all(dataset)[1].tobytes()


def test_a_picture_always_gets_the_same_random_numbers_and_leaves_those_of_the_process(pictures):
    entries = [("RandomCrop", {"size": 16}), ("ColorJitter", {"brightness": 0.9})]
    dataset = load_dataset(ImageFolder("test", str(pictures), 32), "error")
    preprocess = round_trip(Preprocess.of(transform_samples(dataset, of_paddle(*entries))))
    file = pictures / "ant/tall.jpg"
    np.random.seed(3)
    expected = np.random.RandomState(3).rand()
    first = preprocess(file)
    assert np.random.rand() == expected
    # The process's own go on from one picture to the next.
    for seed in (random.seed, np.random.seed, paddle.seed):
        seed(4)
    found = []
    threads = [
        threading.Thread(target=lambda: found.extend(preprocess(file) for _ in range(10)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40
    assert all((image == first).all() for image in found)


def test_facts_of_before_there_were_transforms_are_read():
    old = {"shape": [1, 28, 28], "dtype": "uint8", "resize": "stretch", "mean": 127.5, "std": 127.5}
    assert Preprocess.from_dict(old).to_dict() == digits().to_dict()


def joined():
    """Return the facts of transforms."""
    entry = {"name": "CenterCrop", "size": 20}
    return {**digits().to_dict(), "shape": [1, 20, 20], "transforms": [entry]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "strangers_code.Transform"}, "is strangers_code.Transform, a transform of some"),
        ({"name": "os.system", "command": "true"}, "is os.system, a transform of somebody's own"),
        ({"name": "Compose", "transforms": []}, "this Paddle has no transform 'Compose'"),
        ({"name": "BaseTransform"}, "this Paddle has no transform 'BaseTransform'"),
        ({"name": 3}, "must be a mapping with a name"),
        ({"name": "CenterCrop"}, "missing a required argument: 'size'"),
        ({"name": "CenterCrop", "size": 20, "sizes": 3}, "unexpected keyword argument 'sizes'"),
        ({"name": "CenterCrop", "size": 20, "keys": ["image"]}, "takes no keys"),
        ({"name": "CenterCrop", "size": {"rows": 20}}, "takes no size"),
        ({"name": "ContrastTransform", "value": -1}, "non-negative"),
    ],
)
def test_a_stranger_s_transforms_are_paddle_s_with_arguments_that_these_take(
    change, said, tmp_path, monkeypatch
):
    (tmp_path / "strangers_code.py").write_text("class Transform:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"transforms\.0") as error:
        Preprocess.from_dict({**joined(), "transforms": [change]})
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    # Found on the path, and never looked at.
    assert "strangers_code" not in sys.modules


def test_transforms_that_make_another_shape_are_named(tmp_path):
    image = np.zeros((1, 28, 28), np.uint8)
    assert Preprocess.from_dict(joined())(image).shape == (1, 20, 20)
    wrong = Preprocess.from_dict({**joined(), "shape": [1, 21, 21]})
    with pytest.raises(DataError, match=r"upload: the transforms make \[1, 20, 20\] of \[1, 28"):
        wrong(image, "upload")
    crop = {"name": "RandomCrop", "size": 90}
    failing = Preprocess.from_dict({**joined(), "transforms": [crop]})
    with pytest.raises(DataError, match=r"upload: transforms.0 \(RandomCrop\) on a picture of 28x"):
        failing(image, "upload")


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
    source = np.random.RandomState(0)
    for dtype in ("uint8", "float32"):
        images = (200 * source.rand(3, 2, 5, 4)).astype(dtype)
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
        ({"shape": [1, 28]}, "shape must be three whole numbers"),
        ({"shape": [1, 28, True]}, "shape must be three whole numbers"),
        ({"shape": "any"}, "shape must be three whole numbers"),
        ({"shape": [0, 28, 28]}, "shape must be"),
        ({"shape": [1, 10**6, 10**6]}, "shape must be of 268,435,456 values at most"),
        ({"dtype": "int64"}, "dtype must be uint8 or float32"),
        ({"resize": "zoom"}, "resize must be stretch, crop, pad"),
        ({"resize": ["crop"]}, "resize must be stretch, crop, pad"),
        ({"decoded_shape": [1, 20, 20]}, "no transforms make the one of the other"),
        ({"decoded_shape": [1, 28]}, "decoded_shape must be three whole numbers"),
        ({"decoded_shape": [1, -1, 28]}, r"decoded_shape must be channels, rows and columns \(or"),
        ({"transforms": {}}, "transforms must be a list of one or more"),
        ({"transforms": [{"name": "ToTensor"}], "dtype": "float32"}, "transforms need uint8 of"),
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
