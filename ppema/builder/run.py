"""A run put together: its folder, its trainer with the hooks in order, its first log lines."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Optional

from ..averaging import ranks
from ..checkpoint import Checkpoint, CheckpointStore, load_strictly
from ..config import Config
from ..engine.evaluate import RAW
from ..engine.goal import AccuracyGoal
from ..engine.hooks import CheckpointHook, EvaluateHook, LogHook
from ..engine.phases import weights_facts
from ..engine.record import Recorder, SilentRecorder
from ..engine.rng import branch_off, rng_to_json, seed_everything
from ..engine.run_state import MODEL_FILE
from ..engine.snapshots import SNAPSHOTS, SnapshotHook
from ..engine.stop import StopHook
from ..engine.trainer import Hook, Trainer
from ..engine.view_hooks import HistogramHook, SummaryHook
from ..engine.visualdl_view import ViewOptions
from ..models import IN_CHANNELS, PaddleModel, first_convolution
from ..progress import ProgressLine
from ..stop_signals import StopSignals
from .after_run import length_of_run
from .changes import changed_values, changes_order, describe, moved_horizons
from .parts import (
    check_schedule,
    identity,
    make_averages,
    make_gate,
    make_loss,
    make_model,
    make_optimizer,
    make_rounding,
    run_length,
    snapshot_interval,
    warn_of_long_windows,
)
from .plots import pixel_scale
from .pretrained import load_pretrained, note_unused
from .processes import describe_processes, synchronize_batch_norm
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


def make_trainer(
    config: Config,
    data: RunData,
    start: Optional[Checkpoint] = None,
    parent: Optional[Checkpoint] = None,
) -> Trainer:
    """Return the trainer of a run, without hooks.

    Its averages begin at the weights that the run starts from: those of the run before it
    (`parent`) or those that the config says; not where it goes on from a checkpoint (`start`),
    which has weights of its own.
    """
    seed_everything(config.seed)
    model = synchronize_batch_norm(config, make_model(config))
    if parent is not None and start is None:
        load_strictly(model, parent.read(MODEL_FILE), str(parent.path / MODEL_FILE))
    else:
        lines = load_pretrained(config, model) if start is None else note_unused(config)
        for line in lines:
            logger.info("%s", line)
    reader = make_train_reader(config, data.train)
    run = run_length(config, steps_per_epoch=-(-len(reader) // config.accumulate_steps))
    optimizer, scheduler = make_optimizer(config, model, run)
    check_schedule(config, scheduler, run)
    averages = make_averages(config, model, run)
    if not ranks.is_first():
        # Dropout, say, is of each rank's own.
        branch_off(rng_to_json(), ranks.rank())
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
        rounding=make_rounding(config, model),
        fast_cpu=config.fast_cpu,
        find_unused_parameters=config.find_unused_parameters,
    )


def make_hooks(
    config: Config,
    data: RunData,
    store: CheckpointStore,
    steps_per_epoch: int,
    line: Optional[ProgressLine],
    with_evaluation: bool,
    signals: StopSignals,
    parent: Optional[Checkpoint] = None,
) -> list[Hook]:
    """Return the hooks of a run in the order in which they act after each step.

    `parent` is the last checkpoint of the run whose weights this one began at.
    """
    run = run_length(config, steps_per_epoch)
    recorder = _make_recorder(config, data, store.folder)
    evaluate = EvaluateHook(
        make_eval_reader(config, data.evaluated),
        recorder,
        config.select,
        note_on(data.evaluated),
        with_evaluation,
        config.eval_iter,
        "test" if data.validation is None else "validation",
    )
    facts = {
        "config": config.name,
        "config_digest": config.digest(),
        "config_values": config.values(),
        "seed": config.seed,
        "identity": identity(config),
        "data": data.facts(config),
        "steps_per_epoch": run.steps_per_epoch,
        "processes": ranks.num_ranks(),
        "parent": parent and weights_facts(parent),
    }
    snapshots = SnapshotHook(store.folder / SNAPSHOTS, snapshot_interval(config, run))
    checkpoint = CheckpointHook(
        store, config.snapshot_epoch, config.snapshot_iter, facts, evaluate, snapshots
    )
    log = LogHook(recorder, config.log_iter, line)
    histograms = HistogramHook(recorder)
    summary = SummaryHook(store.folder, config.name + note_on(data.evaluated), evaluate)
    stop = StopHook(signals, checkpoint)
    # Before all others, which act on the end of a run.
    goals = [] if config.Swap is None else [AccuracyGoal(config.Swap.until_accuracy)]
    return [*goals, log, histograms, evaluate, snapshots, checkpoint, summary, stop]


def _make_recorder(config: Config, data: RunData, folder: Path) -> Recorder:
    if ranks.is_first():
        return Recorder(folder, vdl_folder(config), view_options(config, data))
    return SilentRecorder(has_view=vdl_folder(config) is not None)


def view_options(config: Config, data: RunData) -> ViewOptions:
    """Return what VisualDL shows of a run beside its figures."""
    common = {
        "model": config.Model.name,
        "optimizer": config.Optimizer.name,
        "base_lr": config.LearningRate.base_lr,
        "schedule": ", ".join(named.name for named in config.LearningRate.schedulers) or "constant",
        "images_per_step": run_length(config, steps_per_epoch=1).images_per_step,
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
    if trainer.rounding is not None:
        logger.info("weights are rounded after each step: %s", trainer.rounding)
    _describe_channels(config, trainer.model)
    if place == "cpu":
        logger.info(
            "fast_cpu: %s; %d layers take their fast form, to the same bits",
            str(config.fast_cpu).lower(),
            len(trainer.fast_layers),
        )
    for line in describe_processes(config, trainer.optimizer.get_lr()):
        logger.info("%s", line)
    warn_of_long_windows(trainer.averages, num_steps)
    if start is None:
        logger.info("starting: %d epochs, %s steps", config.epoch, f"{num_steps:,}")
        return
    end = trainer.step + trainer.steps_left
    logger.info("continuing %s after step %s of %s", start.path, start.step, end)
    _describe_changes(config, trainer, start)


def _describe_changes(config: Config, trainer: Trainer, start: Checkpoint) -> None:
    before = start.manifest.get("processes", 1)
    if before != ranks.num_ranks():
        images = length_of_run(start.manifest).images_per_step
        logger.info(
            "changed since then: processes were %d, are %d; images a step were %d",
            *(before, ranks.num_ranks(), images),
        )
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
