"""Make an EMA of any length, as of any step of a finished run, from the run's snapshots."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional, Sequence

from ..averaging import combine_states, posthoc_coefficients, posthoc_residual
from ..errors import CheckpointError, ConfigError
from ..metrics import Evaluation
from ..progress import track
from .candidates import Candidates
from .snapshots import SNAPSHOTS, Snapshot

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """The average that is wanted: a power function's relative width, or a half-life in updates."""

    sigma_rel: Optional[float] = None
    half_life: Optional[float] = None

    def __str__(self) -> str:
        if self.sigma_rel is not None:
            return f"sigma_rel {self.sigma_rel:.4g}"
        return f"half_life {self.half_life:.6g}"

    @property
    def file_stem(self) -> str:
        """Return it as a part of a file name."""
        return str(self).replace(" ", "_")


@dataclass(frozen=True)
class Trial:
    """An average that was made: of what, how well its profile was met, how it evaluates.

    Attributes:
        target: what was wanted.
        coefficients: of each snapshot file; they sum to 1.
        residual: how far the profile that was met is from the one wanted, relative, L2.
        evaluation: of the weights.
    """

    target: Target
    coefficients: dict[str, float]
    residual: float
    evaluation: Evaluation

    def __str__(self) -> str:
        total = math.fsum(self.coefficients.values())
        return (
            f"{self.target}: {self.evaluation}  residual {100 * self.residual:.3g} %  "
            f"coefficients sum to {total:.9f}"
        )

    def facts(self) -> dict[str, Any]:
        """Return all that a record of it needs, as plain values."""
        wanted = {key: value for key, value in asdict(self.target).items() if value is not None}
        made = {"residual": self.residual, "coefficients": self.coefficients}
        return {**wanted, **self.evaluation.as_dict(), **made}


