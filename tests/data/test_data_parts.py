"""Parts of a training set: which images, which labels, and that no pixel is copied for them."""

from __future__ import annotations

import numpy as np
import pytest
from paddle.vision import transforms as of_paddle
from sample_datasets import SHAPE, Images

from ppema.data import (
    ArrayReader,
    ImageFolder,
    LoaderReader,
    NoDownloader,
    PartFault,
    PartWords,
    Step,
    Transforms,
    divide,
    load_dataset,
    transform_samples,
)
from ppema.data.dataset import ArrayDataset
from ppema.data.digits import load_digits
from ppema.errors import DataError

NOTHING = {"validation": None, "train_samples": None, "label_noise": 0.0}
SEEDS = {"validation_seed": 0, "train_samples_seed": 0, "label_noise_seed": 0}


def words(**given):
    return PartWords(**{**NOTHING, **SEEDS, **given})


def in_memory(count=100, num_classes=5, **changes):
    facts = {
        "images": np.random.RandomState(1).randint(0, 256, (count, 3, 5, 4)).astype(np.uint8),
        "labels": np.arange(count) % num_classes,
        "class_names": tuple("abcdefghij"[:num_classes]),
        "mean": 127.5,
        "std": 127.5,
        "source": "the test's",
        "kind": "mnist",
        "digest": "a digest",
    }
    return ArrayDataset(**{**facts, **changes})


class Labelled(Images):
    """Images that say their labels, and count how often one is read."""

    def __init__(self, count=50, labels=None):
        super().__init__(count)
        self.labels = [index % 3 for index in range(count)] if labels is None else labels
        self.num_read = 0

    def __getitem__(self, index):
        self.num_read += 1
        return super().__getitem__(index)


def user(samples):
    return load_dataset(samples, "error")


def whole_batch(dataset):
    """Return all images and labels, in order, as they are fed."""
    if isinstance(dataset, ArrayDataset):
        reader = ArrayReader(dataset, len(dataset), False, False, 0)
    else:
        reader = LoaderReader(dataset, len(dataset), False, False, 0, num_workers=0)
    (batch,) = reader.batches(1)
    return batch


def rows_of(part):
    return part.rows.tolist()


def fault(function, *arguments):
    with pytest.raises((DataError, PartFault)) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_asked_for_is_the_dataset_itself():
    dataset = in_memory()
    assert divide(dataset, words()) == (dataset, None)


@pytest.mark.parametrize(
    "make", [in_memory, lambda: user(Labelled(100)), lambda: user(Images(100))]
)
def test_each_image_is_in_one_part_with_its_own_pixels_and_label(make):
    dataset = make()
    train, validation = divide(dataset, words(validation=0.2))
    assert (len(train), len(validation)) == (80, 20)
    assert sorted(rows_of(train) + rows_of(validation)) == list(range(100))
    assert (train.is_validation, validation.is_validation) == (False, True)
    whole = whole_batch(dataset)
    for part in (train, validation):
        batch = whole_batch(part)
        assert batch.image.tobytes() == whole.image[part.rows].tobytes()
        assert batch.label.tolist() == whole.label[part.rows].tolist()


def test_validation_is_of_each_class_alike_and_counted_where_it_is_a_number():
    _, validation = divide(in_memory(), words(validation=10))
    assert np.bincount(validation.labels).tolist() == [2] * 5
    assert len(divide(in_memory(), words(validation=1))[1]) == 1
    # A share of less than one image.
    assert len(divide(in_memory(), words(validation=0.001))[1]) == 1


def test_pixels_are_not_copied():
    dataset = in_memory()
    given = words(validation=0.2, train_samples=20, label_noise=0.5)
    assert all(part.images is dataset.images for part in divide(dataset, given))


def test_few_samples_are_taken_of_what_validation_leaves():
    plain, validation = divide(in_memory(), words(validation=0.2))
    train, same = divide(in_memory(), words(validation=0.2, train_samples=15))
    assert rows_of(same) == rows_of(validation)
    assert set(rows_of(train)) < set(rows_of(plain))
    assert np.bincount(train.labels).tolist() == [3] * 5


