"""Batches from a dataset in memory, in an order that seed and epoch alone decide."""

from __future__ import annotations

from typing import Iterator, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .dataset import ArrayDataset

# What RandomState takes as a part of its key.
_MAX_KEY = 2**32 - 1


class Batch(NamedTuple):
    """Images float32 [N, C, H, W], normalised, and their labels int64 [N]."""

    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.int64]


class ArrayReader:
    """Yield the batches of an epoch, from any sample of it on.

    Args:
        dataset: held as bytes; a batch is normalised when it is asked for.
        batch_size: images in each batch; the last one may hold fewer.
        shuffle: whether each epoch has an order of its own.
        drop_last: whether a last batch that is not full is left out.
        seed: of the orders, 0 to 2**32 - 1.

    Raises:
        ValueError: batch_size or seed is out of range.
        DataError: drop_last would leave no batch at all.
    """

    def __init__(
        self, dataset: ArrayDataset, batch_size: int, shuffle: bool, drop_last: bool, seed: int
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        _require_key("seed", seed)
        if drop_last and batch_size > len(dataset):
            raise DataError(
                f"batch_size {batch_size} with drop_last needs {batch_size} samples, "
                f"found {len(dataset)}"
            )
        self.dataset = dataset
        self._batch_size, self._shuffle = batch_size, shuffle
        self._drop_last, self._seed = drop_last, seed

    def __len__(self) -> int:
        """Return the batches of a whole epoch."""
        return self._num_batches(len(self.dataset))

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of `epoch` that follow its first `start` samples.

        `start` counts samples in the epoch's order and need not be a multiple of batch_size,
        so that a run can go on with another batch size.

        Raises:
            ValueError: at the call, epoch or start is out of range.
        """
        _require_key("epoch", epoch)
        if not 0 <= start <= len(self.dataset):
            raise ValueError(f"start must be in [0, {len(self.dataset)}], got {start}")
        return self._batches_of(self._order(epoch)[start:])

    def _batches_of(self, order: npt.NDArray[np.int64]) -> Iterator[Batch]:
        for index in range(self._num_batches(len(order))):
            yield self._batch(order[index * self._batch_size : (index + 1) * self._batch_size])

    def _batch(self, samples: npt.NDArray[np.int64]) -> Batch:
        # Arrays of its own for each batch, since a device may still read the one before; within
        # it in place, which is ten times as fast as the same expression with temporaries.
        image = self.dataset.images.take(samples, axis=0).astype(np.float32)
        image -= self.dataset.mean
        image /= self.dataset.std
        return Batch(image, self.dataset.labels.take(samples))

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        if not self._shuffle:
            return np.arange(len(self.dataset))
        # NumPy has frozen RandomState's stream; that of Generator may change between versions,
        # and a resumed run would then see some images twice and others never.
        return np.random.RandomState([self._seed, epoch]).permutation(len(self.dataset))

    def _num_batches(self, num_samples: int) -> int:
        full, rest = divmod(num_samples, self._batch_size)
        return full + (rest > 0 and not self._drop_last)


def _require_key(name: str, value: int) -> None:
    if not 0 <= value <= _MAX_KEY:
        raise ValueError(f"{name} must be in [0, {_MAX_KEY}], got {value}")
