"""Parts of a training set: validation kept out, few samples, wrong labels; no pixel is copied."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from typing import Any, Optional, Sequence, Union

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, DataError
from ..progress import track
from .dataset import ArrayDataset
from .resolve import Dataset
from .samples import SampleDataset, described, read_sample
from .seeding import kept_generators, seed_sample
from .split import Indices, Labels, pick_equally, pick_proportionally, replace_labels

logger = logging.getLogger(__name__)


class PartFault(ConfigError):
    """The data cannot be divided as asked; `key` is which of the words asked for it."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


@dataclass(frozen=True)
class PartWords:
    """What is asked of a training set, by the names of the config's keys, which say what each is.

    Without validation, train_samples and label_noise it stays whole.
    """

    validation: Union[int, float, None]
    validation_seed: int
    train_samples: Optional[int]
    train_samples_seed: int
    label_noise: float
    label_noise_seed: int

    @property
    def is_whole(self) -> bool:
        """Tell whether nothing is asked for."""
        return self.validation is None and self.train_samples is None and not self.label_noise


def divide(dataset: Dataset, words: PartWords) -> tuple[Dataset, Optional[Dataset]]:
    """Return what is trained on and the validation data, None where none are asked for.

    Views of the dataset, each image in one of them at most. Validation comes first, then
    train_samples take from the rest, then labels of what is trained on are replaced. Of images that
    are copies of one another the first alone is in validation, none is trained on then, and a
    wrong label is that of all of them.

    Raises:
        PartFault: there are not so many images, or not two classes.
        DataError: a sample, which is read for its label, cannot be; or a dataset's `labels` are
            none.
    """
    if words.is_whole:
        return dataset, None
    labels = _labels_of(dataset)
    originals = getattr(dataset, "originals", None)
    if originals is None:
        originals = np.arange(len(labels))
    rows, kept_out = np.arange(len(labels)), None
    if words.validation is not None:
        kept_out = _pick_validation(labels, originals, words)
        rows = np.flatnonzero(~np.isin(originals, originals[kept_out]))
        if not len(rows):
            raise PartFault(
                "validation", f"validation {words.validation} leaves no image to train on"
            )
    if words.train_samples is not None:
        _require_as_many("train_samples", words.train_samples, len(rows))
        picked = pick_equally(labels[rows], words.train_samples, words.train_samples_seed)
        rows = rows[picked]
    trained = _replaced(dataset, labels, labels[rows], originals[rows], words)
    train = _view(dataset, rows, labels[rows], trained)
    if kept_out is None:
        return train, None
    validation = _view(dataset, kept_out, labels[kept_out], labels[kept_out])
    source = f"{dataset.source}; {len(kept_out):,} of its images, kept out of training"
    return train, replace(validation, source=source, is_validation=True)


def _pick_validation(labels: Labels, originals: Indices, words: PartWords) -> Indices:
    """Return which images are kept out of training."""
    _, firsts = np.unique(originals, return_index=True)
    wanted = words.validation
    assert wanted is not None
    num_picked = wanted if isinstance(wanted, int) else max(round(wanted * len(firsts)), 1)
    _require_as_many("validation", num_picked, len(firsts))
    firsts = np.sort(firsts)
    picked: Indices = firsts[pick_proportionally(labels[firsts], num_picked, words.validation_seed)]
    return picked


def _require_as_many(key: str, num_wanted: int, num_there: int) -> None:
    if num_wanted > num_there:
        raise PartFault(key, f"{key} is {num_wanted:,}, but there are {num_there:,} images to take")


def _replaced(
    dataset: Dataset, all_labels: Labels, labels: Labels, originals: Indices, words: PartWords
) -> Labels:
    """Return the labels that are trained on."""
    if not words.label_noise:
        return labels
    names = dataset.class_names
    num_classes = int(all_labels.max()) + 1 if names is None else len(names)
    if num_classes < 2:
        raise PartFault("label_noise", "label_noise needs two classes, and the data have one")
    _, firsts, numbers = np.unique(originals, return_index=True, return_inverse=True)
    replaced = replace_labels(
        labels[firsts], words.label_noise, num_classes, words.label_noise_seed
    )
    return replaced[numbers.ravel()]


def _view(dataset: Dataset, rows: Indices, found: Labels, labels: Labels) -> Dataset:
    """Return some images of a dataset.

    Args:
        dataset: the whole.
        rows: which they are.
        found: their labels, as the dataset has them.
        labels: as they are to be.
    """
    digest = hashlib.sha256(f"{dataset.digest} {len(rows)}".encode())
    for array in (rows, labels):
        digest.update(np.ascontiguousarray(array, dtype="<i8").data)
    source, num_wrong = dataset.source, int((found != labels).sum())
    if len(rows) < len(dataset):
        source += f"; {len(rows):,} of its images"
    if num_wrong:
        source += f"; {num_wrong:,} with a wrong label"
    facts: dict[str, Any] = {"source": source, "digest": digest.hexdigest(), "rows": rows}
    if isinstance(dataset, ArrayDataset):
        originals = None if dataset.originals is None else dataset.originals[rows]
        return replace(dataset, labels=labels, originals=originals, **facts)
    samples = _ChosenSamples(dataset, rows, found, labels)
    return replace(dataset, samples=samples, num_samples=len(rows), **facts)


class _ChosenSamples:
    """Samples of a dataset by their place in `rows`, with the labels that they are to have."""

    def __init__(
        self, dataset: SampleDataset, rows: Indices, found: Labels, labels: Labels
    ) -> None:
        self._source, self._samples = dataset.source, dataset.samples
        self._rows, self._found, self._labels = rows, found, labels

    def __getitem__(self, index: int) -> tuple[npt.NDArray[Any], int]:
        row = int(self._rows[index])
        image, label = read_sample(self._source, self._samples, row)
        if label != self._found[index]:
            raise DataError(
                f"{self._source}: sample {row}: its label is {label}, and was {self._found[index]} "
                "when the data were divided"
            )
        return image, int(self._labels[index])


def _labels_of(dataset: Dataset) -> Labels:
    """Return the labels of all images; a user's class that has no `labels` is read through once."""
    if isinstance(dataset, ArrayDataset):
        return dataset.labels
    given = getattr(dataset.samples, "labels", None)
    labels = _read_labels(dataset) if given is None else _checked(dataset, given)
    if dataset.class_names is not None and labels.max() >= len(dataset.class_names):
        at = int(labels.argmax())
        raise DataError(
            f"{dataset.source}: label {labels[at]} at sample {at}; "
            f"classes are 0-{len(dataset.class_names) - 1}"
        )
    return labels


def _read_labels(dataset: SampleDataset) -> Labels:
    logger.info("reading all samples for their labels, since %s has no `labels`", dataset.source)
    labels = np.empty(len(dataset), np.int64)
    with kept_generators():
        for index in track(range(len(dataset)), len(dataset), "reading labels"):
            seed_sample(0, 0, index)
            labels[index] = read_sample(dataset.source, dataset.samples, index)[1]
    return labels


def _checked(dataset: SampleDataset, given: Union[Sequence[int], npt.NDArray[Any]]) -> Labels:
    """Return the labels that a dataset says it has."""
    try:
        labels = np.asarray(given)
    # Of lists of several lengths.
    except ValueError:
        labels = np.empty(0)
    is_list = labels.shape == (len(dataset),) and labels.dtype.kind in "iu"
    if not is_list or labels.min() < 0:
        raise DataError(
            f"{dataset.source}: its `labels` are {described(given)}, expected a whole number from "
            f"0 on for each of {len(dataset):,} samples"
        )
    return labels.astype(np.int64)
