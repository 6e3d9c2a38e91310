"""Batches hold the right samples in the right order, and any batch can be the first."""

from __future__ import annotations

import numpy as np
import pytest

from ppema.data import ArrayReader
from ppema.data.dataset import ArrayDataset, array_digest
from ppema.errors import DataError


def make_dataset(count=100, **changes):
    images = np.random.RandomState(1).randint(0, 256, (count, 2, 5, 4)).astype(np.uint8)
    facts = {
        "images": images,
        "labels": np.arange(count) % 10,
        "class_names": tuple("0123456789"),
        "mean": 127.5,
        "std": 127.5,
        "source": "the test's",
        "kind": "mnist",
        "digest": "",
    }
    return ArrayDataset(**{**facts, **changes})


def make_reader(count=100, batch_size=32, shuffle=True, drop_last=False, seed=7):
    return ArrayReader(make_dataset(count), batch_size, shuffle, drop_last, seed)


def samples(batches):
    """Return the bytes of each image, in order: they tell the samples apart."""
    return [image.tobytes() for batch in batches for image in batch.image]


@pytest.mark.parametrize(("mean", "std"), [(127.5, 127.5), (33.318421, 78.567489)])
def test_batches_equal_the_plain_expression_to_the_bit(mean, std):
    dataset = make_dataset(mean=mean, std=std)
    reader = ArrayReader(dataset, 32, True, False, 7)
    order = np.random.RandomState([7, 3]).permutation(100)
    for index, batch in enumerate(reader.batches(3)):
        chosen = order[index * 32 : (index + 1) * 32]
        plain = (dataset.images[chosen].astype("f4") - mean) / std
        assert batch.image.tobytes() == plain.astype("f4").tobytes()
        assert batch.label.tolist() == dataset.labels[chosen].tolist()
        assert batch.image.dtype == np.float32
        assert batch.label.dtype == np.int64
    assert index == 3


def test_order_is_the_one_it_was_when_this_was_written():
    reader = ArrayReader(make_dataset(10), 10, True, False, 42)
    (batch,) = reader.batches(5)
    assert batch.label.tolist() == [8, 6, 1, 3, 7, 4, 5, 9, 0, 2]


def test_each_epoch_and_each_seed_has_its_own_order():
    orders = [samples(make_reader(seed=seed).batches(epoch)) for seed in (1, 2) for epoch in (1, 2)]
    assert len({tuple(order) for order in orders}) == 4
    assert len({tuple(sorted(order)) for order in orders}) == 1


def test_an_epoch_does_not_depend_on_the_ones_before():
    reader = make_reader()
    list(reader.batches(1))
    np.random.seed(0)
    assert samples(reader.batches(2)) == samples(make_reader().batches(2))


def test_without_shuffle_the_order_is_the_dataset_s():
    reader = make_reader(shuffle=False)
    labels = np.concatenate([batch.label for batch in reader.batches(1)])
    assert labels.tolist() == reader.dataset.labels.tolist()
    assert samples(reader.batches(1)) == samples(reader.batches(2))


@pytest.mark.parametrize("start", [0, 1, 32, 64, 96, 99, 100])
def test_a_start_within_the_epoch_gives_the_rest_of_it(start):
    assert samples(make_reader().batches(4, start)) == samples(make_reader().batches(4))[start:]


def test_a_start_at_a_batch_gives_the_same_batches():
    whole = list(make_reader().batches(4))
    for batch, expected in zip(make_reader().batches(4, 64), whole[2:]):
        assert batch.image.tobytes() == expected.image.tobytes()


@pytest.mark.parametrize(
    ("count", "drop_last", "sizes"),
    [(100, False, [32, 32, 32, 4]), (100, True, [32, 32, 32]), (96, False, [32, 32, 32])],
)
def test_length_counts_the_batches(count, drop_last, sizes):
    reader = make_reader(count, drop_last=drop_last)
    assert [len(batch.label) for batch in reader.batches(1)] == sizes
    assert len(reader) == len(sizes)


def test_drop_last_also_holds_after_a_start():
    assert [len(b.label) for b in make_reader(drop_last=True).batches(1, 50)] == [32]


def test_batches_share_no_memory():
    dataset = make_dataset(4)
    before = dataset.images.copy(), dataset.labels.copy()
    batches = list(ArrayReader(dataset, 2, False, False, 0).batches(1))
    batches[0].image[:] = 9
    batches[0].label[:] = 9
    assert (batches[1].image != 9).all()
    assert (batches[1].label != 9).all()
    np.testing.assert_array_equal(dataset.images, before[0])
    np.testing.assert_array_equal(dataset.labels, before[1])


def test_batch_larger_than_the_data():
    with pytest.raises(DataError) as caught:
        make_reader(100, batch_size=128, drop_last=True)
    assert str(caught.value) == "batch_size 128 with drop_last needs 128 samples, found 100"
    (batch,) = make_reader(100, batch_size=128).batches(1)
    assert len(batch.label) == 100


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"seed": -1}, "seed must be in [0, 4294967295], got -1"),
        ({"seed": 2**32}, "seed must be in [0, 4294967295], got 4294967296"),
    ],
)
def test_arguments_out_of_range(options, text):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        make_reader(**options)
    assert str(caught.value) == text


