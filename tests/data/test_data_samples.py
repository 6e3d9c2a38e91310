"""A user's dataset gives the same batches whoever makes them, and its faults are named."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import paddle
import pytest
from sample_datasets import SHAPE, BadAt, Images, RandomImages, Tensors

from ppema.data import ArrayReader, LoaderReader, load_dataset, load_datasets
from ppema.data.dataset import ArrayDataset
from ppema.data.seeding import kept_generators, seed_sample
from ppema.errors import ConfigError, DataError

IMAGE = np.zeros(SHAPE, np.uint8)


def reader(samples, num_workers=0, batch_size=8, shuffle=True, drop_last=False, seed=7):
    dataset = load_dataset(samples, "error")
    return LoaderReader(dataset, batch_size, shuffle, drop_last, seed, num_workers)


def bits(batches):
    return [(batch.image.tobytes(), batch.label.tobytes()) for batch in batches]


def fault(function, *arguments):
    with pytest.raises(DataError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_equal_those_of_the_same_images_in_memory(num_workers):
    samples = Images()
    pairs = [samples[index] for index in range(50)]
    array = ArrayDataset(
        images=np.stack([image for image, _ in pairs]),
        labels=np.array([label for _, label in pairs]),
        class_names=Images.class_names,
        mean=127.5,
        std=127.5,
        source="the same",
        kind="user",
        digest="",
    )
    for epoch, start in ((1, 0), (2, 0), (2, 19), (2, 50)):
        expected = bits(ArrayReader(array, 8, True, False, 7).batches(epoch, start))
        assert bits(reader(samples, num_workers).batches(epoch, start)) == expected
    assert len(reader(samples)) == 7
    assert len(reader(samples, drop_last=True)) == 6


def test_floats_and_tensors_are_taken_as_they_are():
    for samples in (Images(dtype="float32"), Tensors(dtype="float32")):
        (batch,) = reader(samples, batch_size=50, shuffle=False).batches(1)
        assert batch.image.dtype == np.float32
        assert (batch.image[7] == samples[7][0]).all()
        assert batch.label.tolist() == [index % 3 for index in range(50)]
        assert batch.label.dtype == np.int64


def test_random_samples_are_the_same_bits_with_any_number_of_workers_and_from_any_start():
    whole = bits(reader(RandomImages()).batches(3))
    for num_workers in (1, 2, 3):
        assert bits(reader(RandomImages(), num_workers).batches(3)) == whole
        assert bits(reader(RandomImages(), num_workers).batches(3, 24)) == whole[3:]
    images = np.concatenate([b.image for b in reader(RandomImages()).batches(3)])
    resumed = np.concatenate([b.image for b in reader(RandomImages(), 1).batches(3, 5)])
    assert resumed.tobytes() == images[5:].tobytes()


def test_each_epoch_seed_and_sample_has_randomness_of_its_own():
    def first_rows(seed, epoch):
        batches = reader(RandomImages(), seed=seed, shuffle=False).batches(epoch)
        return [row.tobytes() for batch in batches for row in batch.image[:, 0, 0]]

    rows = [*first_rows(7, 1), *first_rows(7, 2), *first_rows(8, 1)]
    # Bytes, of which three seldom agree.
    assert len(set(rows)) >= len(rows) - 1


def test_the_draws_of_a_sample_are_the_ones_they_were_when_this_was_written():
    with kept_generators():
        seed_sample(1, 2, 3)
        draws = random.random(), np.random.rand(), paddle.rand([1]).item()
    assert draws == pytest.approx(DRAWS, abs=1e-7)


DRAWS = (0.23796462709189137, 0.6098612722867289, 0.0873425230383873)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_global_generators_stay_as_they_were(num_workers):
    def draws():
        return random.random(), np.random.rand(), paddle.rand([1]).item()

    random.seed(1), np.random.seed(1), paddle.seed(1)
    expected = [draws() for _ in range(3)]
    random.seed(1), np.random.seed(1), paddle.seed(1)
    found = [draws()]
    batches = reader(RandomImages(), num_workers).batches(1)
    next(batches)
    found.append(draws())
    list(batches)
    found.append(draws())
    assert found == expected


def test_batches_share_no_memory():
    batches = list(reader(Images(dtype="float32"), 1).batches(1))
    batches[0].image[:] = -1
    batches[0].label[:] = -1
    assert all((b.image >= 0).all() and (b.label >= 0).all() for b in batches[1:])
    with pytest.raises(ValueError, match="num_workers must be at least 0, got -1"):
        reader(Images(), -1)


BAD = [
    (lambda image, label: 1 / 0, "ZeroDivisionError: division by zero"),
    (lambda image, label: exit(3), "SystemExit: 3"),
    (lambda image, label: next(iter(())), "StopIteration"),
    (lambda image, label: image, "is uint8 [2, 4, 3], expected a pair of image and label"),
    (lambda image, label: (image, label, 1), "is a tuple of 3, expected a pair of image and label"),
    (lambda image, label: None, "is a NoneType, expected a pair of image and label"),
    (
        lambda image, label: (image.astype("float64"), label),
        "image is float64 [2, 4, 3], expected uint8 or float32 [C, H, W]",
    ),
    (
        lambda image, label: (image[0], label),
        "image is uint8 [4, 3], expected uint8 or float32 [C, H, W]",
    ),
    (
        lambda image, label: (image[:1], label),
        "image is uint8 [1, 4, 3], sample 0's is uint8 [2, 4, 3]",
    ),
    (
        lambda image, label: (image.astype("float32"), label),
        "image is float32 [2, 4, 3], sample 0's is uint8 [2, 4, 3]",
    ),
    (lambda image, label: ("img", label), "image is a str, expected uint8 or float32 [C, H, W]"),
    (lambda image, label: (image, 0.5), "label is 0.5, expected a whole number"),
    (lambda image, label: (image, True), "label is True, expected a whole number"),
    (lambda image, label: (image, "a"), "label is a str, expected a whole number"),
    (lambda image, label: (image, [1, 2]), "label is a list of 2, expected a whole number"),
    (
        lambda image, label: (image, np.array([[1]])),
        "label is int64 [1, 1], expected a whole number",
    ),
    (lambda image, label: (image, -100), "label -100; classes are counted from 0"),
]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_sample_is_named(num_workers):
    for make, text in BAD:
        samples = BadAt(37, make)
        found = fault(lambda s: list(reader(s, num_workers).batches(1)), samples)
        assert found == f"sample_datasets.BadAt (50 samples): sample 37: {text}"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_label_above_the_classes_is_named(num_workers):
    samples = BadAt(37, lambda image, label: (image, 3))
    found = fault(lambda: list(reader(samples, num_workers).batches(1)))
    assert found.endswith(": label 3 at sample 37; classes are 0-2")


def test_batches_before_a_bad_sample_are_the_good_ones():
    samples = BadAt(20, lambda image, label: 1 / 0)
    batches = reader(samples, 2, shuffle=False).batches(1)
    assert (
        bits([next(batches), next(batches)]) == bits(reader(Images(), shuffle=False).batches(1))[:2]
    )
    assert "sample 20" in fault(next, batches)


def test_a_long_error_is_cut_not_lost():
    def fail(image, label):
        raise RuntimeError("ä" * 5000)

    def fail_by_name(image, label):
        raise DataError("ä" * 5000)

    for make, text in ((fail, "sample 37: RuntimeError: ää"), (fail_by_name, "ää")):
        assert text in fault(list, reader(BadAt(37, make), 1).batches(1))


class NoLength(paddle.io.IterableDataset):
    def __iter__(self):
        yield IMAGE, 0


def test_what_cannot_be_asked_for_by_index_is_refused_when_it_is_opened():
    assert fault(load_dataset, Images(0), "error") == "sample_datasets.Images: is empty"
    assert "NoLength: has no length: RuntimeError" in fault(load_dataset, NoLength(), "error")
    bad = BadAt(0, lambda image, label: 1 / 0)
    assert fault(load_dataset, bad, "error") == (
        "sample_datasets.BadAt: sample 0: ZeroDivisionError: division by zero"
    )


def test_an_empty_image_and_a_scale_that_divides_by_zero_are_refused():
    empty = BadAt(0, lambda image, label: (image[:, :0], label))
    assert "image is uint8 [2, 0, 3], expected" in fault(load_dataset, empty, "error")
    dataset = load_dataset(Images(), "error")
    assert fault(lambda: replace(dataset, std=0.0)).endswith("must be finite, std above 0")


class NoLen:
    def __getitem__(self, index):
        return IMAGE, 0


def test_an_object_without_a_length_is_a_wrong_config():
    with pytest.raises(ConfigError) as caught:
        load_dataset(NoLen(), "error")
    assert str(caught.value).endswith("NoLen: a dataset needs __getitem__ and __len__")


@pytest.mark.parametrize("names", [[], "abc", [1, 2], 3])
def test_class_names_that_are_none(names):
    samples = Images()
    samples.class_names = names
    assert "expected a list of texts" in fault(load_dataset, samples, "error")


def test_the_digest_tells_other_data_of_the_same_class():
    def digest(*arguments, cls=Images, **options):
        return load_dataset(cls(*arguments, **options), "error").digest

    assert digest(50) == digest(50)
    other = BadAt(0, lambda image, label: (image + np.uint8(1), label))
    digests = {
        *(digest(50), digest(51), digest(50, dtype="float32"), digest(50, cls=Tensors)),
        load_dataset(other, "error").digest,
        load_dataset(BadAt(0, lambda image, label: (image, label)), "error").digest,
    }
    assert len(digests) == 6
    options = {"required_kind": "user", "required_digest": digest(51)}
    assert "these are not the data of the run" in fault(
        lambda: load_dataset(Images(50), "error", **options)
    )


class Unseeded(Images):
    generator = np.random.default_rng()

    def __getitem__(self, index):
        return self.generator.integers(0, 256, SHAPE).astype(np.uint8), index % 3


def test_randomness_that_cannot_be_seeded_is_warned_of_and_left_out_of_the_digest(caplog):
    digests = {load_dataset(Unseeded(), "error").digest for _ in range(3)}
    assert len(digests) == 1
    assert "sample 0 differs from one reading to the next" in caplog.records[0].getMessage()
    caplog.clear()
    load_dataset(RandomImages(), "error")
    assert caplog.records == []


def test_train_and_eval_may_be_different_classes_of_the_user_with_the_same_classes():
    train, evaluation = load_datasets(Images(50), Tensors(20), "error")
    assert (len(train), len(evaluation)) == (50, 20)
    assert (train.class_names, evaluation.class_names) == (("a", "b", "c"), None)
    other = Images()
    other.class_names = ("a", "c", "b")
    assert fault(load_datasets, Images(), other, "error").endswith(
        "its 3 classes are not the 3 of the training data in another order"
    )
