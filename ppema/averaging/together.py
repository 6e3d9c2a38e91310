"""One update of one average or of several, for which the weights are read once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Sequence

from .moving import MovingTensors

if TYPE_CHECKING:
    from .average import WeightAverage


def update_together(averages: Sequence[WeightAverage]) -> list[float]:
    """Update the averages, none of which is moved where one cannot be.

    Returns and raises what `update_all` does.
    """
    if not averages:
        return []
    for average in averages:
        average._require_raw("update()")
    moving = _moving_tensors(averages)
    _require_finite(averages, moving)
    shares, weights = [], []
    for average in averages:
        kept = average._share_to_keep(average.num_updates)
        average._counters["num_updates"] += 1
        shares.append(kept)
        weights.append(average._fold(kept) if kept < 1.0 else 0.0)
    if any(weights):
        moving.blend(weights)
    return shares


def _moving_tensors(averages: Sequence[WeightAverage]) -> MovingTensors:
    first, *others = (average._store for average in averages)
    return first.moving_tensors(others)


def _require_finite(averages: Sequence[WeightAverage], moving: MovingTensors) -> None:
    checked = [average for average in averages if average.checks_finite]
    if len(checked) < len(averages):
        if not checked:
            return
        moving = _moving_tensors(checked)
    fault = moving.first_non_finite()
    if fault is not None:
        raise FloatingPointError(f"{fault} holds NaN or Inf; the average stays what it was")
