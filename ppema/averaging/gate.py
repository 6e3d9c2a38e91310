"""Leave a step out of the averages where its loss says that something went wrong."""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Any, Mapping, Optional

from .decay import ArgumentError, require_whole


class LossGate:
    """Tell, from the loss of a step, whether its weights may go into the averages.

    In a loop of your own: ``ema.update() if gate.admits(float(loss)) else ema.skip()``.

    Args:
        max_loss: leave a step out whose loss is above it.
        max_loss_ratio: leave a step out whose loss is above so many times the median of the
            losses before it, left out ones included, where that median is above 0; the first
            step has none to be compared to.
        window: how many of the latest losses the median is of.

    Raises:
        ArgumentError: neither limit is given, or one is out of range.
    """

    def __init__(
        self,
        max_loss: Optional[float] = None,
        max_loss_ratio: Optional[float] = None,
        window: int = 100,
    ) -> None:
        if max_loss is None and max_loss_ratio is None:
            raise ArgumentError("max_loss", "given where max_loss_ratio is not", max_loss)
        if max_loss is not None and not math.isfinite(max_loss):
            raise ArgumentError("max_loss", "a finite number", max_loss)
        if max_loss_ratio is not None and not 1.0 < max_loss_ratio < math.inf:
            raise ArgumentError("max_loss_ratio", "a finite number above 1", max_loss_ratio)
        require_whole("window", window)
        self._max_loss, self._max_loss_ratio = max_loss, max_loss_ratio
        self._losses: deque[float] = deque(maxlen=window)
        self.num_left_out = 0
        self.reason = ""

    def admits(self, loss: float) -> bool:
        """Tell whether the step with this loss counts; a NaN or infinite loss never does.

        Where it does not, `reason` says why and `num_left_out` has counted it.
        """
        self.reason = self._fault(loss)
        if math.isfinite(loss):
            self._losses.append(loss)
        if self.reason:
            self.num_left_out += 1
        return not self.reason

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact continuation needs."""
        return {"losses": list(self._losses), "num_left_out": self.num_left_out}

    def set_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`; the limits stay those of the constructor.

        Raises:
            ValueError: it is no state of a gate; nothing is changed then.
        """
        losses, num_left_out = state.get("losses"), state.get("num_left_out")
        if not isinstance(losses, list) or not all(
            type(loss) is float and math.isfinite(loss) for loss in losses
        ):
            raise ValueError("the losses of a gate's state are a list of finite numbers")
        if type(num_left_out) is not int or num_left_out < 0:
            raise ValueError(f"num_left_out must be a whole number from 0, got {num_left_out!r}")
        self._losses.clear()
        self._losses.extend(losses)
        self.num_left_out = num_left_out

    def _fault(self, loss: float) -> str:
        if not math.isfinite(loss):
            return f"loss {loss} is not finite"
        if self._max_loss is not None and loss > self._max_loss:
            return f"loss {loss:.4g} is above max_loss {self._max_loss:g}"
        if self._max_loss_ratio is not None and self._losses:
            median = statistics.median(self._losses)
            if loss > self._max_loss_ratio * median > 0.0:
                return (
                    f"loss {loss:.4g} is above max_loss_ratio {self._max_loss_ratio:g} times the "
                    f"median {median:.4g} of the latest {len(self._losses)}"
                )
        return ""
