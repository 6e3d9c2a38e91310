"""One update of one average or of several, for which the weights are read once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Sequence

from . import kernels
from .background import BackgroundUpdate
from .fit import Counters
from .moving import MovingTensors
from .shadow import Part

if TYPE_CHECKING:
    from .updated import UpdatedAverage


class _Plan:
    """What an update will do to each average: its share kept, its weight, its counters after."""

    def __init__(self, averages: Sequence[UpdatedAverage]) -> None:
        self._averages = averages
        self.shares: list[float] = []
        self.weights: list[float] = []
        self._counters: dict[int, Counters] = {}
        for average in averages:
            self._add(average)

    def commit(self) -> None:
        """Give the averages the counters of after the update."""
        for average in self._averages:
            average._set_counters(self._counters[id(average)])

    def _add(self, average: UpdatedAverage) -> None:
        before = average._counters
        # Counted on a copy: where the tensors do not move, nothing has changed. An average that
        # is given twice goes on from there.
        after = dict(self._counters.get(id(average), before))
        self._counters[id(average)] = after
        try:
            average._settled_counters = after
            kept = average._share_to_keep(average.num_updates)
            after["num_updates"] += 1
            self.shares.append(kept)
            self.weights.append(average._fold(kept) if kept < 1.0 else 0.0)
        finally:
            # Not by a call, in which Ctrl-C could come before it is done.
            average._settled_counters = before


def update_all(averages: Sequence[UpdatedAverage], *, overlap: bool = False) -> list[float]:
    """Update several averages of the same weights, which are read once for all of them.

    Gives what `update` of one after the other gives, to the bit, and takes less time. A class
    with an `update` of its own is asked by that.

    Args:
        averages: of one model, or of models that share weights.
        overlap: where that gains, move them on a helper thread beside what the caller does next;
            each waits for that before it is read. The parameters must stay what they are until
            `wait` is called; BN statistics may move.

    Returns the share of the old average that each kept, in the order given.

    Raises:
        RuntimeError: an average is applied at the moment, or attached to an optimizer.
        FloatingPointError: a weight is NaN or infinite; these averages all stay what they were.
            With `overlap` it may be raised by what waits for the update, and so may a
            RuntimeError where a weight was written to in the meantime.
    """
    joining = [average for average in averages if not average._has_own_update]
    shares = iter(update_beside(joining) if overlap else update_together(joining))
    return [a.update() if a._has_own_update else next(shares) for a in averages]


def update_together(averages: Sequence[UpdatedAverage]) -> list[float]:
    """Update the averages, none of which is moved where one cannot be; see `update_all`."""
    if not averages:
        return []
    for average in averages:
        average._require_updatable()
    moving = _moving_tensors(averages)
    _require_finite(averages, moving)
    plan = _Plan(averages)
    if any(plan.weights):
        moving.hold()
        moving.move(plan.weights)
    plan.commit()
    return plan.shares


def update_beside(averages: Sequence[UpdatedAverage]) -> list[float]:
    """Do the same on the helper thread where that gains; see `update_all`."""
    able = [average for average in averages if not average._moves_itself]
    trained = _moving_tensors(able, "trained") if able else None
    gains = trained is not None and kernels.gains_in_background(trained.num_moved)
    if trained is None or not gains or not trained.is_on_host:
        return update_together(averages)
    for average in averages:
        average._require_updatable()
    # Whatever writes to a frozen parameter may do so at any time: it is copied at once.
    frozen = _moving_tensors(able, "frozen")
    checked = [average for average in averages if average.checks_finite]
    checks = bool(checked)
    if checks and (frozen.num_moved or not len(able) == len(checked) == len(averages)):
        # Before anything moves in line, and as the averages ask for it.
        _require_finite(averages, _moving_tensors(averages))
        checks = False
    done = update_together([average for average in averages if average._moves_itself])
    plan = _Plan(able)
    if any(plan.weights):
        frozen.hold()
        frozen.move(plan.weights)
    if checks or any(plan.weights):
        trained.hold()
        BackgroundUpdate(able, lambda: _check_and_move(trained, checks, plan)).start()
    else:
        plan.commit()
    inline, beside = iter(done), iter(plan.shares)
    return [next(inline if average._moves_itself else beside) for average in averages]


def _check_and_move(moving: MovingTensors, checks: bool, plan: _Plan) -> None:
    """Move and count, where no weight is NaN or infinite; raises otherwise."""
    fault = moving.first_non_finite() if checks else None
    if fault is not None:
        raise _non_finite_error(fault)
    moving.move(plan.weights)
    plan.commit()
    written = moving.written()
    if written:
        raise RuntimeError(
            f"{written[0]} was written to while an average was moving towards it, which may have "
            "taken a mix; set_state_dict() or register() mends it. Call wait() before you write to "
            "weights, or attach(optimizer, overlap=False)"
        )


def _moving_tensors(averages: Sequence[UpdatedAverage], part: Part = "all") -> MovingTensors:
    first, *others = (average._store for average in averages)
    return first.moving_tensors(others, part)


def _require_finite(averages: Sequence[UpdatedAverage], moving: MovingTensors) -> None:
    checked = [average for average in averages if average.checks_finite]
    if len(checked) < len(averages):
        if not checked:
            return
        moving = _moving_tensors(checked)
    fault = moving.first_non_finite()
    if fault is not None:
        raise _non_finite_error(fault)


def _non_finite_error(name: str) -> FloatingPointError:
    return FloatingPointError(f"{name} holds NaN or Inf; the average stays what it was")
