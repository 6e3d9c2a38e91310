"""The mean of the latest few snapshots of the weights."""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence

import paddle

from .average import WeightAverage
from .decay import ArgumentError
from .fit import describe_misfit, require_tensors
from .horizon import Duration, RunLength, to_whole_steps
from .shadow import BufferPolicy, ShadowDtype


class LatestWeightAverage(WeightAverage):
    """Keep the equal-weight mean of the latest `k` snapshots, one every `every` updates.

    Until the first snapshot the average is the model's weights of the last call of `update`.
    Costs `k` copies of the weights beside the mean, which is summed anew at each snapshot, so
    that nothing of a dropped one is left.

    Args:
        model: a paddle.nn.Layer of any dtype, on any place.
        k: how many snapshots the mean is of.
        every: calls of `update` between one snapshot and the next; or text in another unit, such
            as "1 epochs" or "1 %", with `run`.
        buffers, include, exclude, shadow_dtype, device: see WeightAverage.
        run: how long the run is, for durations in other units than updates.

    Raises:
        ArgumentError: an argument out of range, or a pattern that matches no parameter.
    Source: LAWA, https://arxiv.org/abs/2209.14981.
    """

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
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ArgumentError("k", "a whole number above 0", k)
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
    def first_update(self) -> int:
        """Return the call that takes the first snapshot."""
        return self._every

    def register(self) -> None:
        """Start again from the model's current weights, at t = 0, without snapshots."""
        super().register()
        self._snapshots = []

    def _share_to_keep(self, t: int) -> float:
        if (t + 1) % self._every == 0:
            return 1.0 - 1.0 / min(len(self._snapshots) + 1, self._k)
        return 1.0 if self._snapshots else 0.0

    def _fold(self, kept: float) -> float:
        if self.num_updates % self._every:
            return super()._fold(kept)
        self._snapshots = [*self._snapshots, self._store.live_copies()][-self._k :]
        self._store.set_mean(self._snapshots)
        self._counters["initial_share"] = 0.0
        self._counters["share_squares"] = 1.0 / len(self._snapshots)
        return 0.0

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
        # Fewer where k was made smaller.
        self._snapshots = [_to_tensors(snapshot, shadow) for snapshot in snapshots][-self._k :]


def _to_tensors(snapshot: Mapping[str, Any], shadow: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: paddle.to_tensor(tensor, place=shadow[name].place)
        if not paddle.is_tensor(tensor)
        else tensor.to(shadow[name].place)
        for name, tensor in snapshot.items()
    }
