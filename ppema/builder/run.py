"""A run put together: its folder, its trainer with the hooks in order, its first log lines."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Optional

from ..checkpoint import Checkpoint, CheckpointStore
from ..config import Config
from ..engine.evaluate import RAW
from ..engine.hooks import CheckpointHook, EvaluateHook, LogHook
from ..engine.record import Recorder
from ..engine.rng import seed_everything
from ..engine.snapshots import SNAPSHOTS, SnapshotHook
from ..engine.stop import StopHook
from ..engine.trainer import Hook, Trainer
from ..engine.view_hooks import HistogramHook, SummaryHook
from ..engine.visualdl_view import ViewOptions
from ..models import IN_CHANNELS, PaddleModel, first_convolution
from ..progress import ProgressLine
from ..stop_signals import StopSignals
from .changes import changed_values, changes_order, describe, moved_horizons
from .parts import (
    check_schedule,
    identity,
    make_averages,
    make_gate,
    make_loss,
    make_model,
    make_optimizer,
    run_length,
    snapshot_interval,
    warn_of_long_windows,
)
from .plots import pixel_scale
from .pretrained import load_pretrained, note_unused
from .run_data import RunData, make_eval_reader, make_train_reader, note_on

logger = logging.getLogger(__name__)


def run_folder(config: Config) -> Path:
    """Return the folder of the run that a config describes."""
    return Path(config.save_dir) / config.name


def vdl_folder(config: Config) -> Optional[Path]:
    """Return where VisualDL's records go, None where `use_vdl` is false."""
    if not config.use_vdl:
        return None
    if config.vdl_log_dir:
        # A folder for each run: starting one clears its records, and must not clear another's.
        return Path(config.vdl_log_dir) / config.name
    return run_folder(config) / "vdl"


