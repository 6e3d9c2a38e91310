"""Worker processes that make batches ahead of the training loop, by `paddle.io.DataLoader`.

What is done beside it, and why:

- The pixels go through memory that parent and workers share without a name, so nothing is pickled
  and no file in /dev/shm can be left behind. What goes through the loader's own queue is a few
  bytes, which a worker that is killed cannot leave there in half.
- An error in a sample is carried as text. Raised in a worker, it would come back as Paddle's
  SystemError without the sample's name.
- A pipe says which batches are done. Waiting on it, and on the workers' ends, lets signals be
  handled and a dead worker be seen at once; the loader waits in C++, where neither is the case.
- Paddle's handler for SIGCHLD raises SystemError at any line of the main thread, in the middle of
  a checkpoint too, when a worker that it knows of is killed. It is made to forget these.
- A forked worker that collects what is left of an earlier loader waits for ever for threads that
  did not come along. What is inherited is frozen, so that no worker collects it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import multiprocessing
import os
import signal
import struct
import sys
import threading
import warnings
from multiprocessing import connection
from typing import Any, Callable, Iterator, NamedTuple, Sequence

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from ..stop_signals import waiting
from .seeding import kept_generators

# Batches that each worker is ahead by.
_PREFETCH = 2
# At which the loader looks after its workers, should one die between a batch and its message.
_CHECK_INTERVAL_S = 1
_ERROR_BYTES = 1024
_NUMBER = struct.Struct("<Q")
_PR_SET_PDEATHSIG = 1


class Slot(NamedTuple):
    """Room for one batch, in memory that parent and workers share."""

    images: npt.NDArray[Any]
    labels: npt.NDArray[np.int64]
    error: npt.NDArray[np.uint8]


Fill = Callable[[Sequence[int], Slot], None]


def can_fork() -> bool:
    """Return whether Paddle's loader has worker processes on this system."""
    return sys.platform not in ("darwin", "win32")


class BatchWorkers:
    """Have batches made in other processes, `_PREFETCH` ahead for each of them, in order.

    A context manager: the workers end with the block, whatever happens in it. Should this process
    be killed, or the thread end that made this object, the system ends them.

    Args:
        fill: makes the batch of these indices in a slot; called in a worker.
        parts: the indices of each batch.
        batch_shape: of a full batch's images.
        dtype: of the images.
        num_workers: at least 1.
        source: the data, as an error names it.
    """

    def __init__(
        self,
        fill: Fill,
        parts: Sequence[Sequence[int]],
        batch_shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        num_workers: int,
        source: str,
    ) -> None:
        self._source, self._parts = source, parts
        # One more than can be under way: the parent reads it while the others are written.
        self._slots = _share_slots(_PREFETCH * num_workers + 1, batch_shape, np.dtype(dtype))
        self._done: set[int] = set()
        self._done_end, done_for_workers = multiprocessing.Pipe(duplex=False)
        task = _Task(fill, self._slots, done_for_workers)
        self._iterator = _start(task, [[(n, part)] for n, part in enumerate(parts)], num_workers)
        done_for_workers.close()
        self._workers = list(self._iterator._workers)

    def __enter__(self) -> BatchWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        # Killed, since one may be stuck in a sample, and the loader would wait for it.
        for worker in self._workers:
            worker.kill()
        # A worker that dies while it looks at this event keeps its lock, and the loader would wait
        # for that for ever, to tell workers that are gone.
        self._iterator._workers_done_event = threading.Event()
        # Its thread holds the iterator, which thus never ends by itself.
        self._iterator._try_shutdown_all()
        self._done_end.close()

    def get(self, number: int) -> Slot:
        """Return the batch of that number, which must be the next; valid until the call after.

        Raises:
            DataError: a sample is at fault, or a worker died.
        """
        self._wait(number)
        is_whole = True
        try:
            next(self._iterator)
        except SystemError:
            is_whole = False
        if not is_whole:
            self._raise_dead()
        slot = self._slots[number % len(self._slots)]
        text = slot.error.tobytes().rstrip(b"\0")
        if text:
            raise DataError(text.decode("utf-8", "replace"))
        num_images = len(self._parts[number])
        return Slot(slot.images[:num_images], slot.labels[:num_images], slot.error)

    def _wait(self, number: int) -> None:
        """Wait until the batch is done, or a worker is dead."""
        while number not in self._done:
            with waiting():
                ready = connection.wait([self._done_end, *(w.sentinel for w in self._workers)])
            if self._done_end not in ready:
                self._raise_dead()
            try:
                self._done.add(_NUMBER.unpack(self._done_end.recv_bytes())[0])
            except EOFError:
                self._raise_dead()
        self._done.remove(number)

    def _raise_dead(self) -> None:
        for worker in self._workers:
            worker.join(_CHECK_INTERVAL_S)
            code = worker.exitcode
            if code:
                how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
                hint = "; is there too little memory?" if code == -signal.SIGKILL else ""
                raise DataError(
                    f"{self._source}: the worker process {worker.pid} died ({how}){hint}"
                )
        raise DataError(f"{self._source}: a worker process ended before its work was done")


