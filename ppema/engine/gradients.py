"""The gradients of several ranks made their mean, in the way that is quicker."""

from __future__ import annotations

import contextlib
from typing import Any, ContextManager

import paddle

from ..averaging import ranks
from ..averaging.views import is_viewable
from ..errors import ConfigError

# Up to about so many bytes, two broadcasts by gloo take half the time of its all-reduce, which is a
# ring of many messages; above a megabyte they gain nothing.
_FEW_BYTES = 500_000


class GradientExchange:
    """Run a model on this rank's part of a batch, and make its gradients those of all ranks.

    By `paddle.DataParallel`; the few bytes of a small model on two ranks of CPUs by a broadcast
    of each, once the backward pass is done. Both give (a + b) / 2, the same bits on all ranks.

    Args:
        model: the network; DataParallel gives it the first rank's weights on all.
        find_unused_parameters: as of DataParallel, which then makes the exchange whatever its size.
    """

    def __init__(self, model: Any, find_unused_parameters: bool) -> None:
        # What a step calls.
        self.forward = model
        self._parameters = list(model.named_parameters())
        self._is_alone = ranks.num_ranks() == 1
        self._by_broadcasts = False
        if not self._is_alone:
            self.forward = paddle.DataParallel(model, find_unused_parameters=find_unused_parameters)
            self._by_broadcasts = not find_unused_parameters and _is_small(model)

    def kept(self, is_more_to_come: bool) -> ContextManager[None]:
        """Return a block whose backward pass leaves its gradients with this rank.

        Args:
            is_more_to_come: another batch of the step, whose gradients take these along.
        """
        if self._is_alone or not (is_more_to_come or self._by_broadcasts):
            return contextlib.nullcontext()
        return self.forward.no_sync()  # type: ignore[no-any-return]

    def finish(self) -> None:
        """Exchange what the backward passes of a step have left to be exchanged. All ranks.

        Raises:
            ConfigError: the loss did not depend on a parameter that trains.
        """
        if not self._by_broadcasts:
            return
        trained = [(name, p) for name, p in self._parameters if not p.stop_gradient]
        for name, parameter in trained:
            if parameter.grad is None:
                raise ConfigError(
                    f"find_unused_parameters is false, but the loss does not depend on {name}; "
                    "set find_unused_parameters: true"
                )
            if not parameter.grad.is_contiguous():
                # That of a weight that was turned lies as the turned one, if not on every rank.
                parameter.grad = parameter.grad.contiguous()
        ranks.mean_of_two([parameter.grad for _, parameter in trained])


def _is_small(model: Any) -> bool:
    """Tell whether broadcasts are quicker than an all-reduce, and can take its gradients."""
    parameters = [p for p in model.parameters() if not p.stop_gradient]
    num_bytes = sum(int(p.size) * p.element_size() for p in parameters)
    # Their gradients are no tensors that lie in one piece.
    is_sparse = any(getattr(layer, "_sparse", False) for layer in model.sublayers(True))
    return (
        ranks.num_ranks() == 2
        and not is_sparse
        and all(map(is_viewable, parameters))
        and len({p.dtype for p in parameters}) == 1
        and num_bytes <= _FEW_BYTES
    )
