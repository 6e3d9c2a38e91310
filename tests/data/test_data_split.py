"""Which images are picked, and which labels replaced: by hand, and keyed by the seed alone."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from ppema.data.split import pick_equally, pick_proportionally, replace_labels

RANDOM = np.random.RandomState(5)
# Classes of 10, 40 and 150 images, mixed; class 1 has none.
LABELS = RANDOM.permutation(np.repeat([0, 2, 3], [10, 40, 150]))
PICKS = (pick_proportionally, pick_equally)


def sizes(picked):
    return np.bincount(LABELS[picked], minlength=4).tolist()


def slow_quotas(num_picked):
    """Return each class's share, rounded by the largest remainders."""
    counts = np.bincount(LABELS, minlength=4).tolist()
    exact = [Fraction(count * num_picked, len(LABELS)) for count in counts]
    quotas = [int(share) for share in exact]
    order = sorted(range(4), key=lambda label: (quotas[label] - exact[label], label))
    for label in order[: num_picked - sum(quotas)]:
        quotas[label] += 1
    return quotas


@pytest.mark.parametrize("num_picked", [0, 1, 7, 20, 33, 100, 199, 200])
def test_each_class_gives_the_same_share(num_picked):
    assert sizes(pick_proportionally(LABELS, num_picked, 0)) == slow_quotas(num_picked)


@pytest.mark.parametrize(
    ("num_picked", "expected"),
    [
        (0, [0, 0, 0, 0]),
        (30, [10, 0, 10, 10]),
        (32, [10, 0, 11, 11]),
        (31, [10, 0, 11, 10]),
        (100, [10, 0, 40, 50]),
        (4, [2, 0, 1, 1]),
        (200, [10, 0, 40, 150]),
    ],
)
def test_each_class_gives_as_many_where_it_has_them(num_picked, expected):
    assert sizes(pick_equally(LABELS, num_picked, 0)) == expected


@pytest.mark.parametrize("pick", PICKS)
def test_no_image_is_picked_twice_and_all_come_in_order(pick):
    picked = pick(LABELS, 120, 0)
    assert (np.diff(picked) > 0).all()
    assert picked.dtype == np.int64


@pytest.mark.parametrize("pick", PICKS)
def test_the_seed_alone_decides(pick):
    np.random.seed(1)
    first = pick(LABELS, 50, 3).tolist()
    np.random.seed(2)
    assert pick(LABELS, 50, 3).tolist() == first != pick(LABELS, 50, 4).tolist()


@pytest.mark.parametrize("pick", PICKS)
def test_more_images_contain_fewer(pick):
    # 20 and 60 leave nothing to round.
    assert set(pick(LABELS, 20, 0).tolist()) < set(pick(LABELS, 60, 0).tolist())


def test_the_same_seed_does_not_pick_the_same_for_both():
    labels = np.repeat(np.arange(10), 100)
    chosen = [set(pick(labels, 100, 0).tolist()) for pick in PICKS]
    assert len(chosen[0] & chosen[1]) < 30


def test_the_picks_are_those_of_when_this_was_written():
    labels = np.arange(40) % 4
    assert pick_proportionally(labels, 6, 7).tolist() == [7, 8, 12, 18, 21, 37]
    assert pick_equally(labels, 6, 7).tolist() == [0, 6, 9, 12, 17, 35]
    replaced = replace_labels(labels, 0.2, 4, 7)
    wrong = np.flatnonzero(replaced != labels)
    assert wrong.tolist() == [4, 9, 10, 21, 24, 25, 31, 39]
    assert replaced[wrong].tolist() == [1, 0, 1, 3, 2, 0, 0, 1]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.45, 1.0])
def test_so_many_labels_are_others(share):
    labels = RANDOM.randint(0, 10, 1000)
    before = labels.copy()
    replaced = replace_labels(labels, share, 10, 0)
    assert (replaced != labels).sum() == round(share * 1000)
    assert ((replaced >= 0) & (replaced < 10)).all()
    np.testing.assert_array_equal(labels, before)


def test_each_other_class_is_as_likely():
    labels = np.repeat(np.arange(4), 30_000)
    replaced = replace_labels(labels, 0.5, 4, 1)
    counts = np.zeros([4, 4], int)
    np.add.at(counts, (labels, replaced), 1)
    # Of 60,000 in all, 5,000 for each pair; six times the deviation of 65.
    for label in range(4):
        for other in range(4):
            expected = 15_000 if label == other else 5_000
            assert abs(counts[label, other] - expected) < 6 * 65


def test_noise_has_a_seed():
    labels = np.zeros(100, int)
    found = [replace_labels(labels, 0.3, 10, seed).tolist() for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
