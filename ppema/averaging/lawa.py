"""The mean of the latest few snapshots of the weights."""

from __future__ import annotations

from typing import Any, ClassVar, Mapping, Optional, Sequence

import paddle

from . import ranks
from .average import WeightAverage
from .decay import require_whole
from .fit import Counters, describe_misfit, require_tensors
from .horizon import Duration, RunLength, to_whole_steps
from .place import at_place
from .shadow import BufferPolicy, ShadowDtype


class LatestWeightAverage(WeightAverage):
    """Keep the equal-weight mean of the latest `k` snapshots, one every `every` updates.

    Until the first snapshot the average is the model's weights of the last call of `update`.
    Costs `k` copies of the weights beside the mean, which is summed anew at each snapshot, so
    that nothing of a dropped one is left.

    Args:
        model: a paddle.nn.Layer of any dtype, on any place.
        k: how many snapshots the mean is of.
        every: steps (calls of `update` or `skip`) between one snapshot and the next; or text in
            another unit, such as "1 epochs" or "1 %", with `run`.
        buffers, include, exclude, shadow_dtype, device: see WeightAverage.
        run: how long the run is, for durations in other units than updates.

    Raises:
        ArgumentError: an argument out of range, or a pattern that matches no parameter.
    Source: LAWA, https://arxiv.org/abs/2209.14981.
    """

    # Which of the snapshots due was the last, from 1.
    _COUNTERS: ClassVar[Counters] = {"last_snapshot": 0}

    def __init__(
        self,
        model: Any,
        k: int = 5,
        every: Duration = 1,
        *,
        buffers: BufferPolicy = "average",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        shadow_dtype: ShadowDtype = "float32",
        device: Optional[str] = None,
        run: Optional[RunLength] = None,
    ) -> None:
        require_whole("k", k)
        self._k, self._every = k, to_whole_steps("every", every, run)
        self._snapshots: list[dict[str, Any]] = []
        super().__init__(
            model,
            buffers=buffers,
            include=include,
            exclude=exclude,
            shadow_dtype=shadow_dtype,
            device=device,
        )

    @property
    def first_step(self) -> int:
        """Return the step that takes the first snapshot."""
        return self._every

    def register(self, num_steps: int = 0) -> None:
        """Start again from the model's current weights, at t = 0, without snapshots.

        Args:
            num_steps: of the run, that were done before; the next snapshot is the next due.
        """
        super().register(num_steps)
        self._snapshots = []
        self._counters["last_snapshot"] = num_steps // self._every

    def _share_to_keep(self, t: int) -> float:
        if (self.num_steps + 1) // self._every == self._counters["last_snapshot"]:
            return 1.0 if self._snapshots else 0.0
        return 1.0 - 1.0 / min(len(self._snapshots) + 1, self._k)

    def _fold(self, kept: float) -> float:
        # A snapshot whose step was skipped is taken late; those after it stay where they were due.
        due = self.num_steps // self._every
        if due == self._counters["last_snapshot"]:
            return super()._fold(kept)
        self._counters["last_snapshot"] = due
        self._snapshots = [*self._snapshots, self._store.live_copies()][-self._k :]
        self._take_mean()
        return 0.0

    def _take_mean(self) -> None:
        self._store.set_mean(self._snapshots)
        self._counters["initial_share"] = 0.0
        self._counters["share_squares"] = 1.0 / len(self._snapshots)

    def all_reduce_statistics(self) -> None:
        """Make BN statistics, those of the snapshots too, their mean over all processes.

        Raises:
            RuntimeError: the average is applied at the moment.
        """
        super().all_reduce_statistics()
        names = list(self._store.statistics())
        ranks.all_reduce_mean([s[name] for s in self._snapshots for name in names])

    def state_dict(self) -> dict[str, Any]:
        """Return all that an exact continuation needs, the snapshots too, oldest first."""
        return {**super().state_dict(), "snapshots": list(self._snapshots)}

    def set_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`; nothing changes where it does not fit.

        Raises:
            RuntimeError: the average is applied at the moment.
            ValueError: another kind of average, or names, shapes or dtypes that do not fit.
        """
        snapshots = state.get("snapshots", []) if isinstance(state, Mapping) else []
        if not isinstance(snapshots, list):
            raise ValueError("the snapshots of a state are a list; here they are not")
        shadow = self._store.averages()
        for index, snapshot in enumerate(snapshots):
            require_tensors(snapshot)
            misfit = describe_misfit(shadow, snapshot)
            if misfit:
                raise ValueError(f"snapshot {index}: {misfit}")
        super().set_state_dict(state)
        self._snapshots = [_to_tensors(snapshot, shadow) for snapshot in snapshots][-self._k :]
        if len(self._snapshots) < len(snapshots):
            # k was made smaller: the mean is of those that are left.
            self._take_mean()


def _to_tensors(snapshot: Mapping[str, Any], shadow: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: paddle.to_tensor(tensor, place=shadow[name].place)
        if not paddle.is_tensor(tensor)
        else at_place(tensor, shadow[name].place)
        for name, tensor in snapshot.items()
    }
