"""What must be finite at a step of training, and what becomes of a step where it is not."""

from __future__ import annotations

import logging
from typing import Any, Literal, Optional, Sequence

from ..averaging import ranks
from ..averaging.batch_norm import batch_norm_statistics
from ..averaging.finite import FiniteCheck
from ..errors import NonFiniteError

logger = logging.getLogger(__name__)

NonFinitePolicy = Literal["error", "skip"]


class FiniteGuard:
    """Look at gradients, statistics and weights at each step; leave out a step, or end the run.

    All ranks come to the same end.

    Args:
        model: a paddle.nn.Layer.
        policy: a NaN or Inf in a gradient ends the run (error) or leaves the step out (skip).
        max_skips: steps left out in a row before the run ends all the same.
        is_scaled: a GradScaler finds its scale by overflows, which leave their steps out.
    """

    def __init__(
        self, model: Any, policy: NonFinitePolicy, max_skips: int, is_scaled: bool
    ) -> None:
        self._policy, self._max_skips, self._is_scaled = policy, max_skips, is_scaled
        self.skips_in_a_row = 0
        # Looked up once: walking the layers at each step costs more than the check itself.
        self._statistics = _moving_buffers(model)
        self._parameters = list(model.named_parameters())
        moving = {id(tensor) for _, tensor in self._statistics}
        # Frozen ones too: averages copy them, and on a CPU a NaN need not reach the loss.
        self._weights = [item for item in self._parameters if id(item[1]) not in moving]
        self._gradient_check, self._weight_check = FiniteCheck(), FiniteCheck()
        self._statistics_check = FiniteCheck()

    def copy_statistics(self) -> list[Any]:
        """Return copies of what a forward pass moves, where a step may be left out."""
        if self._policy == "error" and not self._is_scaled:
            return []
        return [tensor.clone() for _, tensor in self._statistics]

    def find_fault(self, step: int) -> Optional[str]:
        """Return what is not finite after the backward pass of a step, None where all is.

        Raises:
            NonFiniteError: a statistic, under AMP.
        """
        gradients = ((name, p.grad) for name, p in self._parameters if not p.stop_gradient)
        fault = self._gradient_check.first_non_finite(
            (name, grad) for name, grad in gradients if grad is not None
        )
        # The gradients are the same on all ranks, what a forward pass moves is not.
        return f"the gradient of {fault}" if fault else self._statistics_fault(step)

    def leave_out(self, step: int, fault: str, kept: Sequence[Any]) -> None:
        """Put the statistics back to the copies in `kept`, and count a step that is left out.

        Raises:
            NonFiniteError: the policy does not allow it, or it does not help.
        """
        for (_, tensor), copy in zip(self._statistics, kept):
            tensor.copy_(copy, True)
        # What was not finite before the step is no better for leaving it out.
        self._require_finite(self._statistics[: len(kept)], step, "before the step")
        self._require_finite(self._weights, step, "before the step")
        self.skips_in_a_row += 1
        text = f"step {step}: {fault} is not finite"
        # An overflow under AMP is how its scaler finds the scale.
        if self._policy == "error" and not self._is_scaled:
            raise NonFiniteError(f"{text}; the weights before it stand")
        if self.skips_in_a_row > self._max_skips:
            raise NonFiniteError(f"{text}, {self.skips_in_a_row} steps in a row")
        logger.warning("%s; the step is left out", text)

    def require_finite_weights(self, step: int) -> None:
        """Look at the weights that a step has moved.

        Raises:
            NonFiniteError: one is NaN or infinite.
        """
        self.skips_in_a_row = 0
        self._require_finite(self._weights, step, "after the update")

    def _statistics_fault(self, step: int) -> Optional[str]:
        """Return the name of a BN statistic or buffer that the forward pass made non-finite."""
        fault = self._statistics_check.first_non_finite(self._statistics)
        if self._statistics and ranks.num_ranks() > 1:
            (num_faults,) = ranks.sum_of([float(fault is not None)])
            fault = fault or ("a statistic of another process" if num_faults else None)
        if fault is not None and self._is_scaled:
            # The scaler looks at gradients only, and would step.
            raise NonFiniteError(f"step {step}: {fault} is not finite under AMP")
        return fault

    def _require_finite(self, tensors: Sequence[tuple[str, Any]], step: int, when: str) -> None:
        fault = self._weight_check.first_non_finite(tensors)
        if fault is not None:
            raise NonFiniteError(f"step {step}: {fault} is not finite {when}")


def _moving_buffers(model: Any) -> list[tuple[str, Any]]:
    """Return what a forward pass may change: BN statistics and buffers, by name."""
    statistics = batch_norm_statistics(model)
    named = [item for item in model.named_parameters() if id(item[1]) in statistics]
    return [*named, *model.named_buffers()]
