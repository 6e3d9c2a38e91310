"""The parts of a run: place, model, loss, optimizer, averages."""

from __future__ import annotations

import inspect
import logging
from dataclasses import replace
from typing import Any, Mapping, Optional

import paddle

from ..averaging import (
    ArgumentError,
    BlockFloatingPoint,
    ExponentialMovingAverage,
    LossGate,
    PowerFunctionEMA,
    RunLength,
    WeightAverage,
    ranks,
    to_whole_steps,
)
from ..config import Config, Named
from ..optim import NO_WEIGHT_DECAY, require_mean, require_positive_clip, spare_from_decay
from ..schedules import SCHEDULERS, require_whole_run, takes_schedule
from .catalog import argument_error, construct
from .pretrained import load_pretrained
from .run_data import make_transforms, require_sizes

logger = logging.getLogger(__name__)


# An average that keeps more of the initial weights than this is worth a warning.
_LARGE_INITIAL_SHARE = 0.1


def select_place(config: Config) -> str:
    """Make the place that `use_gpu` says Paddle's current one; return its name, cpu or gpu:0.

    Raises:
        ConfigError: a GPU is asked for and there is none, or AMP on the CPU.
    """
    has_cuda = paddle.is_compiled_with_cuda()
    has_gpu = has_cuda and paddle.device.cuda.device_count() > 0
    if config.use_gpu is True and not has_cuda:
        raise config.error(
            "use_gpu",
            "use_gpu is true, but this Paddle was built without CUDA; install paddlepaddle-gpu "
            "or set use_gpu: false",
        )
    if config.use_gpu is True and not has_gpu:
        raise config.error("use_gpu", "use_gpu is true, but no GPU is visible (see nvidia-smi)")
    is_gpu = has_gpu and config.use_gpu is not False
    # The launcher gives each process a GPU of its own.
    place = f"gpu:{paddle.distributed.ParallelEnv().device_id}" if is_gpu else "cpu"
    if config.amp != "off" and place == "cpu":
        raise config.error(
            "amp",
            f"amp is {config.amp}, but Paddle has no half-precision kernels on a CPU; "
            "use a GPU or set amp: off",
        )
    paddle.set_device(place)
    return place


def make_model(config: Config) -> Any:
    """Return the network that the section Model names."""
    # Automatic names start at 0 for each run, whatever was built before in this process.
    with paddle.utils.unique_name.guard():
        return construct(config, config.Model)


def make_loss(config: Config) -> Any:
    """Return the loss that the section Loss names.

    Raises:
        ConfigError: it refuses its arguments, or is no mean over images.
    """
    loss_fn = construct(config, config.Loss)
    try:
        require_mean(loss_fn)
    except ArgumentError as error:
        raise argument_error(config, config.Loss, error) from None
    return loss_fn


def make_optimizer(config: Config, model: Any, run: RunLength) -> tuple[Any, Optional[Any]]:
    """Return the optimizer over the model's parameters, and its schedule (None if constant)."""
    scheduler = _make_scheduler(config, run)
    rate = config.LearningRate.base_lr if scheduler is None else scheduler
    named, further = config.Optimizer, {}
    spared = named.arguments.get(NO_WEIGHT_DECAY)
    rest = {key: value for key, value in named.arguments.items() if key != NO_WEIGHT_DECAY}
    if spared:
        try:
            further = spare_from_decay(named.cls, rest, model, spared)
        except ArgumentError as error:
            raise argument_error(config, named, error) from None
    optimizer = construct(
        config,
        replace(named, arguments=rest),
        learning_rate=rate,
        parameters=model.parameters(),
        **further,
    )
    _check_clip(config, rest.get("grad_clip"))
    return optimizer, scheduler


def make_averages(config: Config, model: Any, run: RunLength) -> dict[str, WeightAverage]:
    """Return the averages by the names that the section Averages gives them."""
    averages = {}
    for name, named in config.Averages.items():
        averages[name] = construct(config, named, model, **_run_for(named, run))
    return averages


def make_rounding(config: Config, model: Any) -> Optional[BlockFloatingPoint]:
    """Return what rounds the weights after each step; None where the config has no Rounding.

    Raises:
        ConfigError: it refuses its arguments or the model, or `amp` is O2.
    """
    if config.Rounding is None:
        return None
    if config.amp == "O2":
        raise config.error(
            "amp",
            "amp is O2, for weights of half precision, and Rounding is of float32 weights; "
            "set amp: O1 or off, or Rounding: null",
        )
    rounding: BlockFloatingPoint = construct(config, config.Rounding, model, seed=config.seed)
    return rounding