class SnapshotSet:
    """The snapshots of a run that an average as of one step can be made from.

    Args:
        folder: the run's folder.
        manifest: of its checkpoint that lists the snapshots.
        step: the moment the average is as of; None for the last snapshot's.
        leave_out: the names of averages whose snapshots are not to be used.

    Raises:
        ConfigError: no snapshots, or none as late as `step`.
        CheckpointError: averages that did not begin together, or all snapshots are damaged.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Mapping[str, Any],
        step: Optional[int] = None,
        leave_out: Sequence[str] = (),
    ) -> None:
        taken = read_list(manifest, folder)
        names = list(dict.fromkeys(snapshot.average for snapshot in taken))
        for name in leave_out:
            if name not in names:
                raise ConfigError(
                    f"there are no snapshots of {name!r}; there are of {', '.join(names)}"
                )
        self.snapshots = [snapshot for snapshot in taken if snapshot.average not in leave_out]
        if not self.snapshots:
            raise ConfigError(f"no snapshots are left without {', '.join(leave_out)}")
        self._folder = folder / SNAPSHOTS
        self.snapshots = _whole(self.snapshots, self._folder)
        _require_common_start(self.snapshots)
        self.step = self.snapshots[-1].step if step is None else step
        self.time = _time_of(self.step, self.snapshots)

    @property
    def averages(self) -> dict[str, float]:
        """Return the widths of the averages that the snapshots are of, by name."""
        return {snapshot.average: snapshot.sigma_rel for snapshot in self.snapshots}

    def __str__(self) -> str:
        widths = ", ".join(f"{name} ({width:g})" for name, width in self.averages.items())
        return (
            f"{len(self.snapshots)} snapshots of {widths}; as of step {self.step}, "
            f"update {self.time}"
        )

    def steps_near(self) -> list[int]:
        """Return the last step with a snapshot up to the one wanted, and the first from there."""
        steps = {snapshot.step for snapshot in self.snapshots}
        before = [step for step in steps if step <= self.step]
        return sorted({*(before and [max(before)]), min(s for s in steps if s >= self.step)})

    def coefficients(
        self, target: Target, time: Optional[int] = None
    ) -> tuple[dict[str, float], float]:
        """Return how much of each file makes the wanted profile, and the residual left.

        As of the update `time`; None for that of the step.
        """
        times = [float(snapshot.time) for snapshot in self.snapshots]
        widths = [snapshot.sigma_rel for snapshot in self.snapshots]
        wanted = (self.time if time is None else time, target.sigma_rel, target.half_life)
        found = posthoc_coefficients(times, widths, *wanted)
        by_file = {s.file_name: float(x) for s, x in zip(self.snapshots, found)}
        return by_file, posthoc_residual(times, widths, *wanted)

    def combine(self, coefficients: Mapping[str, float]) -> dict[str, Any]:
        """Return the weighted sum of the files.

        Raises:
            CheckpointError: a snapshot is missing, not what the manifest lists, or does not fit.
        """
        # What is no average is taken from the last one read: the one nearest to the step.
        ordered = sorted(self.snapshots, key=lambda snapshot: -abs(snapshot.step - self.step))
        copied = {name for snapshot in ordered for name in snapshot.copied}
        try:
            return combine_states(
                (
                    (snapshot.file_name, snapshot.read(self._folder))
                    for snapshot in track(ordered, len(ordered), "combining snapshots")
                ),
                [coefficients[snapshot.file_name] for snapshot in ordered],
                copied,
            )
        except ValueError as error:
            raise CheckpointError(f"{self._folder}: {error}") from None

    def read(self, snapshot: Snapshot) -> dict[str, Any]:
        """Return the tensors of a snapshot of the run, also of one that is left out.

        Raises:
            CheckpointError: it is missing, or not what the manifest lists.
        """
        return snapshot.read(self._folder)


def try_targets(
    targets: Sequence[Target], snapshots: SnapshotSet, candidates: Candidates
) -> Iterator[Trial]:
    """Yield each wanted average, made and evaluated.

    Raises:
        CheckpointError: a snapshot is missing or damaged, or does not fit the model.
        NonFiniteError: the weights are not finite.
    """
    for target in targets:
        coefficients, residual = snapshots.coefficients(target)
        evaluation = candidates.evaluate(snapshots.combine(coefficients), str(target))
        yield Trial(target, coefficients, residual, evaluation)


def verify(name: str, snapshots: SnapshotSet, manifest: Mapping[str, Any]) -> str:
    """Make a tracked average from the snapshots of the others; say how near it comes.

    Raises:
        ConfigError: there is no snapshot of it at the step.
        CheckpointError: a snapshot is missing or damaged.
    """
    taken = (Snapshot(**entry) for entry in manifest["snapshots"])
    found = [s for s in taken if s.average == name and s.step == snapshots.step]
    if not found:
        raise ConfigError(f"there is no snapshot of {name} at step {snapshots.step}")
    (tracked,) = found
    # With another update_every it may be of another moment than the others.
    time = min(tracked.time, max(snapshot.time for snapshot in snapshots.snapshots))
    coefficients, residual = snapshots.coefficients(Target(sigma_rel=tracked.sigma_rel), time)
    difference = relative_difference(
        snapshots.combine(coefficients), snapshots.read(tracked), tracked.copied
    )
    return (
        f"{name} (sigma_rel {tracked.sigma_rel:g}) made of the others differs by "
        f"{100 * difference:.3g} % from the tracked one (relative L2); residual of the profile "
        f"{100 * residual:.3g} %; coefficients sum to {math.fsum(coefficients.values()):.9f}"
    )


def relative_difference(
    made: Mapping[str, Any], tracked: Mapping[str, Any], copied: Sequence[str]
) -> float:
    """Return the L2 norm of made minus tracked averages, over that of the tracked."""
    difference = norm = 0.0
    for name, tensor in tracked.items():
        if tensor.is_floating_point() and name not in copied:
            wide = tensor.astype("float64")
            difference += float(((made[name].astype("float64") - wide) ** 2).sum())
            norm += float((wide**2).sum())
    return math.sqrt(difference / norm)


def read_list(manifest: Mapping[str, Any], folder: Path) -> list[Snapshot]:
    """Return the snapshots that a manifest lists.

    Raises:
        ConfigError: none.
    """
    if not manifest["snapshots"]:
        raise ConfigError(
            f"{folder} lists no snapshots; train with two PowerFunctionEMA among the Averages "
            "and posthoc_every: 2 % (see configs/lenet_mnist_posthoc.yml)"
        )
    return [Snapshot(**entry) for entry in manifest["snapshots"]]


def _whole(snapshots: Sequence[Snapshot], folder: Path) -> list[Snapshot]:
    """Return those whose files are what the manifest lists; name the others in a warning."""
    whole = [
        snapshot
        for snapshot in track(snapshots, len(snapshots), "checking snapshots")
        if snapshot.is_whole(folder / snapshot.file_name)
    ]
    for snapshot in snapshots:
        if snapshot not in whole:
            path = folder / snapshot.file_name
            logger.warning(
                "%s: %s; made without it",
                path,
                "checksum differs" if path.exists() else "is missing",
            )
    if not whole:
        raise CheckpointError(f"{folder}: all {len(snapshots)} snapshots are damaged or missing")
    return whole


def _require_common_start(snapshots: Sequence[Snapshot]) -> None:
    """Refuse averages of which one began later: their profiles are over other times."""
    updates: dict[str, tuple[int, int]] = {}
    for snapshot in snapshots:
        now = (snapshot.step, snapshot.num_updates)
        for name, before in updates.items():
            is_together = before[1] == now[1] if before[0] == now[0] else before[1] <= now[1]
            if not is_together:
                raise CheckpointError(
                    f"{snapshot.average} and {name} did not begin together (after "
                    f"{now[1]} updates at step {now[0]}, {before[1]} at step {before[0]}); name "
                    "the one to do without by --leave_out"
                )
        updates[snapshot.average] = now


def _time_of(step: int, snapshots: Sequence[Snapshot]) -> int:
    """Return the update that a step of the run was for the averages.

    Raises:
        ConfigError: before the first update, after the last snapshot, or between two snapshots
            between which steps were left out.
    """
    later = [snapshot for snapshot in snapshots if snapshot.step >= step]
    if not later:
        raise ConfigError(f"--step {step}: the last snapshot is of step {snapshots[-1].step}")
    at_step = [snapshot.time for snapshot in later if snapshot.step == step]
    if at_step:
        # An average that folds in every k-th update ends with the last of them.
        return max(at_step)
    before = [(s.step, s.num_updates) for s in snapshots if s.step < step] or [(0, 0)]
    (first_step, first_update), last = before[-1], later[0]
    if last.num_updates - first_update != last.step - first_step:
        raise ConfigError(
            f"--step {step}: steps were left out of the averages around it; take one with a "
            f"snapshot, {f'{first_step} or ' if first_step else ''}{last.step}"
        )
    time = first_update + step - first_step
    if time < 1:
        raise ConfigError(f"--step {step}: the averages have no update there")
    return min(time, max(snapshot.time for snapshot in snapshots))
