"""What an average takes beside the model, and what updating, swapping and saving add."""

from __future__ import annotations

from typing import Any

from ..remote import Remote
from ..resident import can_measure
from ..rows import Findings, Reach, Row, ratios_of
from ..settings import Settings

_WEIGHTS, _FILE = "the model's weights", "the largest file"
_OPERATIONS = {
    "update": "an update",
    "update_plainly": "an update without numba",
    "swap": "apply and restore",
}


def measure(settings: Settings) -> Findings:
    """Measure in a process of its own, after each operation has run once."""
    if not can_measure():
        note = "this system does not tell how high a process's memory was; nothing is measured"
        return Findings(notes=[note])
    model = "resnet18" if settings.is_quick else "resnet50"
    remote = Remote("memory_process")
    try:
        held = remote.ask("prepare", model=model)
        rounds = settings.rounds_or(5)
        found = {
            operation: [remote.ask("measure", operation=operation) for _ in range(rounds)]
            for operation in (*_OPERATIONS, "save")
        }
    finally:
        remote.close()
    return Findings(_rows(model, held, found))


def _rows(model: str, held: dict[str, int], found: dict[str, Any]) -> list[Row]:
    group = f"{model} and its average: bytes that are held"
    weights, shadows = (held["weights"] / 1e6,), (held["shadows"] / 1e6,)
    rows = [
        Row(group, _WEIGHTS, "MB", weights),
        Row(group, "ppema's shadows", "MB", shadows, _WEIGHTS, ratios_of(shadows, weights)),
    ]
    for kind in ("resident", "allocated"):
        group = f"{model} and its average: bytes added for a moment, {kind}"
        for operation, name in _OPERATIONS.items():
            samples = tuple(each[kind] / 1e6 for each in found[operation])
            rows.append(Row(group, name, "MB", samples, reach=Reach(1.0, "median")))
        files = tuple(each["largest_file"] / 1e6 for each in found["save"])
        samples = tuple(each[kind] / 1e6 for each in found["save"])
        ratios, reach = ratios_of(samples, files), Reach(2.2, "ratio")
        rows.append(Row(group, _FILE, "MB", files))
        rows.append(Row(group, "saving a checkpoint", "MB", samples, _FILE, ratios, reach))
    return rows
