"""Stochastic weight averaging: the equal-weight mean of the weights at chosen steps."""

from __future__ import annotations

from typing import Any, ClassVar, Optional, Sequence

from .average import WeightAverage
from .fit import Counters
from .horizon import Duration, RunLength, to_whole_steps
from .shadow import BufferPolicy, ShadowDtype


class StochasticWeightAverage(WeightAverage):
    """Keep the mean of the weights of the steps `start`, `start + every`, …

    Computed as ``shadow += (weight - shadow) / (n + 1)``. A step is a call of `update` or `skip`.
    Until the first of these steps the average is the model's weights of the last. Several points
    a cycle of the learning rate make it fast-SWA.

    Args:
        model: a paddle.nn.Layer of any dtype, on any place.
        start: the step, counted from 1, whose weights are the first to count; or text in another
            unit, such as "75 %" or "3 epochs", with `run`.
        every: steps between one point and the next, likewise.
        buffers, include, exclude, shadow_dtype, device: see WeightAverage.
        run: how long the run is, for durations in other units than updates.

    Raises:
        ArgumentError: an argument out of range, or a pattern that matches no parameter.
    Source: Izmailov et al., https://arxiv.org/abs/1803.05407; fast-SWA: Athiwaratkun et al.,
        https://arxiv.org/abs/1806.05594.
    """

    # Beside the points taken: which of the points due was the last, from 1.
    _COUNTERS: ClassVar[Counters] = {"num_points": 0, "last_point": 0}

    def __init__(
        self,
        model: Any,
        start: Duration = 1,
        every: Duration = 1,
        *,
        buffers: BufferPolicy = "average",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        shadow_dtype: ShadowDtype = "float32",
        device: Optional[str] = None,
        run: Optional[RunLength] = None,
    ) -> None:
        self._start = to_whole_steps("start", start, run)
        self._every = to_whole_steps("every", every, run)
        super().__init__(
            model,
            buffers=buffers,
            include=include,
            exclude=exclude,
            shadow_dtype=shadow_dtype,
            device=device,
        )

    @property
    def num_points(self) -> int:
        """Return how many sets of weights the mean is of."""
        return int(self._counters["num_points"])

    @property
    def first_step(self) -> int:
        """Return `start`."""
        return self._start

    def register(self, num_steps: int = 0) -> None:
        """Start again from the model's current weights, at t = 0, without points.

        Args:
            num_steps: of the run, that were done before; the next point is the next due.
        """
        super().register(num_steps)
        self._counters["last_point"] = self._points_due(num_steps)

    def _points_due(self, step: int) -> int:
        return max(0, (step - self._start) // self._every + 1)

    def _share_to_keep(self, t: int) -> float:
        step = self.num_steps + 1
        if step < self._start:
            # Points taken before a resume that made `start` later do not count any more.
            self._counters["num_points"] = self._counters["last_point"] = 0
            return 0.0
        point = self._points_due(step)
        if point == self._counters["last_point"]:
            return 1.0 if self.num_points else 0.0
        # A point whose step was skipped is taken late; those after it stay where they were due.
        self._counters["last_point"] = point
        self._counters["num_points"] += 1
        return 1.0 - 1.0 / self.num_points
