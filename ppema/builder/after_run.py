"""What is needed to make weights after a run: its data, a model to try them in, what is wanted."""

from __future__ import annotations

import itertools
from typing import Any, Mapping, Optional, Sequence

from ..averaging import ArgumentError, RunLength, sigma_rel_to_gamma, to_steps
from ..averaging.batch_norm import batch_norm_layers
from ..checkpoint import Checkpoint
from ..config import Config
from ..engine.candidates import Candidates
from ..engine.posthoc import Target
from ..errors import ConfigError
from ..progress import track
from .parts import make_loss, make_model
from .run_data import load_data, load_deciding_data, make_eval_reader, make_train_reader, note_on


def make_candidates(config: Config, start: Optional[Checkpoint] = None) -> Candidates:
    """Return what evaluates weights that were made, on the data of the run `start` is of.

    Training data are read only where the model has BN, whose statistics they are for.

    Raises:
        DataError: missing, damaged, or other data than the run's.
        ConfigError: the model or the loss refuses its arguments.
    """
    model, loss_fn = make_model(config), make_loss(config)
    manifest: Mapping[str, Any] = start.manifest if start is not None else {}
    if not batch_norm_layers(model):
        dataset = load_deciding_data(config, manifest)
        reader = make_eval_reader(config, dataset)
        source = dataset.source + note_on(dataset)
        return Candidates(model, loss_fn, reader, lambda: (), source, config.fast_cpu)
    data = load_data(config, start)
    train_reader = make_train_reader(config, data.train)
    epoch = int(manifest.get("epoch", 1))
    total = min(config.recompute_batches, len(train_reader))
    return Candidates(
        model,
        loss_fn,
        make_eval_reader(config, data.evaluated),
        lambda: track(
            itertools.islice(train_reader.batches(epoch), total), total, "BatchNorm statistics"
        ),
        data.evaluated.source + note_on(data.evaluated),
        config.fast_cpu,
    )


def posthoc_targets(
    manifest: Mapping[str, Any], widths: Sequence[float], half_life: Optional[str]
) -> list[Target]:
    """Return the averages that a command line asks for.

    Args:
        manifest: of the run, whose length and batch size count, not what a config says now.
        widths: relative ones; or
        half_life: in updates, or text in another unit.

    Raises:
        ConfigError: one is out of range, or no duration.
    """
    try:
        if half_life is None:
            for width in widths:
                sigma_rel_to_gamma(width)
            return [Target(sigma_rel=width) for width in sorted(set(widths))]
        duration = float(half_life) if _is_number(half_life) else half_life
        return [Target(half_life=to_steps("half_life", duration, length_of_run(manifest)))]
    except ArgumentError as error:
        raise ConfigError(f"--{error}") from None


def length_of_run(manifest: Mapping[str, Any]) -> RunLength:
    """Return how long the run of a manifest was to be when it was saved."""
    values, steps_per_epoch = manifest["config_values"], manifest["steps_per_epoch"]
    # Of a checkpoint of an earlier version there was one.
    num_processes = manifest.get("processes", 1)
    images_per_batch = values["TrainReader"]["batch_size"] * num_processes
    images_per_step = images_per_batch * values["accumulate_steps"]
    return RunLength(values["epoch"] * steps_per_epoch, steps_per_epoch, images_per_step)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
