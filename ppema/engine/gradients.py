"""The gradients of several ranks made their mean."""

from __future__ import annotations

import contextlib
from typing import Any, ContextManager

import paddle

from ..averaging import ranks
from ..errors import ConfigError


class GradientExchange:
    """Run a model on this rank's part of a batch, and make its gradients the mean of all ranks.

    On GPUs by `paddle.DataParallel`, beside the backward pass. On CPUs by an all-reduce after it:
    an error of gloo, as when another process is gone, that comes within a backward pass ends this
    process in C++, and nobody is told why.

    Args:
        model: the network; DataParallel gives it the first rank's weights on all.
        find_unused_parameters: the loss may not depend on every parameter; those that it depends
            on in no rank get no gradient.
    """

    def __init__(self, model: Any, find_unused_parameters: bool) -> None:
        # What a step calls.
        self.forward = model
        self._parameters = list(model.named_parameters())
        self._finds_unused = find_unused_parameters
        self._is_alone = ranks.num_ranks() == 1
        self._is_beside_backward = paddle.get_device() != "cpu"
        if self._is_alone:
            return
        self.forward = paddle.DataParallel(model, find_unused_parameters=find_unused_parameters)
        for _, parameter in self._parameters:
            if not parameter.stop_gradient:
                # The exchange takes it as it lies in memory, which of a weight that is used turned
                # is by columns: DataParallel of Paddle 3.3.1 would mix up rows and columns.
                parameter.register_hook(_in_rows)

    def kept(self, is_more_to_come: bool) -> ContextManager[None]:
        """Return a block whose backward pass leaves its gradients with this rank.

        Args:
            is_more_to_come: another batch of the step, whose gradients take these along.
        """
        if self._is_alone or (self._is_beside_backward and not is_more_to_come):
            return contextlib.nullcontext()
        return self.forward.no_sync()  # type: ignore[no-any-return]

    def finish(self) -> None:
        """Exchange what the backward passes of a step have left to be exchanged. All ranks.

        Raises:
            ConfigError: the loss did not depend on a parameter that trains.
        """
        if self._is_alone or self._is_beside_backward:
            return
        trained = [(name, p) for name, p in self._parameters if not p.stop_gradient]
        if self._finds_unused:
            trained = _used_anywhere(trained)
        for name, parameter in trained:
            if parameter.grad is None:
                raise ConfigError(
                    f"find_unused_parameters is false, but the loss does not depend on {name}; "
                    "set find_unused_parameters: true"
                )
        ranks.all_reduce_mean([parameter.grad for _, parameter in trained])


def _used_anywhere(trained: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return the parameters that the loss of some rank depends on; each gets a gradient here."""
    counts = ranks.sum_of([float(parameter.grad is not None) for _, parameter in trained])
    used = [pair for pair, count in zip(trained, counts) if count]
    for _, parameter in used:
        if parameter.grad is None:
            parameter.grad = paddle.zeros_like(parameter)
    return used


def _in_rows(gradient: Any) -> Any:
    """Return a gradient that lies in memory row by row; None, as hooks do, where it does."""
    return None if gradient.is_contiguous() else gradient.contiguous()
