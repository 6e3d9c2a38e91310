"""A checkpoint of LeNet, and the check that every weight is finite."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import paddle

from ppema.averaging.finite import FiniteCheck
from ppema.engine.hooks import CheckpointHook
from ppema.engine.run_state import checkpoint_files
from ppema.engine.trainer import Trainer

from ..data import open_archives
from ..own import make_trainer
from ..rows import Findings, Reach
from ..settings import Settings
from ..timing import MICROSECONDS, MILLISECONDS, Entry, measure_group, repeated

_PADDLE, _STEP = "paddle.save of the same, not synced", "a training step"


def measure(settings: Settings) -> Findings:
    """Measure a checkpoint, and the finite check's share of a step."""
    with open_archives(settings) as archives, tempfile.TemporaryDirectory() as scratch:
        trainer = make_trainer(archives, scratch)
        batches = list(trainer.reader.batches(1))[:4]
        for batch in batches:
            trainer.run_step([batch])
        findings = _measure_save(trainer, Path(scratch), settings)
        findings.add(_measure_check(trainer, batches, settings))
    return findings


def _measure_save(trainer: Trainer, scratch: Path, settings: Settings) -> Findings:
    (hook,) = (hook for hook in trainer.hooks if isinstance(hook, CheckpointHook))
    contents = {name: make() for name, (_, make) in checkpoint_files(trainer).items()}

    def save() -> None:
        # A checkpoint that is there already is left as it is.
        trainer.step += 1
        hook.save(trainer)

    def save_by_paddle() -> None:
        for name, content in contents.items():
            paddle.save(content, str(scratch / name))

    entries = [
        Entry(_PADDLE, repeated(save_by_paddle, 0.0)),
        Entry("ppema", repeated(save, 0.0), _PADDLE, Reach(20.0, "median")),
    ]
    rows = measure_group("a checkpoint of LeNet", entries, settings.rounds_or(40), MILLISECONDS)
    return Findings(rows)


def _measure_check(trainer: Trainer, batches: list[Any], settings: Settings) -> Findings:
    parameters = list(trainer.model.named_parameters())
    gradients = [(name, parameter.grad) for name, parameter in parameters]
    numbers = iter(range(10**9))

    # One for each, as the trainer has them: they know the tensors from the step before.
    gradient_check, weight_check = FiniteCheck(), FiniteCheck()

    def check() -> None:
        gradient_check.first_non_finite(gradients)
        weight_check.first_non_finite(parameters)

    def step() -> None:
        trainer.run_step([batches[next(numbers) % len(batches)]])

    entries = [
        Entry(_STEP, repeated(step, settings.least_s)),
        Entry("the finite check in it", repeated(check, 0.001), _STEP, Reach(0.01, "ratio")),
    ]
    group = "the finite check of a step of LeNet, gradients and weights"
    return Findings(measure_group(group, entries, settings.rounds_or(25), MICROSECONDS))
