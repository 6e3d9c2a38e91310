"""Processes of one module that are the ranks of `paddle.distributed`, each on a core of its own."""

from __future__ import annotations

import os
import socket
from typing import Any, Optional

from .remote import Remote
from .timing import can_hold_to_one_core

# One thread computes, as only one core is there for it.
_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class RankGroup:
    """Start a module once for each rank, all in one group of gloo; then ask them all at once.

    Args:
        module: its name in this package.
        arguments: of its command line, the same for all.
        num_ranks: how many; more than there are cores share them in turn.
    """

    def __init__(self, module: str, *arguments: str, num_ranks: int) -> None:
        self._remotes: list[Remote] = []
        try:
            for environment, core in zip(_environments(num_ranks), _cores(num_ranks)):
                remote = Remote(module, *arguments, environment=environment, core=core)
                self._remotes.append(remote)
        except OSError:
            self.close()
            raise

    def ask(self, do: str, **arguments: Any) -> list[Any]:
        """Return the answers of all ranks to one request, in their order.

        Raises:
            RemoteError: one has none.
        """
        for remote in self._remotes:
            remote.send(do, **arguments)
        return [remote.receive() for remote in self._remotes]

    def ask_first(self, do: str, **arguments: Any) -> Any:
        """Return the answer of the first rank, while the others wait.

        Raises:
            RemoteError: it has none.
        """
        return self._remotes[0].ask(do, **arguments)

    def close(self) -> None:
        """End the processes."""
        for remote in self._remotes:
            remote.close()


def _environments(num_ranks: int) -> list[dict[str, str]]:
    """Return what Paddle's launcher would tell each rank."""
    if num_ranks == 1:
        return [_THREADS]
    endpoints = [f"127.0.0.1:{port}" for port in _free_ports(num_ranks + 1)]
    common = {
        **_THREADS,
        "PADDLE_MASTER": endpoints.pop(),
        "PADDLE_TRAINERS_NUM": str(num_ranks),
        "PADDLE_LOCAL_SIZE": str(num_ranks),
        "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
    }
    return [
        {
            **common,
            "PADDLE_TRAINER_ID": str(rank),
            "PADDLE_LOCAL_RANK": str(rank),
            "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
        }
        for rank in range(num_ranks)
    ]


def _cores(num_ranks: int) -> list[Optional[int]]:
    if not can_hold_to_one_core():
        return [None] * num_ranks
    cores = sorted(os.sched_getaffinity(0))
    return [cores[rank % len(cores)] for rank in range(num_ranks)]


def _free_ports(count: int) -> list[int]:
    # All are held until the last is found, so that none is found twice.
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()
