"""The average put into the model and taken out again."""

from __future__ import annotations

from typing import Any

import paddle

import ppema

from ..allocated import peak_bytes
from ..rivals import CopiedAverage
from ..rows import Findings, Reach, Row
from ..settings import Settings
from ..timing import Entry, Unit, measure_group, repeated

_OWN, _COPIED = "ppema", "the copied NumPy class"


def measure(settings: Settings) -> Findings:
    """Measure apply and restore on LeNet and ResNet50."""
    models = {"LeNet": paddle.vision.models.LeNet}
    if not settings.is_quick:
        models["ResNet50"] = paddle.vision.models.resnet50
    findings = Findings()
    for name, make in models.items():
        findings.add(_measure_model(name, make(), settings))
    return findings


def _measure_model(name: str, model: Any, settings: Settings) -> Findings:
    average, copied = ppema.ExponentialMovingAverage(model), CopiedAverage(model)
    copied.register()
    model.eval()

    def swap() -> None:
        average.apply()
        average.restore()

    def copy() -> None:
        copied.apply()
        copied.restore()

    num_tensors = len(model.parameters())
    group = f"apply and restore, {name}: {num_tensors} tensors"
    entries = [
        Entry(_COPIED, repeated(copy, settings.least_s)),
        Entry(_OWN, repeated(swap, settings.least_s), _COPIED, Reach(10.0, "median")),
    ]
    unit = Unit("µs a tensor", 1e6 / num_tensors)
    rows = measure_group(group, entries, settings.rounds_or(25), unit)
    # The same on every machine, so once is enough.
    for each, function in ((_COPIED, copy), (_OWN, swap)):
        kilobytes = peak_bytes(function) / 1e3
        group_of_bytes = f"bytes allocated by apply and restore, {name}"
        rows.append(Row(group_of_bytes, each, "kB", (kilobytes,)))
    return Findings(rows)
