"""Transforms give the same image wherever and whenever it is made, and say what does not fit."""

from __future__ import annotations

import random
import sys
from dataclasses import replace

import numpy as np
import paddle
import paddle.vision.transforms as of_paddle
import pytest
from PIL import Image
from sample_datasets import Images

from ppema.data import (
    ArrayReader,
    LoaderReader,
    Step,
    Transforms,
    load_dataset,
    paddle_transforms,
    prepare_image,
    transform_samples,
)
from ppema.data.dataset import ArrayDataset, Scale
from ppema.data.seeding import kept_generators, seed_sample
from ppema.errors import DataError

# What each transform needs, where it does not do without; each with another result than its input.
ARGUMENTS = {
    "BrightnessTransform": {"value": 0.5},
    "CenterCrop": {"size": 6},
    "ColorJitter": {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.2},
    "ContrastTransform": {"value": 0.5},
    "HueTransform": {"value": 0.5},
    "Normalize": {"mean": 9.0},
    "Pad": {"padding": 2},
    "RandomAffine": {"degrees": 30},
    "RandomCrop": {"size": 8, "padding": 2},
    "RandomErasing": {"prob": 1.0},
    "RandomHorizontalFlip": {"prob": 1.0},
    "RandomPerspective": {"prob": 1.0},
    "RandomResizedCrop": {"size": 6},
    "RandomRotation": {"degrees": 30},
    "RandomVerticalFlip": {"prob": 1.0},
    "Resize": {"size": [5, 6]},
    "SaturationTransform": {"value": 0.5},
}
# Greys have neither.
OF_COLOURS = {"HueTransform", "SaturationTransform", "Grayscale"}
SHAPES = {"CenterCrop": (6, 6), "RandomCrop": (8, 8), "RandomResizedCrop": (6, 6)}
SHAPES.update({"Resize": (5, 6), "Pad": (12, 14)})
FLOATS = {"Normalize", "ToTensor"}


def make(*transforms):
    return Transforms(
        [
            Step(f"TrainReader.transforms.{number}", type(transform).__name__, transform)
            for number, transform in enumerate(transforms)
        ]
    )


def memory(channels=3, count=40, size=(8, 10)):
    pixels = np.random.RandomState(0).randint(0, 256, (count, channels, *size)).astype(np.uint8)
    return ArrayDataset(
        images=pixels,
        labels=np.arange(count) % 3,
        class_names=tuple("abc"),
        mean=127.5,
        std=127.5,
        source="noise",
        kind="user",
        digest="of the data",
    )


def reader(dataset, num_workers=0, shuffle=True, seed=7):
    return LoaderReader(dataset, 8, shuffle, False, seed, num_workers)


def bits(batches):
    return [(batch.image.tobytes(), batch.label.tobytes()) for batch in batches]


