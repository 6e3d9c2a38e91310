"""The update of an average: against the limit, and against what users have today."""

from __future__ import annotations

import contextlib
from typing import Any, Iterator, Optional

import ppema

from ..limit import Limit, LimitOnTensors, compiled_library
from ..paths import by_kernels, load_compiled
from ..remote import Remote
from ..rivals import CopiedAverage, LerpAverage, StateDictAverage
from ..rows import Findings, Reach
from ..settings import Settings
from ..shapes import Size, Tensors, equal_tensors, lenet, resnet50, vit_b16
from ..timing import (
    MICROSECONDS,
    MILLISECONDS,
    Entry,
    Unit,
    can_hold_to_one_core,
    measure_group,
    one_core,
    repeated,
)

DECAY = 0.9998
C1, C2 = "limit, 1 thread", "limit, 2 threads"
C1_ON_TENSORS = "limit on Paddle's tensors, 1 thread"
PPEMA_1, PPEMA_2 = "ppema, 1 thread", "ppema"
# From here on a second thread pays, and the limit is that of two.
MIN_WEIGHTS_OF_TWO = 5_000_000


def measure(settings: Settings) -> Findings:
    """Measure one update of each size, then of several averages at once."""
    findings = Findings()
    for size in _sizes(settings):
        findings.add(_measure_size(size, settings))
    several = equal_tensors(4, 1000) if settings.is_quick else resnet50()
    findings.add(_measure_several(several, settings))
    return findings


def _sizes(settings: Settings) -> list[Size]:
    if settings.is_quick:
        return [lenet(), equal_tensors(20, 100)]
    return [lenet(), resnet50(), vit_b16(), equal_tensors(2000, 1000)]


def _measure_size(size: Size, settings: Settings) -> Findings:
    model = Tensors(size)
    is_large = size.num_weights >= MIN_WEIGHTS_OF_TWO
    unit, reach = _unit_and_reach(size)
    entries, notes = _limits(size, model, settings, is_large)
    own, own_notes = _own(model, settings, is_large, reach)
    entries += [*own, *_rivals(model, settings)]
    if settings.torch is not None:
        entries += _torch(size, settings.torch, settings.least_s, is_large)
    else:
        notes.append("torch is not installed here (see --torch); its rows are left out")
    rows = measure_group(str(size), entries, settings.rounds_or(15), unit)
    return Findings(rows, [*notes, *own_notes])


def _unit_and_reach(size: Size) -> tuple[Unit, Optional[Reach]]:
    """Return what the figures of a size are in, and what a small one has to reach in that."""
    if size.name == "LeNet":
        return MICROSECONDS, Reach(24.0, "median")
    if size.name == "equal tensors":
        return Unit("µs a tensor", 1e6 / len(size.shapes)), Reach(1.85, "median")
    return MILLISECONDS, None


def _limits(
    size: Size, model: Any, settings: Settings, is_large: bool
) -> tuple[list[Entry], list[str]]:
    limit, library = Limit(size.num_weights), compiled_library()
    entries = [Entry(C1, repeated(lambda: limit.move(1), settings.least_s))]
    if is_large:
        entries.append(Entry(C2, repeated(lambda: limit.move(2), settings.least_s)))
    if library is not None:
        on_tensors = LimitOnTensors(library, model.parameters())
        entries.append(Entry(C1_ON_TENSORS, repeated(on_tensors.move, settings.least_s), C1))
    return entries, [f"the limit is {limit.describe()}"]


def _own(
    model: Any, settings: Settings, is_large: bool, reach: Optional[Reach]
) -> tuple[list[Entry], list[str]]:
    """Return ppema's own ways, and what is said of those that cannot be measured here."""
    average = ppema.ExponentialMovingAverage(model, DECAY, schedule="constant")
    compiled = load_compiled()

    def entry(name: str, kernels: Any, checks: bool, base: str, reach: Optional[Reach]) -> Entry:
        @contextlib.contextmanager
        def around() -> Iterator[None]:
            average.checks_finite = checks
            with by_kernels(kernels), one_core() if base == C1 and is_large else _nothing():
                yield

        return Entry(name, repeated(average.update, settings.least_s, around), base, reach)

    notes, entries = [], []
    base = C2 if is_large else C1
    if compiled is None:
        notes.append("numba is not installed; ppema's compiled path is left out")
    else:
        reach = Reach(1.15, "ratio") if is_large else reach
        entries.append(entry(PPEMA_2, compiled, False, base, reach))
        entries.append(entry(f"{PPEMA_2}, finite check", compiled, True, base, None))
    entries.append(entry(f"{PPEMA_2}, without numba", None, False, C1, None))
    if is_large and not can_hold_to_one_core():
        notes.append("this system cannot hold a thread to one core; ppema's 1 thread is left out")
    elif is_large and compiled is not None:
        reach = Reach(1.10, "ratio")
        entries.append(entry(PPEMA_1, compiled, False, C1, reach))
        entries.append(entry(f"{PPEMA_1}, finite check", compiled, True, C1, None))
    return entries, notes


def _rivals(model: Any, settings: Settings) -> list[Entry]:
    copied = CopiedAverage(model, DECAY, thres_steps=False)
    copied.register()
    detection, lerp = StateDictAverage(model, DECAY), LerpAverage(model, DECAY)
    updates = {
        "the copied NumPy class": copied.update,
        "PaddleDetection's arithmetic": detection.update,
        "Tensor.lerp_, each tensor": lerp.update,
    }
    return [Entry(name, repeated(update, settings.least_s), C1) for name, update in updates.items()]


def _torch(size: Size, torch: Remote, least_s: float, is_large: bool) -> list[Entry]:
    torch.ask("prepare_averages", shapes=size.shapes, decay=DECAY)
    pieces = {"_foreach_lerp_": "foreach", "AveragedModel": "averaged_model"}

    def entry(name: str, piece: str, threads: int) -> Entry:
        plural = "s" if threads > 1 else ""
        return Entry(
            f"torch {name}, {threads} thread{plural}",
            lambda: float(torch.ask("measure", piece=piece, threads=threads, least_s=least_s)),
            C2 if threads == 2 else C1,
        )

    threads = (1, 2) if is_large else (1,)
    return [entry(name, piece, count) for name, piece in pieces.items() for count in threads]


def _measure_several(size: Size, settings: Settings) -> Findings:
    model, compiled = Tensors(size), load_compiled()
    averages = [ppema.ExponentialMovingAverage(model, DECAY, schedule="constant") for _ in range(4)]
    for average in averages:
        average.checks_finite = False
    entries = []
    for count in (1, 2, 4):
        some = averages[:count]
        contender = repeated(
            lambda some=some: ppema.update_all(some),  # type: ignore[misc]
            settings.least_s,
            lambda: by_kernels(compiled),
        )
        reach = Reach((1 + 2 * count) / 3, "ratio") if count > 1 else None
        entries.append(Entry(averages_name(count), contender, averages_name(1), reach))
    group = f"several averages by update_all, {size}"
    return Findings(measure_group(group, entries, settings.rounds_or(15), MILLISECONDS))


def averages_name(count: int) -> str:
    """Return what so many averages are called."""
    return f"ppema, {count} average{'s' if count > 1 else ''}"


def _nothing() -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()
