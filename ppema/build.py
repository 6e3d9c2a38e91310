"""From a config to the objects of a run: the only file that knows both."""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

import paddle

from .averaging import (
    ArgumentError,
    ExponentialMovingAverage,
    LatestWeightAverage,
    PowerFunctionEMA,
    RunLength,
    StochasticWeightAverage,
    WeightAverage,
)
from .checkpoint import Checkpoint, CheckpointStore
from .config import Choices, Config, Named, load_config
from .data import DATASETS, ArrayDataset, ArrayReader, load_dataset, load_datasets
from .engine.hooks import CheckpointHook, EvaluateHook, LogHook
from .engine.progress import ProgressBar
from .engine.record import Recorder
from .engine.rng import seed_everything
from .engine.stop import StopHook, StopSignals
from .engine.trainer import Trainer
from .models import MODELS
from .optim import LOSSES, OPTIMIZERS, SCHEDULERS

logger = logging.getLogger(__name__)

AVERAGES = {
    "ExponentialMovingAverage": ExponentialMovingAverage,
    "LatestWeightAverage": LatestWeightAverage,
    "PowerFunctionEMA": PowerFunctionEMA,
    "StochasticWeightAverage": StochasticWeightAverage,
}

# The classes that each section of a config may name.
CATALOG: Mapping[str, Choices] = {
    "TrainDataset": Choices(DATASETS),
    "EvalDataset": Choices(DATASETS),
    "Model": Choices(MODELS, base=paddle.nn.Layer, is_open=True),
    "Loss": Choices(LOSSES, base=paddle.nn.Layer, is_open=True),
    "Optimizer": Choices(
        OPTIMIZERS,
        given=frozenset({"learning_rate", "parameters"}),
        base=paddle.optimizer.Optimizer,
        is_open=True,
    ),
    "LearningRate.schedulers": Choices(
        SCHEDULERS,
        given=frozenset({"learning_rate", "last_epoch", "verbose"}),
        base=paddle.optimizer.lr.LRScheduler,
        is_open=True,
    ),
    "Averages": Choices(AVERAGES, given=frozenset({"model", "run"}), base=WeightAverage),
}

# An average that keeps more of the initial weights than this is worth a warning.
_LARGE_INITIAL_SHARE = 0.1


@dataclass(frozen=True)
class RunData:
    """What a run trains on and evaluates on, both from one source."""

    train: ArrayDataset
    eval: ArrayDataset
    train_dir: Optional[str]
    eval_dir: Optional[str]

    def facts(self) -> dict[str, Any]:
        """Return what the manifest says of the data, so that a resume takes the same."""
        return {
            "kind": self.eval.kind,
            "train": _facts_of(self.train, self.train_dir),
            "eval": _facts_of(self.eval, self.eval_dir),
        }


def read_config(path: str, overrides: Sequence[str]) -> Config:
    """Return the checked config at `path`, with `-o` overrides on top.

    Raises:
        ConfigError: with the file and line of what is wrong.
    """
    return load_config(path, overrides, CATALOG)


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
    place = "gpu:0" if has_gpu and config.use_gpu is not False else "cpu"
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
        return _construct(config, config.Model)


def make_optimizer(config: Config, model: Any) -> tuple[Any, Optional[Any]]:
    """Return the optimizer over the model's parameters, and its schedule (None if constant)."""
    scheduler = _make_scheduler(config)
    rate = config.LearningRate.base_lr if scheduler is None else scheduler
    optimizer = _construct(
        config, config.Optimizer, learning_rate=rate, parameters=model.parameters()
    )
    return optimizer, scheduler


def make_averages(config: Config, model: Any, run: RunLength) -> dict[str, WeightAverage]:
    """Return the averages by the names that the section Averages gives them."""
    averages = {}
    for name, named in config.Averages.items():
        # An average of the user's own need not know how long the run is.
        takes_run = "run" in inspect.signature(named.cls).parameters
        given = {"run": run} if takes_run else {}
        averages[name] = _construct(config, named, model, **given)
    return averages


def warn_of_long_windows(averages: Mapping[str, WeightAverage], num_steps: int) -> None:
    """Warn of each average that would still be made of the initial weights after the run."""
    for name, average in averages.items():
        if not isinstance(average, ExponentialMovingAverage):
            continue
        share = average.initial_share(num_steps)
        if share > _LARGE_INITIAL_SHARE:
            logger.warning(
                "%s: decay %.6g over %s steps leaves %.0f %% of the initial weights in the "
                "average; use a warmup or a half-life of 1-5 %% of the run",
                name,
                average.schedule(num_steps),
                f"{num_steps:,}",
                100 * share,
            )


def make_loss(config: Config) -> Any:
    """Return the loss that the section Loss names."""
    return _construct(config, config.Loss)