@pytest.mark.parametrize(("epoch", "start"), [(-1, 0), (1, -1), (1, 101)])
def test_places_out_of_range_are_refused_at_the_call(epoch, start):
    with pytest.raises(ValueError, match=r"must be in \[0, "):
        make_reader().batches(epoch, start)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"labels": np.arange(99) % 10}, "99 labels for 100 images"),
        ({"labels": np.arange(100)}, "label 10 at sample 10; classes are 0-9"),
        ({"labels": -np.ones(100, np.int64)}, "label -1 at sample 0; classes are 0-9"),
        ({"labels": np.zeros(100, np.uint8)}, "labels are uint8 [100], expected int64 [N]"),
        (
            {"images": np.zeros((100, 5, 4), np.uint8)},
            "images are uint8 [100, 5, 4], expected uint8 [N, C, H, W]",
        ),
        (
            {"images": np.zeros((100, 1, 5, 4), np.float32)},
            "images are float32 [100, 1, 5, 4], expected uint8 [N, C, H, W]",
        ),
        ({"images": np.zeros((0, 1, 5, 4), np.uint8)}, "images are empty, [0, 1, 5, 4]"),
        ({"std": 0.0}, "mean 127.5 and std 0.0 must be finite, std above 0"),
        ({"mean": float("nan")}, "mean nan and std 127.5 must be finite, std above 0"),
        ({"mean": (1.0, 2.0), "std": (1.0, 0.0)}, "mean (1.0, 2.0) and std (1.0, 0.0) must be "),
        ({"mean": (1.0, 2.0, 3.0)}, "mean (1.0, 2.0, 3.0) and std 127.5 for 2 channels"),
        ({"std": (1.0,)}, "mean 127.5 and std (1.0,) for 2 channels"),
    ],
)
def test_parts_that_do_not_fit(changes, text):
    with pytest.raises(DataError) as caught:
        make_dataset(**changes)
    assert str(caught.value).startswith(f"the test's: {text}")


def test_digest_covers_bytes_labels_and_shape():
    images, labels = make_dataset(4).images, make_dataset(4).labels
    other_images, other_labels = images.copy(), labels.copy()
    other_images[3, 1, 4, 3] ^= 1
    other_labels[3] += 1
    digests = {
        array_digest(images, labels),
        array_digest(other_images, labels),
        array_digest(images, other_labels),
        array_digest(images.reshape(4, 2, 4, 5), labels),
    }
    assert len(digests) == 4
    assert array_digest(images.copy(), labels.astype(">i8")) in digests


def test_digest_is_the_one_it_was_when_this_was_written():
    digest = array_digest(np.zeros((1, 1, 2, 2), np.uint8), np.array([3]))
    assert digest == "6b0f1d6c43bb61ebe240784d9fa45e103fd29f86c1d0c692f689e906ab457dbb"


def shared(rank, num_ranks, count=100, batch_size=8, **options):
    """Return the reader of one of several processes."""
    return ArrayReader(
        make_dataset(count), batch_size, True, options.get("drop_last", False), 7, rank, num_ranks
    )


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
@pytest.mark.parametrize("start", [0, 24, 31])
def test_processes_share_each_batch_of_one_order(num_ranks, start):
    of_ranks = [list(shared(r, num_ranks).batches(2, start)) for r in range(num_ranks)]
    whole = list(make_reader(batch_size=8 * num_ranks).batches(2, start))
    assert {len(batches) for batches in of_ranks} == {len(whole)}
    for index, batch in enumerate(whole):
        parts = [batches[index] for batches in of_ranks]
        counted = [part.image[: part.num_own] for part in parts]
        assert np.concatenate(counted).tobytes() == batch.image.tobytes()
        assert {part.num_total for part in parts} == {len(batch.label)}
        sizes = [part.num_own for part in parts]
        assert max(sizes) - min(sizes) <= 1


def test_an_image_that_counts_nothing_stands_in_where_there_are_fewer_than_processes():
    # The last of 97 images, for four processes.
    *_, first = shared(0, 4, 97).batches(1)
    *_, last = shared(3, 4, 97).batches(1)
    assert (first.num_own, first.num_total, len(first.label)) == (1, 1, 1)
    assert (last.num_own, last.num_total, len(last.label)) == (0, 1, 1)
    assert last.image.tobytes() == first.image.tobytes()


def test_batches_of_another_number_of_processes_go_on_where_those_before_stopped():
    done = [list(shared(rank, 2).batches(3))[:2] for rank in range(2)]
    rest = [list(shared(rank, 4).batches(3, start=32)) for rank in range(4)]
    labels = [part.label[: part.num_own] for of in (*done, *rest) for part in of]
    whole = [batch.label for batch in make_reader().batches(3)]
    assert sorted(np.concatenate(labels).tolist()) == sorted(np.concatenate(whole).tolist())
    assert sum(map(len, labels)) == 100


def test_whole_batches_are_dealt_out_and_each_comes_once():
    reader = make_reader(batch_size=32, shuffle=False)
    dealt = [list(reader.dealt(1, rank, 3)) for rank in range(3)]
    assert [[start for start, _ in of_rank] for of_rank in dealt] == [[0, 96], [32], [64]]
    for start, batch in (pair for of_rank in dealt for pair in of_rank):
        expected = list(reader.batches(1))[start // 32]
        assert samples([batch]) == samples([expected])


def test_a_batch_that_is_not_shared_is_all_one_s_own():
    batch = next(make_reader().batches(1))
    assert (batch.num_own, batch.num_total) == (32, 32)


def test_a_place_among_the_processes_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"rank must be in \[0, 2\), got 2"):
        shared(2, 2)
    expected = "batch_size 8 in each of 4 processes with drop_last needs 32 samples, found 20"
    with pytest.raises(DataError, match=expected):
        shared(0, 4, 20, drop_last=True)