def test_noise_is_on_what_is_trained_on_and_nowhere_else():
    dataset = in_memory()
    clean, _ = divide(dataset, words(validation=0.2))
    train, validation = divide(dataset, words(validation=0.2, label_noise=0.25))
    assert rows_of(train) == rows_of(clean)
    assert (train.labels != clean.labels).sum() == 20
    assert validation.labels.tolist() == dataset.labels[validation.rows].tolist()
    assert dataset.labels.tolist() == in_memory().labels.tolist()


def test_noise_alone_keeps_all_images():
    train, validation = divide(in_memory(), words(label_noise=0.1))
    assert validation is None
    assert (train.labels != in_memory().labels).sum() == 10
    assert train.source == "the test's; 10 with a wrong label"


@pytest.mark.parametrize("key", ["validation", "train_samples", "label_noise"])
def test_each_has_a_seed_of_its_own(key):
    given = {"validation": 0.2, "train_samples": 30, "label_noise": 0.5}
    first, second = (
        divide(in_memory(), words(**given, **{f"{key}_seed": seed})) for seed in (0, 1)
    )
    is_other = {
        "validation": rows_of(first[1]) != rows_of(second[1]),
        "train_samples": rows_of(first[0]) != rows_of(second[0]),
        "label_noise": first[0].labels.tolist() != second[0].labels.tolist(),
    }
    assert is_other[key]
    assert not (key != "validation" and is_other["validation"])
    assert not (key == "label_noise" and is_other["train_samples"])


def test_the_digest_tells_other_parts_and_other_labels():
    given = [
        words(),
        words(validation=0.2),
        words(validation=0.2, validation_seed=1),
        words(validation=0.2, train_samples=20),
        words(validation=0.2, label_noise=0.2),
        words(validation=0.2, label_noise=0.2, label_noise_seed=1),
    ]
    parts = [divide(in_memory(), each) for each in given]
    assert len({train.digest for train, _ in parts}) == len(given)
    assert len({validation.digest for _, validation in parts[1:]}) == 2
    other = divide(in_memory(digest="another"), given[1])
    assert other[0].digest != parts[1][0].digest
    assert divide(in_memory(), given[4])[0].digest == parts[4][0].digest


def test_a_digit_and_its_moved_copies_are_on_one_side():
    dataset = load_digits("train")
    train, validation = divide(dataset, words(validation=0.1, label_noise=0.3))
    assert len(validation) == 144
    assert len(train) == (1442 - 144) * 5
    # The first positions are the digits as they are.
    assert max(rows_of(validation)) < 1442
    assert not set(dataset.originals[train.rows]) & set(dataset.originals[validation.rows])
    is_wrong = (train.labels != dataset.labels[train.rows]).reshape(5, -1)
    assert is_wrong[0].sum() == round(0.3 * 1298)
    assert (is_wrong == is_wrong[0]).all()
    assert (train.labels.reshape(5, -1) == train.labels[: 1442 - 144]).all()


def test_labels_that_a_dataset_says_save_reading_it():
    samples = Labelled()
    dataset = user(samples)
    samples.num_read = 0
    divide(dataset, words(validation=0.2))
    assert samples.num_read == 0


def test_the_labels_of_a_folder_are_known(tmp_path):
    from PIL import Image

    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number in range(6):
            Image.new("RGB", (4 + number, 5), (number, 0, 0)).save(
                tmp_path / name / f"{number}.png"
            )
    dataset = ImageFolder("train", str(tmp_path)).load(NoDownloader())
    _, validation = divide(dataset, words(validation=4))
    resize = Step("t.0", "Resize", of_paddle.Resize((4, 4)))
    batch = whole_batch(transform_samples(validation, Transforms([resize])))
    assert batch.label.tolist() == [0, 0, 1, 1]
    red = np.rint(batch.image[:, 0, 0, 0] * 127.5 + 127.5).astype(int)
    assert red.tolist() == [row % 6 for row in rows_of(validation)]


def test_noise_replaces_the_labels_of_samples_that_are_read():
    plain = user(Images(60))
    train, _ = divide(plain, words(label_noise=0.5))
    batch, whole = whole_batch(train), whole_batch(plain)
    assert (batch.label != whole.label).sum() == 30
    assert batch.image.tobytes() == whole.image.tobytes()