def load_data(config: Config, start: Optional[Checkpoint]) -> RunData:
    """Return the data of a run; one that continues gets its own, or an error.

    Raises:
        DataError: missing, damaged, or other data than the run began with.
    """
    saved = start.manifest["data"] if start is not None else None
    train_request = _request(config, config.TrainDataset, saved and saved["train"])
    eval_request = _request(config, config.EvalDataset, saved and saved["eval"])
    train, evaluation = load_datasets(
        train_request,
        eval_request,
        config.offline,
        required_kind=saved["kind"] if saved else None,
        required_digests=(saved["train"]["digest"], saved["eval"]["digest"]) if saved else None,
    )
    folders = [getattr(r, "dataset_dir", None) for r in (train_request, eval_request)]
    return RunData(train, evaluation, *folders)


def load_eval_data(config: Config, manifest: Mapping[str, Any]) -> ArrayDataset:
    """Return the evaluation data; of the run that `manifest` is of, where there is one.

    Raises:
        DataError: missing, damaged, or other data than the run's.
    """
    saved = manifest.get("data")
    return load_dataset(
        _request(config, config.EvalDataset, saved and saved["eval"]),
        config.offline,
        required_kind=saved["kind"] if saved else None,
        required_digest=saved["eval"]["digest"] if saved else None,
    )


def _facts_of(dataset: ArrayDataset, folder: Optional[str]) -> dict[str, Any]:
    absolute = None if folder is None else str(Path(folder).expanduser().absolute())
    return {"source": dataset.source, "digest": dataset.digest, "dataset_dir": absolute}


def _request(config: Config, named: Named, saved: Optional[Mapping[str, Any]]) -> Any:
    """Return what a dataset section asks for; a run's own folder where it names none."""
    folder = saved.get("dataset_dir") if saved else None
    takes_folder = "dataset_dir" in inspect.signature(named.cls).parameters
    if folder and takes_folder and not named.arguments.get("dataset_dir"):
        named = replace(named, arguments={**named.arguments, "dataset_dir": folder})
    return _construct(config, named)


def note_on(dataset: ArrayDataset) -> str:
    """Return what stands beside each figure where the data are not the ones people expect."""
    return " (on the embedded UCI digits, not MNIST)" if dataset.kind == "digits" else ""


def run_folder(config: Config) -> Path:
    """Return the folder of the run that a config describes."""
    return Path(config.save_dir) / config.name


