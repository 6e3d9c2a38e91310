"""Every key of a config: its type, its range, its only default, and what it is for."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Dict, List, Literal, Optional, Union

from .convert import Bounds
from .named import Named

# Of epochs, steps and images alike: beyond it durations and step numbers overflow.
_MOST = 10**9
_WORKERS = (
    "processes that make batches ahead, of data not in memory or transformed; 0 makes them in turn"
)
# The section of other keys; it is a config itself.
ALONE = "Swap.alone"
# What all phases have in common, and what phase 2 cannot have at all.
_COMMON = "is the same in all phases; leave it out here"
NOT_ALONE = {
    **dict.fromkeys(("Model", "TrainDataset", "EvalDataset"), _COMMON),
    **dict.fromkeys(("save_dir", "vdl_log_dir", "weights"), _COMMON),
    "pretrain_weights": "is for phase 1; workers begin at the weights that it ends with",
    "Swap": "has no place in itself",
}
# Of an average: it names files and folders.
AVERAGE_NAME = re.compile(r"[a-z][a-z0-9_]*")


def key(
    help: str,
    default: Any = dataclasses.MISSING,
    at_least: Optional[float] = None,
    above: Optional[float] = None,
    at_most: Optional[float] = None,
) -> Any:
    """Return a dataclass field; one without a default must be in the config."""
    metadata = {"help": help, "bounds": Bounds(at_least, above, at_most)}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=type(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass
class LearningRateKeys:
    """The learning rate and its schedule."""

    base_lr: float = key("the learning rate, before any schedule", above=0)
    schedulers: List[Named] = key(
        "SWALR, CyclicSWALR or of paddle.optimizer.lr; durations are steps, or such as 5 epochs, "
        "30 %; each goes on from the one before",
        [],
    )


@dataclass
class TrainReaderKeys:
    """How training data becomes batches."""

    batch_size: int = key("images in a batch", at_least=1, at_most=_MOST)
    shuffle: bool = key("another order each epoch, keyed by seed and epoch", True)
    drop_last: bool = key("leave out a last batch that is not full", False)
    num_workers: int = key(_WORKERS, 1, at_least=0, at_most=64)
    transforms: List[Named] = key(
        "of paddle.vision.transforms, or your own, in turn on each image; keyed by seed and epoch",
        [],
    )


@dataclass
class EvalReaderKeys:
    """How evaluation data becomes batches."""

    batch_size: int = key(
        "images in a batch; does not change the figures", at_least=1, at_most=_MOST
    )
    num_workers: int = key(_WORKERS, 1, at_least=0, at_most=64)
    transforms: List[Named] = key("as TrainReader's, the same at each evaluation", [])


@dataclass
class SwapKeys:
    """Stochastic weight averaging in parallel: a common start, workers apart, their mean."""

    until_accuracy: float = key(
        "phase 1 ends with the first epoch of this training accuracy, such as 0.98, and after "
        "`epoch` epochs in any case",
        above=0,
        at_most=1,
    )
    alone: Dict[str, Any] = key(
        "keys of a config that are others for a worker alone (phase 2); epoch at least"
    )
    workers: int = key(
        "that go on from phase 1, each in an order of its own", 4, at_least=2, at_most=1000
    )


@dataclass
class Keys:
    """The keys of a config file, in the order in which a merged config shows them."""

    epoch: int = key("passes over the training data", at_least=1, at_most=_MOST)
    TrainDataset: Named = key("the data to train on")
    EvalDataset: Named = key("the data to evaluate on")
    TrainReader: TrainReaderKeys = key("batches to train on")
    EvalReader: EvalReaderKeys = key("batches to evaluate on")
    Model: Named = key("the network")
    Loss: Named = key("the loss, of logits and labels")
    LearningRate: LearningRateKeys = key("the learning rate")
    Optimizer: Named = key("a class of paddle.optimizer")
    Averages: Dict[str, Named] = key("averages of the weights, each under a name of your own", {})
    Rounding: Optional[Named] = key(
        "of the weights after each optimizer step, before averages see them", None
    )
    select: str = key("the weights that count: raw, an average's name, or best", "best")
    switch: Optional[str] = key("an average to go on from at the start of each epoch", None)
    max_loss: Optional[float] = key("averages leave out steps whose loss is above it", None)
    max_loss_ratio: Optional[float] = key(
        "… above so many times the median of the latest 100 losses", None
    )
    posthoc_every: Union[int, float, str, None] = key(
        "between snapshots of each PowerFunctionEMA: steps, or such as 2 %", None
    )
    Swap: Optional[SwapKeys] = key(
        "train in three phases, the last of which averages workers (SWAP)", None
    )
    use_gpu: Union[bool, Literal["auto"]] = key("auto: where CUDA is built in and visible", "auto")
    fast_cpu: bool = key("on a CPU, faster forms of convolution and pooling; the same bits", True)
    seed: int = key("of weights, order and dropout", 0, at_least=0, at_most=2**32 - 1)
    accumulate_steps: int = key(
        "batches whose gradients make one step", 1, at_least=1, at_most=_MOST
    )
    sync_bn: bool = key("of several processes on GPUs: BatchNorm over the images of all", False)
    find_unused_parameters: bool = key(
        "of several processes: the loss may not depend on every parameter at each step", False
    )
    amp: Literal["off", "O1", "O2"] = key("mixed precision, on a GPU", "off")
    non_finite: Literal["error", "skip"] = key("what a NaN or Inf gradient leads to", "error")
    max_skips: int = key(
        "steps left out in a row before the run ends", 10, at_least=0, at_most=_MOST
    )
    recompute_batches: int = key(
        "training batches for averages with buffers: recompute", 100, at_least=1, at_most=_MOST
    )
    validation: Union[int, float, None] = key(
        "kept out of TrainDataset, of each class alike, and evaluated on during training in place "
        "of EvalDataset: a share such as 0.1, or a whole number of images",
        None,
        above=0,
    )
    validation_seed: int = key(
        "of which images these are, whatever seed is", 0, at_least=0, at_most=2**32 - 1
    )
    train_samples: Optional[int] = key(
        "train on so many images only, as many of each class as of any other where there are so "
        "many; of those that validation leaves",
        None,
        at_least=1,
        at_most=_MOST,
    )
    train_samples_seed: int = key(
        "of which images these are, whatever seed is", 0, at_least=0, at_most=2**32 - 1
    )
    label_noise: float = key(
        "share of the training images, not of validation, whose label is replaced by another, "
        "each other class being as likely",
        0.0,
        at_least=0,
        at_most=1,
    )
    label_noise_seed: int = key(
        "of which images these are, and of their labels, whatever seed is",
        0,
        at_least=0,
        at_most=2**32 - 1,
    )
    offline: Literal["digits", "error"] = key(
        "where no MNIST can be had: the embedded digits, or an error", "error"
    )
    save_dir: str = key("run folders go here, each named after its config", "output")
    pretrain_weights: Optional[str] = key(
        "weights to start from: a .pdparams, a run folder, a checkpoint, or a URL, with "
        "#md5=… or #sha256=… at its end where known",
        None,
    )
    weights: Optional[str] = key("what to evaluate: a run folder, a checkpoint, a file", None)
    log_iter: int = key("steps between log lines", 20, at_least=1, at_most=_MOST)
    snapshot_epoch: int = key("epochs between checkpoints", 1, at_least=1, at_most=_MOST)
    snapshot_iter: int = key(
        "steps between further checkpoints; 0 for none", 0, at_least=0, at_most=_MOST
    )
    eval_iter: int = key(
        "steps between further evaluations, beside those at the ends of epochs; 0 for none",
        0,
        at_least=0,
        at_most=_MOST,
    )
    keep_checkpoint_max: int = key(
        "newest checkpoints to keep, beside the best", 3, at_least=1, at_most=_MOST
    )
    use_vdl: bool = key("write records for VisualDL", True)
    vdl_log_dir: Optional[str] = key("where they go; vdl in the run's folder by default", None)


_AS_SECTION = "is written as a section here: "
_AS_TRANSFORMS = (
    "is written in the readers here: TrainReader: {batch_size: 64, transforms: "
    "[{name: RandomHorizontalFlip, prob: 0.5}]}"
)
_NO_METRIC = "is not needed here: evaluation gives top-1, top-2, the loss and the ECE"
_AN_EMA = _AS_SECTION + "Averages: {ema: {name: ExponentialMovingAverage, "
# What users of PaddleDetection and PaddleClas will try, and how it is said here.
FOREIGN_KEYS = {
    "use_ema": _AN_EMA + "decay: 0.9998}}",
    "ema_decay": _AN_EMA + "decay: 0.9998}}",
    "ema_decay_type": _AN_EMA
    + "schedule: threshold}}; exponential keeps its name, normal is schedule: constant with "
    "debias: true",
    "ema_black_list": _AN_EMA + "exclude: [fc.*]}}",
    "ema_filter_no_grad": "is not needed here: frozen weights are copied, never averaged",
    "cycle_epoch": "has no counterpart here: an average runs through the whole run; to forget "
    "sooner, give it half_life: 5 epochs in place of decay",
    "EMA": _AN_EMA + "decay: 0.9999, schedule: constant}}",
    "AMP": "is one key here: amp: O1",
    "Arch": _AS_SECTION + "Model: {name: LeNet, num_classes: 10}",
    "DataLoader": "is four sections here: TrainDataset, TrainReader, EvalDataset, EvalReader",
    "Global": "is no section here: its keys stand at the top, such as epoch: 5 or save_dir: output",
    "architecture": _AS_SECTION + "Model: {name: LeNet}",
    "num_classes": "is an argument of the model here: Model: {name: LeNet, num_classes: 10}",
    "worker_num": "is written in the readers here: TrainReader: {batch_size: 64, num_workers: 2}",
    "sample_transforms": _AS_TRANSFORMS,
    "transform_ops": _AS_TRANSFORMS,
    "TestReader": _AS_SECTION + "EvalReader: {batch_size: 250}",
    "OptimizerBuilder": "is one section here: Optimizer: {name: Momentum, momentum: 0.9, "
    "weight_decay: 0.0005, grad_clip: {name: ClipGradByGlobalNorm, clip_norm: 1.0}}",
    "metric": _NO_METRIC,
    "Metric": _NO_METRIC,
}
