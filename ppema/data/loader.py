"""Batches of data that are read sample by sample, made ahead in worker processes."""

from __future__ import annotations

from typing import Iterator, Sequence

import numpy as np

from .dataset import Scale
from .reader import Batch, Indices, Reader
from .samples import SampleDataset
from .seeding import kept_generators, seed_sample
from .workers import BatchWorkers, Slot, can_fork


class LoaderReader(Reader):
    """Yield the batches of a dataset that is read sample by sample.

    Order and each sample's randomness are keyed by seed, epoch and index, so that an epoch's
    batches are the same bits with any number of workers and from any sample of it on.

    Args:
        dataset: what to read.
        batch_size: images in each batch; the last one may hold fewer.
        shuffle: whether each epoch has an order of its own.
        drop_last: whether a last batch that is not full is left out.
        seed: of the orders and of each sample, 0 to 2**32 - 1.
        num_workers: processes that make batches ahead; with 0 each is made when it is asked for,
            in this process, whose generators are then put back. Where Paddle's loader has no
            workers (macOS, Windows), 0.
        rank: of this process, from 0.
        num_ranks: how many processes share each batch.

    Raises:
        ValueError: batch_size, seed, num_workers or rank is out of range, or the images are not of
            one size.
        DataError: drop_last would leave no batch at all.
    """

    def __init__(
        self,
        dataset: SampleDataset,
        batch_size: int,
        shuffle: bool,
        drop_last: bool,
        seed: int,
        num_workers: int = 1,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        super().__init__(dataset, batch_size, shuffle, drop_last, seed, rank, num_ranks)
        if num_workers < 0:
            raise ValueError(f"num_workers must be at least 0, got {num_workers}")
        if not dataset.has_one_size:
            raise ValueError(f"{dataset.source}: batches need transforms that make one size")
        self.dataset = dataset
        self.num_workers = num_workers if can_fork() else 0
        self._scale = Scale(dataset.mean, dataset.std)

    def _make(self, epoch: int, parts: Sequence[Indices]) -> Iterator[Batch]:
        return self._make_ahead(epoch, parts) if self.num_workers else self._make_now(epoch, parts)

    def _make_now(self, epoch: int, parts: Sequence[Indices]) -> Iterator[Batch]:
        for indices in parts:
            slot = Slot(
                np.empty((len(indices), *self.dataset.image_shape), self.dataset.image_dtype),
                np.empty(len(indices), np.int64),
                np.empty(0, np.uint8),
            )
            with kept_generators():
                self._fill(epoch, indices.tolist(), slot)
            yield self._batch(slot)

    def _make_ahead(self, epoch: int, parts: Sequence[Indices]) -> Iterator[Batch]:
        if not parts:
            return
        with BatchWorkers(
            lambda indices, slot: self._fill(epoch, indices, slot),
            [indices.tolist() for indices in parts],
            (len(parts[0]), *self.dataset.image_shape),
            self.dataset.image_dtype,
            self.num_workers,
            self.dataset.source,
        ) as workers:
            for number in range(len(parts)):
                yield self._batch(workers.get(number))

    def _fill(self, epoch: int, indices: Sequence[int], slot: Slot) -> None:
        for row, index in enumerate(indices):
            seed_sample(self._seed, epoch, index)
            slot.images[row], slot.labels[row] = self.dataset.read(index)

    def _batch(self, slot: Slot) -> Batch:
        # Copies: the slot is written again, and a device may still read the batch before.
        return Batch(self._scale.fed(slot.images), slot.labels.copy())
