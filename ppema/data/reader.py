"""Batches in an order that seed and epoch alone decide; those of a dataset in memory."""

from __future__ import annotations

from typing import Iterator, NamedTuple, Optional, Sequence, Sized

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .dataset import ArrayDataset, Scale

# What RandomState takes as a part of its key.
_MAX_KEY = 2**32 - 1

Indices = npt.NDArray[np.int64]


class Batch(NamedTuple):
    """Images float32 [N, C, H, W], normalised, and their labels int64 [N].

    Where several processes share a batch, this is the part of one of them: `num_counted` of its
    images count, of the `num_in_all` that the whole batch has; None for all N of them.
    """

    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.int64]
    num_counted: Optional[int] = None
    num_in_all: Optional[int] = None

    @property
    def num_own(self) -> int:
        """Return the images that count here; 0 for an image that only stands in."""
        return len(self.label) if self.num_counted is None else self.num_counted

    @property
    def num_total(self) -> int:
        """Return the images of the whole batch, over all processes."""
        return len(self.label) if self.num_in_all is None else self.num_in_all


class Reader:
    """Yield the batches of an epoch, from any sample of it on; a child makes the batches.

    The order of an epoch is one for all processes: a batch is the next `batch_size` x `num_ranks`
    samples of it, and each process gets its part, so that two processes with 32 images each are
    trained on what one is with 64.

    Args:
        dataset: its length is all that is asked of it here.
        batch_size: images of a process in each batch; the last one may hold fewer.
        shuffle: whether each epoch has an order of its own.
        drop_last: whether a last batch that is not full is left out.
        seed: of the orders, 0 to 2**32 - 1.
        rank: of this process, from 0.
        num_ranks: how many processes share each batch.

    Raises:
        ValueError: batch_size, seed or rank is out of range.
        DataError: drop_last would leave no batch at all.
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        shuffle: bool,
        drop_last: bool,
        seed: int,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= rank < num_ranks:
            raise ValueError(f"rank must be in [0, {num_ranks}), got {rank}")
        _require_key("seed", seed)
        in_all = batch_size * num_ranks
        if drop_last and in_all > len(dataset):
            shared = f" in each of {num_ranks} processes" if num_ranks > 1 else ""
            raise DataError(
                f"batch_size {batch_size}{shared} with drop_last needs {in_all} samples, "
                f"found {len(dataset)}"
            )
        self._num_samples = len(dataset)
        self._batch_size, self._shuffle = in_all, shuffle
        self._drop_last, self._seed = drop_last, seed
        self._rank, self._num_ranks = rank, num_ranks

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
        batches = self._parts(epoch, start)
        if self._num_ranks == 1:
            return self._make(epoch, batches)
        return self._make_own(epoch, batches)

    def dealt(self, epoch: int, rank: int, num_ranks: int) -> Iterator[tuple[int, Batch]]:
        """Yield every `num_ranks`-th whole batch of an epoch, from the `rank`-th on.

        Each with the number of samples before it. All ranks together get each batch once, as one
        process would: nothing is padded.
        """
        starts = range(0, self._num_samples, self._batch_size)[rank::num_ranks]
        parts = self._parts(epoch, 0)[rank::num_ranks]
        return zip(starts, self._make(epoch, parts))

    def _parts(self, epoch: int, start: int) -> list[Indices]:
        """Return the samples of each batch, of all ranks."""
        _require_key("epoch", epoch)
        if not 0 <= start <= self._num_samples:
            raise ValueError(f"start must be in [0, {self._num_samples}], got {start}")
        order = self._order(epoch)[start:]
        size = self._batch_size
        return [order[i * size : (i + 1) * size] for i in range(self.num_batches(start))]

    def _make_own(self, epoch: int, batches: Sequence[Indices]) -> Iterator[Batch]:
        """Yield this rank's part of each batch, in sizes that differ by one at most.

        Where a last batch has fewer samples than there are ranks, one stands in that counts
        nothing: gradients are exchanged by all ranks or none.
        """
        parts = [np.array_split(batch, self._num_ranks)[self._rank] for batch in batches]
        shown = [part if len(part) else batch[:1] for part, batch in zip(parts, batches)]
        for part, batch, made in zip(parts, batches, self._make(epoch, shown)):
            yield made._replace(num_counted=len(part), num_in_all=len(batch))

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
        self,
        dataset: ArrayDataset,
        batch_size: int,
        shuffle: bool,
        drop_last: bool,
        seed: int,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        super().__init__(dataset, batch_size, shuffle, drop_last, seed, rank, num_ranks)
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