def fault(function, *arguments):
    with pytest.raises(DataError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_of_paddle_that_take_an_image_are_known_by_name():
    names = set(paddle_transforms())
    assert names == {*ARGUMENTS, "ToTensor", "Transpose", "Grayscale"}
    # The base, and what takes transforms.
    assert {name for name in of_paddle.__all__ if name[0].isupper()} - names == {
        "BaseTransform",
        "Compose",
    }


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", sorted(paddle_transforms()))
def test_each_takes_grey_and_coloured_images(name, channels):
    dataset = memory(channels)
    transform = paddle_transforms()[name](**ARGUMENTS.get(name, {}))
    with kept_generators():
        seed_sample(0, 0, 0)
        found = make(transform)(dataset.images[0])
    wanted = (1 if name == "Grayscale" else channels, *SHAPES.get(name, (8, 10)))
    assert (found.shape, found.dtype) == (wanted, np.float32 if name in FLOATS else np.uint8)
    is_same = found.shape == dataset.images[0].shape and (found == dataset.images[0]).all()
    assert is_same == (name == "Transpose" or (channels == 1 and name in OF_COLOURS))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", sorted({*paddle_transforms()} - {"Transpose"}))
def test_each_takes_tensors_after_to_tensor(name, channels):
    transform = paddle_transforms()[name](**ARGUMENTS.get(name, {}))
    with kept_generators():
        seed_sample(0, 0, 0)
        found = make(of_paddle.ToTensor(), transform)(memory(channels).images[0])
    wanted = (1 if name == "Grayscale" else channels, *SHAPES.get(name, (8, 10)))
    assert (found.shape, found.dtype) == (wanted, np.float32)


def test_pictures_are_used_and_never_opencv(monkeypatch):
    # As where it is not installed; where it is, a NumPy array would be given to it.
    monkeypatch.setitem(sys.modules, "cv2", None)
    image = memory().images[0]
    picture = Image.fromarray(image.transpose(1, 2, 0))
    expected = np.asarray(picture.resize((6, 5), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert (make(of_paddle.Resize([5, 6]))(image) == expected).all()
    assert (make(of_paddle.RandomHorizontalFlip(1.0))(image) == image[:, :, ::-1]).all()


def test_bytes_are_scaled_and_floats_are_fed_as_they_are():
    dataset = memory(size=(6, 7))
    (plain,) = ArrayReader(dataset, 40, False, False, 0).batches(1)

    def images(*transforms):
        made = transform_samples(dataset, make(*transforms))
        (batch,) = LoaderReader(made, 40, False, False, 0, 0).batches(1)
        assert batch.image.dtype == np.float32
        assert (batch.label == plain.label).all()
        return batch.image

    assert (images(of_paddle.RandomVerticalFlip(1.0)) == plain.image[:, :, ::-1]).all()
    assert (images(of_paddle.Transpose()) == plain.image).all()
    pixels = dataset.images.astype(np.float64)
    assert np.abs(images(of_paddle.ToTensor()) - pixels / 255).max() < 1e-6
    mean, std = [1.0, 2.0, 3.0], [10.0, 20.0, 40.0]
    by_channel = (np.array(values).reshape(1, 3, 1, 1) for values in (mean, std))
    expected = (pixels - next(by_channel)) / next(by_channel)
    normalize = of_paddle.Normalize(mean, std)
    assert np.abs(images(normalize) - expected).max() < 1e-5
    assert np.abs(images(of_paddle.Transpose(), normalize) - expected).max() < 1e-5


def test_one_number_of_normalize_and_of_fill_is_for_each_channel_there_is():
    for channels in (1, 3):
        image = memory(channels).images[0]
        found = make(of_paddle.ToTensor(), of_paddle.Normalize(0.5, 0.25))(image)
        assert np.abs(found - (image / 255 - 0.5) / 0.25).max() < 1e-6
        padded = make(of_paddle.Pad(1, fill=90))(image)
        assert (padded[:, 0] == 90).all()
        assert (padded[:, 1:-1, 1:-1] == image).all()
        erased = make(of_paddle.RandomErasing(1.0, value=90))(np.zeros_like(image))
        assert set(np.unique(erased)) == {0, 90}
    # The same object for images of other channels.
    pad = make(of_paddle.Pad(1, fill=90))
    assert [pad(memory(c).images[0])[:, 0, 0].tolist() for c in (3, 1)] == [[90] * 3, [90]]
    colour = make(of_paddle.Pad(1, fill=(1, 2, 3)))(memory().images[0])
    assert colour[:, 0, 0].tolist() == [1, 2, 3]


CROP = (of_paddle.RandomCrop(8, padding=4), of_paddle.RandomHorizontalFlip())
# These draw from `random`, from NumPy and from Paddle, and work on pictures and on tensors.
DRAWS = (
    of_paddle.RandomResizedCrop(8),
    of_paddle.ColorJitter(0.4, 0.4, 0.4, 0.1),
    of_paddle.ToTensor(),
    of_paddle.RandomAffine(20, shear=3.0),
    of_paddle.RandomErasing(1.0, value="random"),
)


@pytest.mark.parametrize("transforms", [CROP, DRAWS], ids=["crop", "draws"])
def test_the_same_bits_with_any_number_of_workers_and_from_any_sample(transforms):
    dataset = transform_samples(memory(), make(*transforms))
    whole = bits(reader(dataset).batches(2))
    for num_workers in (0, 1, 2):
        assert bits(reader(dataset, num_workers).batches(2)) == whole
        assert bits(reader(dataset, num_workers).batches(2, 16)) == whole[2:]
    images = np.concatenate([batch.image for batch in reader(dataset).batches(2)])
    from_5 = np.concatenate([batch.image for batch in reader(dataset, 1).batches(2, 5)])
    assert from_5.tobytes() == images[5:].tobytes()


@pytest.mark.parametrize("transforms", [CROP, DRAWS], ids=["crop", "draws"])
def test_each_epoch_seed_and_sample_is_varied_in_its_own_way(transforms):
    # The same image everywhere: what differs is what was drawn.
    dataset = memory()
    dataset = replace(dataset, images=np.repeat(dataset.images[:1], 40, axis=0))
    made = transform_samples(dataset, make(*transforms))

    def varied(seed, epoch):
        return np.concatenate([b.image for b in reader(made, 0, False, seed).batches(epoch)])

    first, second, other = varied(7, 1), varied(7, 2), varied(8, 1)
    assert len({image.tobytes() for image in first}) > 25
    for others in (second, other):
        assert sum(a.tobytes() != b.tobytes() for a, b in zip(first, others)) > 25


def test_what_is_drawn_leaves_the_generators_of_the_run_alone():
    random.seed(1), np.random.seed(1), paddle.seed(1)
    expected = random.random(), np.random.rand(), paddle.rand([1]).item()
    random.seed(1), np.random.seed(1), paddle.seed(1)
    list(reader(transform_samples(memory(), make(*DRAWS))).batches(1))
    assert (random.random(), np.random.rand(), paddle.rand([1]).item()) == expected


def test_data_keep_their_name_classes_and_digest():
    dataset = memory()
    made = transform_samples(dataset, make(of_paddle.CenterCrop(4)))
    for name in ("source", "class_names", "kind", "digest"):
        assert getattr(made, name) == getattr(dataset, name)
    assert (len(made), made.image_shape, made.mean) == (40, (3, 4, 4), 127.5)


def test_a_mean_for_each_channel_is_for_bytes_of_so_many_channels_only():
    dataset = replace(memory(), mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
    grey = of_paddle.Grayscale()
    assert transform_samples(dataset, make(grey, of_paddle.ToTensor())).image_shape == (1, 8, 10)
    assert fault(transform_samples, dataset, make(grey)) == (
        "noise: mean (1.0, 2.0, 3.0) and std (4.0, 5.0, 6.0) for 1 channels; let the transforms "
        "end with one that makes floats, such as {name: Normalize, mean: 127.5, std: 127.5}"
    )
    scaled = make(grey, of_paddle.Normalize(127.5, 127.5))
    assert transform_samples(dataset, scaled).image_shape == (1, 8, 10)


def test_a_user_s_dataset_is_transformed_too():
    class Small(Images):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image[:1], label

    plain, made = (load_dataset(Small(), "error") for _ in range(2))
    made = transform_samples(made, make(of_paddle.RandomVerticalFlip(1.0)))
    for expected, found in zip(reader(plain).batches(1), reader(made, 1).batches(1)):
        assert (found.image == expected.image[:, :, ::-1]).all()
    with_two = load_dataset(Images(), "error")
    assert fault(transform_samples, with_two, make(of_paddle.Transpose())) == (
        "sample_datasets.Images (50 samples): sample 0: image is uint8 [2, 4, 3]; transforms need "
        "uint8 of 1 channel or 3"
    )


class Mine:
    """A callable of a user's own."""

    def __init__(self, give):
        self.give = give

    def __call__(self, picture):
        return self.give(picture)


def test_a_callable_of_a_user_s_own_gives_a_picture_an_array_or_a_tensor():
    image = memory().images[0]
    flipped = Mine(lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert (make(flipped)(image) == image[:, :, ::-1]).all()
    array = Mine(lambda picture: np.asarray(picture).transpose(2, 0, 1) / np.float32(2))
    assert (make(array)(image) == image / np.float32(2)).all()
    twice = Mine(lambda tensor: tensor * 2)
    assert (make(array, twice)(image) == image.astype(np.float32)).all()


FAULTS = [
    (
        [of_paddle.RandomCrop(99)],
        "TrainReader.transforms.0 (RandomCrop) on a picture of 8x10 (RGB): ValueError: empty range",
    ),
    (
        [of_paddle.CenterCrop(8), of_paddle.ToTensor(data_format="HWC")],
        "TrainReader.transforms.1 (ToTensor) gives [8, 8, 3]; [C, H, W] is needed",
    ),
    (
        [of_paddle.ToTensor(), of_paddle.Transpose()],
        "TrainReader.transforms.1 (Transpose) gives [10, 3, 8]; [C, H, W] is needed",
    ),
    (
        [of_paddle.Transpose(), of_paddle.RandomVerticalFlip()],
        "TrainReader.transforms.1 (RandomVerticalFlip) on uint8 [3, 8, 10]: ValueError: takes a "
        "picture or float32; put it before what makes an array",
    ),
    (
        [of_paddle.Normalize([1.0, 2.0], 1.0)],
        "TrainReader.transforms.0 (Normalize) on a picture of 8x10 (RGB): ValueError: mean has 2 "
        "numbers for 3 channels",
    ),
    ([of_paddle.Normalize(data_format="HWC")], "ValueError: data_format must be CHW"),
    ([of_paddle.Normalize(to_rgb=True)], "ValueError: to_rgb must be false: it mirrors"),
    (
        [Mine(lambda picture: np.asarray(picture))],
        "TrainReader.transforms.0 (Mine) gives [8, 10, 3]; [C, H, W] is needed",
    ),
    (
        [Mine(lambda picture: picture.convert("RGBA"))],
        "(Mine) gives a picture of mode RGBA; L (grey) or RGB is needed",
    ),
    (
        [Mine(lambda picture: None)],
        "(Mine) gives a NoneType; a picture of Pillow's, an array or a tensor is needed",
    ),
    ([Mine(lambda picture: sys.exit(1))], "(Mine) on a picture of 8x10 (RGB): SystemExit: 1"),
    (
        [Mine(lambda picture: np.zeros((3, 4, 4)))],
        "noise: sample 0: image is float64 [3, 4, 4], expected uint8 or float32 [C, H, W]",
    ),
]


@pytest.mark.parametrize(("transforms", "text"), FAULTS, ids=[text[-40:] for _, text in FAULTS])
def test_what_does_not_fit_is_said_when_the_data_are_opened(transforms, text):
    found = fault(transform_samples, memory(), make(*transforms))
    assert found.startswith("noise: sample 0: ")
    assert text in found


def test_a_size_that_differs_is_said_before_training_with_what_makes_one():
    uneven = Mine(lambda picture: picture.resize((4, 4 + random.randint(0, 1))))
    found = fault(transform_samples, memory(), make(uneven))
    assert "image is uint8 [3, 5, 4], sample 0's is uint8 [3, 4, 4]; " in found or (
        "image is uint8 [3, 4, 4], sample 0's is uint8 [3, 5, 4]; " in found
    )
    assert found.endswith("4]} (of one number it makes the shorter side alone)")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_sample_that_fails_later_is_named(num_workers):
    def fail_at_37(picture):
        if np.asarray(picture)[0, 0, 0] == at_37:
            raise RuntimeError("no such colour")
        return picture

    dataset = memory()
    dataset.images[:, 0, 0, 0], at_37 = 1, 2
    dataset.images[37, 0, 0, 0] = at_37
    made = transform_samples(dataset, make(Mine(fail_at_37)))
    assert fault(list, reader(made, num_workers).batches(1)) == (
        "noise: sample 37: TrainReader.transforms.0 (Mine) on a picture of 8x10 (RGB): "
        "RuntimeError: no such colour"
    )


def test_one_image_is_prepared_as_a_batch_of_the_evaluation_is():
    dataset = replace(memory(), mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
    scale = Scale(dataset.mean, dataset.std)
    transforms = make(of_paddle.Resize([12, 12]), of_paddle.CenterCrop(8))
    made = transform_samples(dataset, transforms)
    (batch,) = LoaderReader(made, 40, False, False, 0, 0).batches(1)
    image = prepare_image(dataset.images[3], transforms, scale)
    assert image.tobytes() == batch.image[3].tobytes()
    (plain,) = ArrayReader(dataset, 40, False, False, 0).batches(1)
    assert prepare_image(dataset.images[3], None, scale).tobytes() == plain.image[3].tobytes()
