"""What a measurement gives: rows of samples, their ratios to another row, the figure to reach."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Literal, Optional, Sequence


@dataclass(frozen=True)
class Reach:
    """The figure that a row has to reach.

    Args:
        limit: the figure itself.
        of: whether the ratio or the median has to reach it.
        at_least: whether more is better.
    """

    limit: float
    of: Literal["ratio", "median"]
    at_least: bool = False

    def is_met_by(self, value: float) -> bool:
        """Tell whether a value reaches it."""
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True)
class Row:
    """One thing measured.

    Args:
        group: the rows that stand together in a table and a picture.
        name: what was measured.
        unit: of the samples.
        samples: one a round, in the order of the rounds.
        base: the name of the row of the same group that the ratios are to.
        ratios: of each round, this row's sample over the base's.
        reach: what is to be reached, None for a row that is there to be compared with.
        x: what the group varies; such a group is drawn as a line.
    """

    group: str
    name: str
    unit: str
    samples: tuple[float, ...]
    base: Optional[str] = None
    ratios: tuple[float, ...] = ()
    reach: Optional[Reach] = None
    x: Optional[float] = None

    @property
    def median(self) -> float:
        """Return the median of the samples."""
        return statistics.median(self.samples)

    @property
    def ratio(self) -> Optional[float]:
        """Return the median of the ratios, None for a row without a base."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def range(self) -> Optional[tuple[float, float]]:
        """Return the least and the largest ratio, None for a row without a base."""
        return (min(self.ratios), max(self.ratios)) if self.ratios else None

    @property
    def quartiles(self) -> tuple[float, float]:
        """Return the samples' first and third quartile."""
        if len(self.samples) < 2:
            return self.samples[0], self.samples[0]
        first, _, third = statistics.quantiles(self.samples, n=4, method="inclusive")
        return first, third

    @property
    def is_met(self) -> Optional[bool]:
        """Tell whether the row reaches its figure, None where it has none to reach."""
        if self.reach is None:
            return None
        value = self.ratio if self.reach.of == "ratio" else self.median
        return value is not None and self.reach.is_met_by(value)


@dataclass
class Findings:
    """The rows of a subject, and what has to be said beside them."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, other: Findings) -> None:
        """Take in what another measurement found; a note that is there already is not repeated."""
        self.rows += other.rows
        self.notes += [note for note in other.notes if note not in self.notes]


def ratios_of(samples: Sequence[float], base: Sequence[float]) -> tuple[float, ...]:
    """Return, round by round, a row's samples over those of its base."""
    return tuple(sample / other for sample, other in zip(samples, base))