def make_trainer(config: Config, data: RunData, start: Optional[Checkpoint] = None) -> Trainer:
    """Return the trainer of a run, without hooks.

    Its averages begin at the weights that the config says to start from; not where the run goes
    on from a checkpoint (`start`), which has weights of its own.
    """
    seed_everything(config.seed)
    model = make_model(config)
    lines = load_pretrained(config, model) if start is None else note_unused(config)
    for line in lines:
        logger.info("%s", line)
    reader = make_train_reader(config, data.train)
    run = run_length(config, steps_per_epoch=-(-len(reader) // config.accumulate_steps))
    optimizer, scheduler = make_optimizer(config, model, run)
    check_schedule(config, scheduler, run)
    averages = make_averages(config, model, run)
    return Trainer(
        model,
        make_loss(config),
        optimizer,
        reader,
        averages,
        num_epochs=config.epoch,
        lr_scheduler=scheduler,
        accumulate_steps=config.accumulate_steps,
        non_finite=config.non_finite,
        max_skips=config.max_skips,
        amp=config.amp,
        recompute_batches=config.recompute_batches,
        switch=config.switch,
        gate=make_gate(config),
        fast_cpu=config.fast_cpu,
    )


def make_hooks(
    config: Config,
    data: RunData,
    store: CheckpointStore,
    steps_per_epoch: int,
    line: Optional[ProgressLine],
    with_evaluation: bool,
    signals: StopSignals,
) -> list[Hook]:
    """Return the hooks of a run in the order in which they act after each step."""
    run = run_length(config, steps_per_epoch)
    recorder = Recorder(store.folder, vdl_folder(config), view_options(config, data))
    evaluate = EvaluateHook(
        make_eval_reader(config, data.evaluated),
        recorder,
        config.select,
        note_on(data.evaluated),
        with_evaluation,
        config.eval_iter,
    )
    facts = {
        "config": config.name,
        "config_digest": config.digest(),
        "config_values": config.values(),
        "seed": config.seed,
        "identity": identity(config),
        "data": data.facts(config),
        "steps_per_epoch": run.steps_per_epoch,
    }
    snapshots = SnapshotHook(store.folder / SNAPSHOTS, snapshot_interval(config, run))
    checkpoint = CheckpointHook(
        store, config.snapshot_epoch, config.snapshot_iter, facts, evaluate, snapshots
    )
    log = LogHook(recorder, config.log_iter, line)
    histograms = HistogramHook(recorder)
    summary = SummaryHook(store.folder, config.name + note_on(data.evaluated), evaluate)
    stop = StopHook(signals, checkpoint)
    return [log, histograms, evaluate, snapshots, checkpoint, summary, stop]


def view_options(config: Config, data: RunData) -> ViewOptions:
    """Return what VisualDL shows of a run beside its figures."""
    common = {
        "model": config.Model.name,
        "optimizer": config.Optimizer.name,
        "base_lr": config.LearningRate.base_lr,
        "schedule": ", ".join(named.name for named in config.LearningRate.schedulers) or "constant",
        "images_per_step": config.TrainReader.batch_size * config.accumulate_steps,
        "epochs": config.epoch,
        "seed": config.seed,
    }
    hyperparameters = {RAW: {"average": "none", **common}}
    for name, named in config.Averages.items():
        arguments = ", ".join(f"{key} {value}" for key, value in named.arguments.items())
        hyperparameters[name] = {"average": f"{named.name} {arguments}".rstrip(), **common}
    return ViewOptions(tuple(data.eval.class_names or ()), pixel_scale(data.eval), hyperparameters)


def is_schedule_other(config: Config, trainer: Trainer, start: Checkpoint) -> bool:
    """Tell whether values or durations of the schedule are others than those `start` was made with.

    Its state, in which some of Paddle's have the last rate alone, is then that of other rates. One
    that goes by the losses it was told has nothing but its state.
    """
    if getattr(trainer.lr_scheduler, "takes_loss", False):
        return False
    run = run_length(config, trainer.steps_per_epoch)
    changed = changed_values(config, start.manifest)
    said = [*changed, *moved_horizons(config, start.manifest, run)]
    return any(text.startswith("LearningRate.") for text in said)


def describe_run(
    config: Config, trainer: Trainer, data: RunData, place: str, start: Optional[Checkpoint]
) -> None:
    """Log what is about to be trained, on what, where, and from which step."""
    num_steps = trainer.steps_per_epoch * config.epoch
    logger.info("config %s; run folder %s; place %s", config.name, run_folder(config), place)
    logger.info("train: %s", data.train.source)
    logger.info("eval: %s", data.evaluated.source)
    if data.validation is not None:
        logger.info("test: %s; not looked at in training", data.eval.source)
    logger.info(
        "%s, %s parameters; %s; averages: %s",
        config.Model.name,
        f"{sum(int(p.size) for p in trainer.model.parameters()):,}",
        config.Optimizer.name,
        ", ".join(f"{name} ({n.name})" for name, n in config.Averages.items()) or "none",
    )
    _describe_channels(config, trainer.model)
    if place == "cpu":
        logger.info(
            "fast_cpu: %s; %d layers take their fast form, to the same bits",
            str(config.fast_cpu).lower(),
            len(trainer.fast_layers),
        )
    warn_of_long_windows(trainer.averages, num_steps)
    if start is None:
        logger.info("starting: %d epochs, %s steps", config.epoch, f"{num_steps:,}")
        return
    end = trainer.step + trainer.steps_left
    logger.info("continuing %s after step %s of %s", start.path, start.step, end)
    _describe_changes(config, trainer, start)


def _describe_changes(config: Config, trainer: Trainer, start: Checkpoint) -> None:
    changed = changed_values(config, start.manifest)
    for path, (old, new) in changed.items():
        logger.info("changed since then: %s was %s, is %s", path, describe(old), describe(new))
    run = run_length(config, trainer.steps_per_epoch)
    for line in moved_horizons(config, start.manifest, run):
        logger.info("%s", line)
    if changes_order(changed) and trainer.samples:
        logger.warning(
            "epoch %d goes on in another order: some of its images come twice, others not at all",
            trainer.epoch,
        )


def _describe_channels(config: Config, model: Any) -> None:
    wanted, maker = config.Model.arguments.get(IN_CHANNELS), config.Model.cls
    if wanted is None or not isinstance(maker, PaddleModel):
        return
    own, found = maker.own_channels(**config.Model.arguments), first_convolution(model)
    if wanted != own and found is not None:
        logger.info(
            "%s, the first convolution, is made for %d-channel images (Paddle's is for %d)",
            *(found[0], wanted, own),
        )