def make_trainer(
    config: Config,
    data: RunData,
    store: CheckpointStore,
    bar: Optional[ProgressBar],
    with_evaluation: bool,
    signals: StopSignals,
) -> Trainer:
    """Return the trainer of a run, with its hooks in the order in which they act."""
    seed_everything(config.seed)
    model = make_model(config)
    optimizer, scheduler = make_optimizer(config, model)
    reader = ArrayReader(
        data.train,
        batch_size=config.TrainReader.batch_size,
        shuffle=config.TrainReader.shuffle,
        drop_last=config.TrainReader.drop_last,
        seed=config.seed,
    )
    steps_per_epoch = -(-len(reader) // config.accumulate_steps)
    averages = make_averages(config, model, _run_length(config, steps_per_epoch))
    trainer = Trainer(
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
    )
    recorder = Recorder(store.folder, vdl_folder(config))
    evaluate = EvaluateHook(
        make_eval_reader(config, data.eval),
        recorder,
        config.select,
        note_on(data.eval),
        with_evaluation,
    )
    checkpoint = CheckpointHook(
        store,
        config.snapshot_epoch,
        config.snapshot_iter,
        {
            "config": config.name,
            "config_digest": config.digest(),
            "seed": config.seed,
            "num_epochs": config.epoch,
            "identity": identity(config),
            "config_values": config.values(),
            "data": data.facts(),
        },
        evaluate,
    )
    trainer.hooks = [LogHook(recorder, config.log_iter, bar), evaluate, checkpoint]
    trainer.hooks.append(StopHook(signals, checkpoint))
    return trainer


def make_eval_reader(config: Config, dataset: ArrayDataset) -> ArrayReader:
    """Return the reader of the evaluation data: every image once, in order."""
    return ArrayReader(
        dataset, config.EvalReader.batch_size, shuffle=False, drop_last=False, seed=0
    )


def vdl_folder(config: Config) -> Optional[Path]:
    """Return where VisualDL's records go, None where `use_vdl` is false."""
    if not config.use_vdl:
        return None
    if config.vdl_log_dir:
        # A folder for each run: starting one clears its records, and must not clear another's.
        return Path(config.vdl_log_dir) / config.name
    return run_folder(config) / "vdl"


def describe_run(
    config: Config, trainer: Trainer, data: RunData, place: str, start: Optional[Checkpoint]
) -> None:
    """Log what is about to be trained, on what, where, and from which step."""
    num_steps = trainer.steps_per_epoch * config.epoch
    logger.info("config %s; run folder %s; place %s", config.name, run_folder(config), place)
    logger.info("train: %s", data.train.source)
    logger.info("eval: %s", data.eval.source)
    logger.info(
        "%s, %s parameters; %s; averages: %s",
        config.Model.name,
        f"{sum(int(p.size) for p in trainer.model.parameters()):,}",
        config.Optimizer.name,
        ", ".join(f"{name} ({n.name})" for name, n in config.Averages.items()) or "none",
    )
    warn_of_long_windows(trainer.averages, num_steps)
    if start is None:
        logger.info("starting: %d epochs, %s steps", config.epoch, f"{num_steps:,}")
        return
    logger.info("continuing %s after step %s of %s", start.path, start.step, num_steps)
    before = start.manifest["config_values"]
    for key, value in config.values().items():
        if before.get(key) != value:
            logger.info("changed since then: %s was %s, is %s", key, before.get(key), value)


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
    make_loss(config)
    make_optimizer(config, model)
    # Without data the steps of an epoch are not known; that a duration is one can be checked.
    make_averages(config, model, _run_length(config, steps_per_epoch=1000))


def _run_length(config: Config, steps_per_epoch: int) -> RunLength:
    images_per_step = config.TrainReader.batch_size * config.accumulate_steps
    return RunLength(config.epoch * steps_per_epoch, steps_per_epoch, images_per_step)


def _make_scheduler(config: Config) -> Optional[Any]:
    schedulers = config.LearningRate.schedulers
    if not schedulers:
        return None
    if len(schedulers) > 1:
        raise config.error(
            "LearningRate.schedulers",
            f"LearningRate.schedulers may hold one schedule, got {len(schedulers)}",
        )
    return _construct(config, schedulers[0], learning_rate=config.LearningRate.base_lr)


def try_one_batch(config: Config, trainer: Trainer, data: RunData) -> None:
    """Run the model and the loss on two images, so that what does not fit is said before training.

    Leaves weights, statistics, modes and random numbers as they were.

    Raises:
        ConfigError: the model does not take the images, its classes are not the data's, or the
            loss is no single number.
    """
    model, dataset = trainer.model, data.train
    generators = paddle.get_rng_state()
    model.eval()
    batch = next(make_eval_reader(config, dataset).batches(1))
    image, label = paddle.to_tensor(batch.image[:2]), paddle.to_tensor(batch.label[:2])
    num_classes = len(dataset.class_names)
    try:
        with paddle.no_grad():
            logits = _attempt(config, "Model", config.Model.name, lambda: model(image))
            if list(getattr(logits, "shape", [])) != [len(label), num_classes]:
                raise config.error(
                    "Model.num_classes",
                    f"Model ({config.Model.name}) gives {_shape_of(logits)} for {len(label)} "
                    f"images, and the data have {num_classes} classes: "
                    f"[{len(label)},{num_classes}] is needed",
                )
            loss = _attempt(
                config, "Loss", config.Loss.name, lambda: trainer.loss_fn(logits, label)
            )
            if not paddle.is_tensor(loss) or loss.size != 1 or not loss.is_floating_point():
                raise config.error(
                    "Loss", f"Loss ({config.Loss.name}) gives {_shape_of(loss)}, not one number"
                )
    finally:
        model.train()
        paddle.set_rng_state(generators)


def _attempt(config: Config, path: str, name: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    # Whatever a class of Paddle's or the user's raises, it does not fit the data.
    except Exception as error:
        raise config.error(path, f"{path} ({name}): {_reason(error)}") from error


def _shape_of(value: Any) -> str:
    if not hasattr(value, "shape"):
        return f"a {type(value).__name__}"
    return f"[{','.join(map(str, value.shape))}]"


def _reason(error: BaseException) -> str:
    """Return the line of an error that says why: Paddle's come with a page of C++ calls."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "Error: " in line or line.startswith("(")]
    return (telling or lines or ["refused"])[0][:300]


def _construct(config: Config, named: Named, *given: Any, **given_by_name: Any) -> Any:
    try:
        return named.cls(*given, **given_by_name, **named.arguments)
    except ArgumentError as error:
        raise config.error(f"{named.path}.{error.argument}", f"{named.path}.{error}") from None
    # A class of Paddle's or the user's says what is wrong with its arguments in its own way.
    except Exception as error:
        reason = _reason(error)
        # Where the reason names an argument, the line is that argument's.
        argument = next((key for key in named.arguments if key in reason), "")
        text = f"{named.path} ({named.name}): {reason}"
        raise config.error(f"{named.path}.{argument}", text) from error
