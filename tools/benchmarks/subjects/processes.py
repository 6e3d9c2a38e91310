"""Several processes of one thread each: what they train, and what an average costs in each."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass

from ppema.machine import num_cores

from .. import loopback
from ..data import Archives, open_archives
from ..rank_group import RankGroup
from ..rows import Findings, Reach, Row, ratios_of
from ..settings import Settings
from ..timing import (
    MICROSECONDS,
    MILLISECONDS,
    Contender,
    Entry,
    Unit,
    can_hold_to_one_core,
    measure_group,
)

BATCH_SIZE = 64
_NUM_RANKS = 2
_ALONE, _WHOLE, _SPREAD = "1 process", "2 processes, each the whole", "2 processes, each its part"
_NOT_HELD = "this system cannot hold a process to one core; a process may use more"


@dataclass(frozen=True)
class _Training:
    """So many processes, and the images of each in a step."""

    num_ranks: int
    batch_size: int

    @property
    def num_images(self) -> int:
        return self.num_ranks * self.batch_size

    def __str__(self) -> str:
        plural = "es" if self.num_ranks > 1 else ""
        return f"{self.num_ranks} process{plural} of {self.batch_size}"


_BASE = _Training(1, BATCH_SIZE)
# As the config is shipped, which says the images of each process.
_TO_REACH = _Training(2, BATCH_SIZE)
_TRAININGS = [_BASE, _TO_REACH, _Training(4, BATCH_SIZE), _Training(2, 32), _Training(4, 16)]


def measure(settings: Settings) -> Findings:
    """Measure images a second, then the average of each model in two processes."""
    with open_archives(settings) as archives, tempfile.TemporaryDirectory() as scratch:
        findings = _measure_training(archives, scratch, settings)
        findings.notes.append(f"data: {archives.source}")
    models = {"LeNet": "LeNet"} if settings.is_quick else {"LeNet": "LeNet", "ResNet50": "resnet50"}
    with contextlib.ExitStack() as stack:
        group = RankGroup("average_process", num_ranks=_NUM_RANKS)
        stack.callback(group.close)
        for title, model in models.items():
            findings.add(_measure_average(group, title, model, settings))
    if not can_hold_to_one_core():
        findings.notes.append(_NOT_HELD)
    return findings


def _measure_training(archives: Archives, scratch: str, settings: Settings) -> Findings:
    """Have all groups of processes alive at once, of which only one computes at a time."""
    trainings = _TRAININGS[:2] if settings.is_quick else _TRAININGS
    num_steps = 4 if settings.is_quick else 50
    with contextlib.ExitStack() as stack:
        entries = []
        for training in trainings:
            arguments = "ranks", str(archives.folder), f"{scratch}/{training}"
            batch_size = str(training.batch_size)
            group = RankGroup("train_process", *arguments, batch_size, num_ranks=training.num_ranks)
            stack.callback(group.close)
            base = None if training == _BASE else str(_BASE)
            reach = Reach(1.3, "ratio", at_least=True) if training == _TO_REACH else None
            entries.append(Entry(str(training), _block(group, training, num_steps), base, reach))
        # Once untimed: the first block waits for imports and data.
        for entry in entries:
            entry.contender()
        name = "training LeNet with an average: processes of one thread, images of each in a step"
        unit = Unit("images/s", BATCH_SIZE, is_rate=True)
        rows = measure_group(name, entries, settings.rounds_or(21), unit)
    more = [str(training) for training in trainings if training.num_ranks > num_cores()]
    notes = [f"only {num_cores()} cores for: {'; '.join(more)}"] if more else []
    return Findings(rows, notes)


def _block(group: RankGroup, training: _Training, num_steps: int) -> Contender:
    """Return a contender that gives the seconds of as many images as a step of the base has."""

    def contend() -> float:
        # The last of them to be done.
        seconds = max(map(float, group.ask("block", steps=num_steps)))
        return seconds / num_steps * BATCH_SIZE / training.num_images

    return contend


def _measure_average(group: RankGroup, title: str, model: str, settings: Settings) -> Findings:
    held = group.ask("prepare", model=model)
    size = f"{title}, {held[0]['weights'] // 4:,} weights"
    is_small = held[0]["weights"] < 1e6
    unit, repeats = (MICROSECONDS, 200) if is_small else (MILLISECONDS, 3)
    rounds = settings.rounds_or(15)
    entries = [
        Entry(_ALONE, lambda: float(_ask_alone(group, repeats))),
        Entry(_WHOLE, lambda: _slowest_s(group, "whole", repeats), _ALONE),
        Entry(_SPREAD, lambda: _slowest_s(group, "spread", repeats), _ALONE),
    ]
    findings = Findings(measure_group(f"an update: {size}", entries, rounds, unit))
    findings.rows += _held_rows(f"bytes of the average in a process: {size}", held)
    pieces = {"gathering the spread average": "gather"}
    if held[0]["statistics"]:
        pieces = {"all-reduce of BN statistics": "statistics", **pieces}
    entries = [
        Entry(name, lambda piece=piece: _slowest_s(group, piece, 1))  # type: ignore[misc]
        for name, piece in pieces.items()
    ]
    title = f"what a save exchanges between 2 processes: {size}"
    findings.rows += measure_group(title, entries, rounds, MILLISECONDS)
    if loopback.can_measure():
        findings.rows += _sent_rows(group, size, pieces, held[0], min(rounds, 5))
    return findings


def _ask_alone(group: RankGroup, repeats: int) -> float:
    return float(group.ask_first("measure", piece="whole", repeats=repeats, together=False))


def _slowest_s(group: RankGroup, piece: str, repeats: int) -> float:
    return max(map(float, group.ask("measure", piece=piece, repeats=repeats)))


def _held_rows(title: str, held: list[dict[str, int]]) -> list[Row]:
    """Return the bytes of an average: whole, and what of it the fullest process has."""
    whole, spread = ((max(each[key] for each in held) / 1e6,) for key in ("whole", "spread"))
    return [
        Row(title, _WHOLE, "MB", whole),
        Row(title, _SPREAD, "MB", spread, _WHOLE, ratios_of(spread, whole)),
    ]


def _sent_rows(
    group: RankGroup, size: str, pieces: dict[str, str], held: dict[str, int], rounds: int
) -> list[Row]:
    """Return what each of the pieces sends from a process, beside what has to be sent.

    Of statistics a ring sends 2 (n - 1) / n from each process: all of them, where n is two. Of
    the spread average each process sends the half that it has; the statistics are exchanged before.
    """
    title = f"bytes that a process sends: {size}"
    to_send = {
        "statistics": held["statistics"],
        "gather": (held["weights"] - held["statistics"]) / 2 + held["statistics"],
    }
    rows = []
    for name, piece in pieces.items():
        computed = (to_send[piece] / 1e6,) * rounds
        sent = tuple(_sent_bytes(group, piece) / 1e6 for _ in range(rounds))
        ratios = ratios_of(sent, computed)
        rows.append(Row(title, f"{name}, computed", "MB", computed))
        rows.append(Row(title, name, "MB", sent, f"{name}, computed", ratios))
    return rows


def _sent_bytes(group: RankGroup, piece: str) -> float:
    """Return the bytes of one call in each process."""
    before = loopback.bytes_sent()
    # `measure` calls once more, untimed.
    group.ask("measure", piece=piece, repeats=4)
    return (loopback.bytes_sent() - before) / 5 / _NUM_RANKS
