"""How the processes that Paddle's launcher started come to be one run."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Any, Callable, Iterator, Optional, TypeVar

import paddle
import paddle.distributed as dist

from ..averaging import ranks
from ..averaging.batch_norm import batch_norm_layers
from ..checkpoint import Checkpoint
from ..config import Config
from ..engine.agreement import SignalAgreement
from ..errors import CheckpointError, ConfigError, PpemaError, telling_line
from ..launch import is_first_on_machine, is_launched, num_launched
from ..stop_signals import StopSignals

logger = logging.getLogger(__name__)

Loaded = TypeVar("Loaded")
# Of what Paddle raises where a connection to another process broke.
_OF_CONNECTIONS = ("gloo", "NCCL", "TCPStore", "ProcessGroup", "tcp_utils")


class LostProcessError(PpemaError):
    """Another process of the run is gone, and this one cannot go on without."""


@contextlib.contextmanager
def joined(place: str) -> Iterator[None]:
    """Be one of the processes that were launched, for the length of a `with` block.

    Args:
        place: where they compute, as `select_place` says.

    Raises:
        ConfigError: the environment does not say who the others are.
        LostProcessError: another one is gone.
    """
    if num_launched() == 1:
        yield
        return
    if place == "cpu":
        # A Paddle with CUDA would take the GPUs, and their way to exchange tensors.
        os.environ["PADDLE_DISTRI_BACKEND"] = "gloo"
    try:
        _initialize()
        yield
    # Paddle has no class of its own for it.
    except (RuntimeError, OSError) as error:
        if not any(word in str(error) for word in _OF_CONNECTIONS):
            raise
        raise LostProcessError(
            "another process of this run is gone, and its own output says why; what was saved "
            "stands, continue with -r auto"
        ) from error


def _initialize() -> None:
    try:
        dist.init_parallel_env()
    # What Paddle raises where a variable that its launcher sets is missing or no number.
    except ValueError as error:
        raise ConfigError(
            f"PADDLE_TRAINERS_NUM says that this is one of {num_launched()} processes, but "
            f"{telling_line(error)}; start them by python -m paddle.distributed.launch, or unset "
            "PADDLE_TRAINERS_NUM"
        ) from error


def make_signals() -> StopSignals:
    """Return what notes the signals to a run; of several processes, all end at the same step."""
    agree = SignalAgreement() if ranks.num_ranks() > 1 else None
    return StopSignals(agree, is_launched=is_launched())


def find_together(find: Callable[[], Optional[Checkpoint]]) -> Optional[Checkpoint]:
    """Return the checkpoint to start from that the first process finds, None where it finds none.

    Raises:
        CheckpointError: this process cannot read it.
    """
    found = find() if ranks.is_first() else None
    path = ranks.broadcast(None if found is None else str(found.path.absolute()))
    if found is not None or path is None:
        return found
    if not Path(path).is_dir():
        raise CheckpointError(
            f"{path}: is not to be seen by process {ranks.rank()}; save_dir must lie where all "
            "machines read and write"
        )
    checkpoint = Checkpoint(Path(path))
    checkpoint.verify()
    return checkpoint


def load_in_turn(load: Callable[[], Loaded]) -> Loaded:
    """Return what `load` does, in one process of a machine before it is called in the others."""
    if not is_first_on_machine():
        ranks.barrier()
    loaded = load()
    if is_first_on_machine():
        ranks.barrier()
    return loaded


def synchronize_batch_norm(config: Config, model: Any) -> Any:
    """Return the model with BN over the images of all processes, where that is asked for.

    Where Paddle's place has none, the model as it is, with a warning.
    """
    if not config.sync_bn or ranks.num_ranks() == 1 or not batch_norm_layers(model):
        return model
    if paddle.get_device() == "cpu":
        logger.warning(
            "sync_bn: Paddle has no SyncBatchNorm on a CPU; each process normalises by its own "
            "%d images, and the statistics are averaged over the processes",
            config.TrainReader.batch_size,
        )
        return model
    return paddle.nn.SyncBatchNorm.convert_sync_batchnorm(model)


def describe_processes(config: Config, rate: float) -> list[str]:
    """Return a line on how many images make a step, where that is not batch_size alone."""
    batch_size, accumulated = config.TrainReader.batch_size, config.accumulate_steps
    num_ranks = ranks.num_ranks()
    if num_ranks == accumulated == 1:
        return []
    parts = [f"{batch_size} images"]
    if accumulated > 1:
        parts.append(f"{accumulated} batches")
    if num_ranks > 1:
        parts.append(f"{num_ranks} processes")
    total = batch_size * accumulated * num_ranks
    return [f"a step: {' x '.join(parts)} = {total:,} images, learning rate {rate:g}"]