def make_gate(config: Config) -> Optional[LossGate]:
    """Return the gate of the averages; None where the config sets no limit.

    Raises:
        ConfigError: a limit is out of range; with its line.
    """
    if config.max_loss is None and config.max_loss_ratio is None:
        return None
    try:
        return LossGate(config.max_loss, config.max_loss_ratio)
    except ArgumentError as error:
        raise config.error(error.argument, str(error)) from None


def snapshot_interval(config: Config, run: RunLength) -> Optional[int]:
    """Return the steps between snapshots of the power-function EMAs, None where none are asked for.

    Raises:
        ConfigError: no duration, or there is nothing to take snapshots of.
    """
    if config.posthoc_every is None:
        return None
    classes = [named.cls for named in config.Averages.values()]
    if not any(isinstance(cls, type) and issubclass(cls, PowerFunctionEMA) for cls in classes):
        raise config.error(
            "posthoc_every", "posthoc_every needs a PowerFunctionEMA among the Averages"
        )
    try:
        return to_whole_steps("posthoc_every", config.posthoc_every, run)
    except ArgumentError as error:
        raise config.error("posthoc_every", str(error)) from None


def warn_of_long_windows(averages: Mapping[str, WeightAverage], num_steps: int) -> None:
    """Warn of each average that this run is too short for."""
    for name, average in averages.items():
        if average.first_step >= num_steps > 1:
            logger.warning(
                "%s: begins at step %s of a run of %s, so it averages next to nothing",
                name,
                f"{average.first_step:,}",
                f"{num_steps:,}",
            )
            continue
        if not isinstance(average, ExponentialMovingAverage):
            continue
        share = average.expected_initial_share(num_steps)
        if share > _LARGE_INITIAL_SHARE:
            logger.warning(
                "%s: decay %.6g over %s steps leaves %.0f %% of the initial weights in the "
                "average; use a warmup or a half-life of 1-5 %% of the run",
                name,
                average.schedule(num_steps),
                f"{num_steps:,}",
                100 * share,
            )


def identity(config: Config) -> dict[str, str]:
    """Return what a resumed run must have in common with the one it continues."""
    return {
        "model": config.Model.name,
        "optimizer": config.Optimizer.name,
        "schedule": ", ".join(named.name for named in config.LearningRate.schedulers),
    }


def check(config: Config) -> None:
    """Build all that needs no data, so that every argument is checked.

    Raises:
        ConfigError: with the file and line of what is wrong.
    """
    select_place(config)
    model = make_model(config)
    load_pretrained(config, model, may_download=False)
    make_loss(config)
    make_rounding(config, model)
    make_gate(config)
    require_sizes(config)
    make_transforms(config, "TrainReader")
    make_transforms(config, "EvalReader")
    # Without data the steps of an epoch are not known; that a duration is one can be checked.
    run = run_length(config, steps_per_epoch=1000)
    make_optimizer(config, model, run)
    make_averages(config, model, run)
    snapshot_interval(config, run)


def run_length(config: Config, steps_per_epoch: int) -> RunLength:
    """Return how long a run is, for windows in epochs, images or percent."""
    images_per_batch = config.TrainReader.batch_size * ranks.num_ranks()
    images_per_step = images_per_batch * config.accumulate_steps
    return RunLength(config.epoch * steps_per_epoch, steps_per_epoch, images_per_step)


def _make_scheduler(config: Config, run: RunLength) -> Optional[Any]:
    """Return the last schedule, which holds and steps the ones before it; None without any."""
    scheduler = None
    for named in config.LearningRate.schedulers:
        if scheduler is not None and not takes_schedule(named.cls):
            able = ", ".join(name for name, cls in SCHEDULERS.items() if takes_schedule(cls))
            raise config.error(
                f"{named.path}.name",
                f"{named.path} ({named.name}) cannot go on from the schedule before it; "
                f"those that can are {able}",
            )
        rate = config.LearningRate.base_lr if scheduler is None else scheduler
        scheduler = construct(config, named, learning_rate=rate, **_run_for(named, run))
    return scheduler


def check_schedule(config: Config, schedule: Any, run: RunLength) -> None:
    """Raise ConfigError where a schedule would end a run before its time, with its line."""
    try:
        require_whole_run(schedule, run.num_steps)
    except ArgumentError as error:
        for named in config.LearningRate.schedulers:
            if error.argument in named.arguments:
                raise argument_error(config, named, error) from None
        raise config.error("LearningRate.schedulers", str(error)) from None


def _check_clip(config: Config, named: Any) -> None:
    if isinstance(named, Named):
        try:
            require_positive_clip(construct(config, named))
        except ArgumentError as error:
            raise argument_error(config, named, error) from None


def _run_for(named: Named, run: RunLength) -> dict[str, RunLength]:
    # A class of Paddle's or of the user's own need not know how long the run is.
    return {"run": run} if "run" in inspect.signature(named.cls).parameters else {}
