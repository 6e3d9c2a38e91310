"""Which images validation takes, which are trained on, and which labels are wrong.

Arithmetic on labels, keyed by a seed alone: the same on every machine and in every process.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int64]

# Keys of their own, of three numbers where a reader's orders have two: equal seeds must not pick
# the same images for different ends.
_PROPORTIONAL, _EQUAL, _NOISE = 1, 2, 3


def pick_proportionally(labels: Labels, num_picked: int, seed: int) -> Indices:
    """Return indices of images, in order, of each class the same share as nearly as can be.

    More of them with the same seed contain fewer of them, but for the rounding of shares.

    Args:
        labels: int64 [N].
        num_picked: 0 to N.
        seed: 0 to 2**32 - 1.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    shares = sizes * num_picked
    quotas = shares // len(labels)
    # Whole images that the rounding leaves go where it took most; of equals to the first class.
    left = num_picked - int(quotas.sum())
    quotas[np.argsort(-(shares % len(labels)), kind="stable")[:left]] += 1
    return _pick(labels, classes.tolist(), quotas.tolist(), [seed, _PROPORTIONAL])


def pick_equally(labels: Labels, num_picked: int, seed: int) -> Indices:
    """Return indices of images, in order, as many of each class as of any other.

    Where a class has fewer, all of them and more of the others. What cannot be divided goes to the
    first classes. More of them with the same seed contain fewer of them.

    Arguments as for `pick_proportionally`.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    quotas = np.zeros_like(sizes)
    left = num_picked
    while left:
        is_open = np.flatnonzero(quotas < sizes)
        each = left // len(is_open)
        if each:
            more = np.minimum(sizes[is_open] - quotas[is_open], each)
        else:
            is_open, more = is_open[:left], 1
        before = int(quotas.sum())
        quotas[is_open] += more
        left -= int(quotas.sum()) - before
    return _pick(labels, classes.tolist(), quotas.tolist(), [seed, _EQUAL])


def replace_labels(labels: Labels, share: float, num_classes: int, seed: int) -> Labels:
    """Return the labels, of which so many as `share` says are replaced by another class.

    Symmetric noise: round(share * N) images, drawn without regard to their class; each other class
    is as likely, and none keeps its label. (Noise that draws from all classes leaves a K-th of the
    chosen labels right, and is thus less of it for the same number.)

    Args:
        labels: int64 [N], below num_classes.
        share: 0 to 1.
        num_classes: at least 2.
        seed: 0 to 2**32 - 1.
    """
    # NumPy has frozen RandomState's stream; that of Generator may change between versions.
    random = np.random.RandomState([seed, _NOISE, 0])
    wrong = random.permutation(len(labels))[: round(share * len(labels))]
    # As int64: the default is another type, and another stream, on some systems.
    steps = random.randint(1, num_classes, len(wrong), dtype=np.int64)
    replaced: Labels = labels.copy()
    replaced[wrong] = (labels[wrong] + steps) % num_classes
    return replaced


def _pick(
    labels: Labels, classes: Sequence[int], quotas: Sequence[int], key: Sequence[int]
) -> Indices:
    """Return indices of so many images of each class, in order."""
    picked = [np.empty(0, np.int64)]
    for label, quota in zip(classes, quotas):
        # By class, so that more images of one leave the others as they are.
        random = np.random.RandomState([*key, label])
        picked.append(random.permutation(np.flatnonzero(labels == label))[:quota])
    chosen: Indices = np.sort(np.concatenate(picked)).astype(np.int64)
    return chosen
