"""Batches in an order that seed and epoch alone decide; those of a dataset in memory."""

from __future__ import annotations

from typing import Iterator, NamedTuple, Sequence, Sized

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .dataset import ArrayDataset, Scale

# What RandomState takes as a part of its key.
_MAX_KEY = 2**32 - 1

Indices = npt.NDArray[np.int64]


class Batch(NamedTuple):
    """Images float32 [N, C, H, W], normalised, and their labels int64 [N]."""

    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.int64]


class Reader:
    """Yield the batches of an epoch, from any sample of it on; a child makes the batches.

    Args:
        dataset: its length is all that is asked of it here.
        batch_size: images in each batch; the last one may hold fewer.
        shuffle: whether each epoch has an order of its own.
        drop_last: whether a last batch that is not full is left out.
        seed: of the orders, 0 to 2**32 - 1.

    Raises:
        ValueError: batch_size or seed is out of range.
        DataError: drop_last would leave no batch at all.
    """

    def __init__(
        self, dataset: Sized, batch_size: int, shuffle: bool, drop_last: bool, seed: int
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        _require_key("seed", seed)
        if drop_last and batch_size > len(dataset):
            raise DataError(
                f"batch_size {batch_size} with drop_last needs {batch_size} samples, "
                f"found {len(dataset)}"
            )
        self._num_samples = len(dataset)
        self._batch_size, self._shuffle = batch_size, shuffle
        self._drop_last, self._seed = drop_last, seed

    def __len__(self) -> int:
        """Return the batches of a whole epoch."""
        return self.num_batches()

    def num_batches(self, start: int = 0) -> int:
        """Return the batches of an epoch that follow its first `start` samples."""
        full, rest = divmod(max(0, self._num_samples - start), self._batch_size)
        return full + (rest > 0 and not self._drop_last)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of `epoch` that follow its first `start` samples.

        `start` counts samples in the epoch's order and need not be a multiple of batch_size,
        so that a run can go on with another batch size.

        Raises:
            ValueError: at the call, epoch or start is out of range.
        """
        _require_key("epoch", epoch)
        if not 0 <= start <= self._num_samples:
            raise ValueError(f"start must be in [0, {self._num_samples}], got {start}")
        order = self._order(epoch)[start:]
        size = self._batch_size
        parts = [order[i * size : (i + 1) * size] for i in range(self.num_batches(start))]
        return self._make(epoch, parts)

    def _make(self, epoch: int, parts: Sequence[Indices]) -> Iterator[Batch]:
        """Yield the batch of each part: the samples at these indices, in this order."""
        raise NotImplementedError

    def _order(self, epoch: int) -> Indices:
        if not self._shuffle:
            return np.arange(self._num_samples)
        # NumPy has frozen RandomState's stream; that of Generator may change between versions,
        # and a resumed run would then see some images twice and others never.
        return np.random.RandomState([self._seed, epoch]).permutation(self._num_samples)


class ArrayReader(Reader):
    """Yield the batches of a dataset in memory, held as bytes and normalised when asked for.

    Arguments and errors are those of `Reader`.
    """

    def __init__(
        self, dataset: ArrayDataset, batch_size: int, shuffle: bool, drop_last: bool, seed: int
    ) -> None:
        super().__init__(dataset, batch_size, shuffle, drop_last, seed)
        self.dataset = dataset
        self._scale = Scale(dataset.mean, dataset.std)

    def _make(self, epoch: int, parts: Sequence[Indices]) -> Iterator[Batch]:
        for samples in parts:
            # Arrays of its own for each batch, since a device may still read the one before.
            image = self._scale.fed(self.dataset.take(samples))
            yield Batch(image, self.dataset.labels.take(samples))


def _require_key(name: str, value: int) -> None:
    if not 0 <= value <= _MAX_KEY:
        raise ValueError(f"{name} must be in [0, {_MAX_KEY}], got {value}")