def test_transforms_see_the_pixels_and_labels_of_the_part():
    dataset = in_memory()
    train, _ = divide(dataset, words(validation=0.2, label_noise=0.5))
    nothing = Transforms([Step("t.0", "Resize", of_paddle.Resize((5, 4)))])
    found, expected = whole_batch(transform_samples(train, nothing)), whole_batch(train)
    assert found.image.tobytes() == expected.image.tobytes()
    assert found.label.tolist() == expected.label.tolist()


def test_an_error_after_transforms_numbers_a_sample_as_the_whole_data_do():
    dataset = in_memory()
    dataset.images[:] = 0
    _, validation = divide(dataset, words(validation=0.5))
    # None of those that are tried at once: every seventh of 50.
    row = rows_of(validation)[20]
    dataset.images[row] = 9

    def wide(picture):
        pixels = np.asarray(picture)
        return np.zeros((3, 4, 4 + (pixels[0, 0, 0] == 9)), np.uint8)

    transformed = transform_samples(validation, Transforms([Step("t.0", "wide", wide)]))
    assert f"sample {row}: image is uint8 [3, 4, 5]" in fault(transformed.read, 20)


def test_errors_number_a_sample_as_the_whole_data_do():
    class Bad(Labelled):
        def __getitem__(self, index):
            if index == 41:
                return np.zeros((1, 2, 2), np.uint8), index % 3
            if index == 31:
                raise OSError("gone")
            return super().__getitem__(index)

    dataset = user(Bad())
    for row, text in ((41, "sample 41: image is uint8 [1, 2, 2], sample 0's"), (31, "sample 31")):
        parts = divide(dataset, words(validation=0.5))
        (part,) = (p for p in parts if row in rows_of(p))
        assert text in fault(part.read, rows_of(part).index(row))


@pytest.mark.parametrize(
    "labels", [[0, 1], ["a"] * 50, [0.5] * 50, [-1] * 50, [[0], [1, 2]], None, 7]
)
def test_labels_that_are_none_are_refused(labels):
    samples = Labelled()
    samples.labels = labels
    dataset = user(samples)
    if labels is None:
        # As if there were none: the samples are read.
        assert len(divide(dataset, words(validation=10))[1]) == 10
    else:
        assert "expected a whole number from 0 on for each of 50 samples" in fault(
            divide, dataset, words(validation=10)
        )


def test_labels_of_no_class_are_refused():
    dataset = user(Labelled(labels=[0] * 49 + [3]))
    assert "label 3 at sample 49; classes are 0-2" in fault(divide, dataset, words(validation=10))


def test_a_sample_with_another_label_than_was_said_is_refused():
    dataset = user(Labelled(labels=[0] * 50))
    train, _ = divide(dataset, words(train_samples=50))
    assert "sample 1: its label is 1, and was 0 when the data were divided" in fault(train.read, 1)


@pytest.mark.parametrize(
    ("given", "key", "text"),
    [
        ({"validation": 101}, "validation", "validation is 101, but there are 100 images to take"),
        ({"validation": 100}, "validation", "validation 100 leaves no image to train on"),
        ({"validation": 0.999}, "validation", "validation 0.999 leaves no image to train on"),
        (
            {"validation": 0.2, "train_samples": 81},
            "train_samples",
            "train_samples is 81, but there are 80 images to take",
        ),
    ],
)
def test_more_than_there_is_cannot_be_taken(given, key, text):
    with pytest.raises(PartFault) as caught:
        divide(in_memory(), words(**given))
    assert (caught.value.key, str(caught.value)) == (key, text)


def test_one_class_has_no_wrong_labels():
    with pytest.raises(PartFault) as caught:
        divide(in_memory(num_classes=1), words(label_noise=0.1))
    assert caught.value.key == "label_noise"


def test_without_names_the_classes_are_those_of_the_labels():
    class Nameless(Labelled):
        class_names = None

    train, _ = divide(user(Nameless(90)), words(label_noise=1.0))
    assert set(whole_batch(train).label.tolist()) == {0, 1, 2}
    assert train.image_shape == SHAPE