class _Task:
    """What the loader takes for its dataset: an index is a batch's number and samples."""

    def __init__(self, fill: Fill, slots: Sequence[Slot], done_end: Any) -> None:
        self._fill, self._slots, self._done_end = fill, slots, done_end

    def __getitem__(self, job: tuple[int, Sequence[int]]) -> npt.NDArray[np.int64]:
        number, indices = job
        slot = self._slots[number % len(self._slots)]
        try:
            self._fill(indices, slot)
        # Whatever it is: left to the loader, it would leave the parent waiting for this batch.
        except BaseException as error:
            reason = f"one of samples {', '.join(map(str, indices))}: {type(error).__name__}"
            reason = str(error) if isinstance(error, DataError) else reason
            text = reason.encode("utf-8", "backslashreplace")[:_ERROR_BYTES]
            slot.error[: len(text)] = np.frombuffer(text, np.uint8)
        self._done_end.send_bytes(_NUMBER.pack(number))
        # The loader hands on tensors, and no fewer than one.
        return np.array([number])

    def __len__(self) -> int:
        return len(self._slots)


def _start(task: _Task, jobs: Sequence[Any], num_workers: int) -> Any:
    """Return the loader's iterator over all jobs, with its workers running."""
    import paddle
    from paddle.base import core

    parent = os.getpid()
    loader = paddle.io.DataLoader(
        task,
        places=paddle.CPUPlace(),
        batch_sampler=jobs,
        collate_fn=_only,
        num_workers=num_workers,
        use_buffer_reader=False,
        prefetch_factor=_PREFETCH,
        use_shared_memory=False,
        timeout=_CHECK_INTERVAL_S,
        worker_init_fn=lambda _: _become_worker(parent),
    )
    # The loader draws a seed for its workers from NumPy's global generator.
    with kept_generators(), _frozen_objects(), warnings.catch_warnings():
        # Python 3.12 on: forking beside threads. The workers touch nothing that threads hold.
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork")
        iterator = iter(loader)
    core._erase_process_pids(id(iterator))
    return iterator


@contextlib.contextmanager
def _frozen_objects() -> Iterator[None]:
    """Keep the garbage collector, here and in processes forked here, off all there is by now."""
    is_mine = gc.get_freeze_count() == 0
    gc.freeze()
    try:
        yield
    finally:
        if is_mine:
            gc.unfreeze()


def _only(samples: Sequence[Any]) -> list[Any]:
    return list(samples)


def _become_worker(parent: int) -> None:
    """Let the worker live and die with its parent, and leave signals from a terminal to it."""
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _share_slots(
    num_slots: int, batch_shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Sequence[Slot]:
    # A multiple of 8 bytes, where the labels begin.
    image_bytes = -(-int(np.prod(batch_shape)) * dtype.itemsize // 8) * 8
    label_bytes = 8 * batch_shape[0]
    slot_bytes = image_bytes + label_bytes + _ERROR_BYTES
    memory = mmap.mmap(-1, num_slots * slot_bytes)
    slots = []
    for start in range(0, num_slots * slot_bytes, slot_bytes):
        labels, error = start + image_bytes, start + image_bytes + label_bytes
        slots.append(
            Slot(
                np.ndarray(batch_shape, dtype, memory, start),
                np.ndarray(batch_shape[:1], np.int64, memory, labels),
                np.ndarray((_ERROR_BYTES,), np.uint8, memory, error),
            )
        )
    return slots
