"""How the update's cost grows with tensors, weights and averages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Sequence

import ppema

from ..limit import Limit
from ..paths import by_kernels, load_compiled
from ..rows import Findings, Reach
from ..settings import Settings
from ..shapes import Size, Tensors, equal_tensors
from ..timing import Contender, Entry, Unit, measure_group, repeated
from .update import DECAY, MIN_WEIGHTS_OF_TWO

# What noise may add to a cost that does not grow.
_TOLERANCE = 1.15
# What one tensor more may cost, as in the row of 2,000 small tensors.
_MAX_US_A_TENSOR = 1.85


def measure(settings: Settings) -> Findings:
    """Measure the cost of a weight over tensors, weights and averages."""
    findings = Findings()
    if load_compiled() is None:
        findings.notes.append("numba is not installed; this is the growth of the plain path")
    findings.add(_over_tensors(settings))
    findings.add(_over_weights(settings))
    findings.add(_over_averages(settings))
    return findings


def _over_tensors(settings: Settings) -> Findings:
    """Cut the same weights into more and more tensors."""
    total = 100_000 if settings.is_quick else 10_000_000
    counts = (10, 100) if settings.is_quick else (10, 100, 1_000, 10_000)
    group = f"{total:,} weights in so many tensors"
    entries = [
        _own_entry(f"ppema: {count:,} tensors", equal_tensors(count, total // count), settings)
        for count in counts
    ]
    entries = [
        replace(entry, base=entries[0].name if index else None, x=counts[index])
        for index, entry in enumerate(entries)
    ]
    unit = Unit("ns a weight", 1e9 / total)
    few, *many = measure_group(group, entries, settings.rounds_or(15), unit)
    # Each tensor costs something; that must be what it costs in a small model.
    ns_a_tensor = 1e3 * _MAX_US_A_TENSOR / (few.median * total)
    limits = [_TOLERANCE + ns_a_tensor * count for count in counts[1:]]
    return Findings([few, *(replace(row, reach=Reach(x, "ratio")) for row, x in zip(many, limits))])


def _over_weights(settings: Settings) -> Findings:
    """Let the model grow, and compare with the limit of each size."""
    totals: Sequence[int] = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
    rows, group, previous = [], "so many weights in 100 tensors", None
    for total in totals[:2] if settings.is_quick else totals:
        limit_name, own_name = f"limit: {total:,} weights", f"ppema: {total:,} weights"
        limit = Limit(total)
        threads = 2 if total >= MIN_WEIGHTS_OF_TWO else 1
        moved = repeated(lambda limit=limit, n=threads: limit.move(n), settings.least_s)  # type: ignore[misc]
        own = _own_entry(own_name, equal_tensors(100, total // 100), settings)
        entries = [
            Entry(limit_name, moved, x=total),
            replace(own, base=limit_name, x=total),
        ]
        unit = Unit("ns a weight", 1e9 / total)
        limit_row, own_row = measure_group(group, entries, settings.rounds_or(15), unit)
        if previous is not None:
            own_row = replace(own_row, reach=Reach(_TOLERANCE * previous, "ratio"))
        rows += [limit_row, own_row]
        previous = own_row.ratio
    return Findings(rows)


def _over_averages(settings: Settings) -> Findings:
    """Keep more and more averages of the same weights, all updated together."""
    size = equal_tensors(100, 1_000 if settings.is_quick else 250_000)
    counts = (1, 2) if settings.is_quick else (1, 2, 4, 8, 16)
    model = Tensors(size)
    averages = [_average_of(model) for _ in range(max(counts))]
    entries: list[Entry] = []
    for count in counts:
        name, base = f"ppema: {count} averages", entries[0].name if entries else None
        # Each weight is read once, and each average is read and written.
        reach = Reach((1 + 2 * count) / (3 * count), "ratio") if entries else None
        contender = _divided(_contender(averages[:count], settings), count)
        entries.append(Entry(name, contender, base, reach, x=count))
    unit = Unit("ns a weight of an average", 1e9 / size.num_weights)
    group = f"so many averages of {size.num_weights:,} weights"
    return Findings(measure_group(group, entries, settings.rounds_or(15), unit))


def _divided(contender: Contender, count: int) -> Contender:
    return lambda: contender() / count


def _own_entry(name: str, size: Size, settings: Settings) -> Entry:
    return Entry(name, _contender([_average_of(Tensors(size))], settings))


def _average_of(model: Any) -> Any:
    average = ppema.ExponentialMovingAverage(model, DECAY, schedule="constant")
    average.checks_finite = False
    return average


def _contender(averages: Sequence[Any], settings: Settings) -> Contender:
    compiled = load_compiled()
    return repeated(
        lambda: ppema.update_all(averages), settings.least_s, lambda: by_kernels(compiled)
    )
