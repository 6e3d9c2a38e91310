"""The classes that a config may name, and how one is made from its section."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import paddle

from ..averaging import (
    AVERAGES,
    ROUNDINGS,
    ArgumentError,
    BlockFloatingPoint,
    WeightAverage,
)
from ..config import Choices, Config, Named, load_config
from ..data import DATASETS, paddle_transforms
from ..errors import ConfigError, telling_line
from ..models import MODEL_HINTS, MODELS
from ..optim import (
    GIVEN_TO_OPTIMIZERS,
    GRAD_CLIPS,
    LOSS_HINTS,
    LOSSES,
    NO_WEIGHT_DECAY,
    OPTIMIZER_HINTS,
    OPTIMIZERS,
    WEIGHT_DECAYS,
)
from ..schedules import SCHEDULER_HINTS, SCHEDULERS

# `keys` is for boxes and masks beside the image.
_TRANSFORMS = Choices(paddle_transforms(), given=frozenset({"keys"}), is_open=True)

# The classes that each section of a config may name.
CATALOG: Mapping[str, Choices] = {
    "TrainDataset": Choices(DATASETS),
    "EvalDataset": Choices(DATASETS),
    "TrainReader.transforms": _TRANSFORMS,
    "EvalReader.transforms": _TRANSFORMS,
    "Model": Choices(MODELS, base=paddle.nn.Layer, is_open=True, hints=MODEL_HINTS),
    "Loss": Choices(LOSSES, base=paddle.nn.Layer, is_open=True, hints=LOSS_HINTS),
    "Optimizer": Choices(
        OPTIMIZERS,
        given=GIVEN_TO_OPTIMIZERS,
        base=paddle.optimizer.Optimizer,
        is_open=True,
        extras={NO_WEIGHT_DECAY: Sequence[str]},
        nested={
            "grad_clip": Choices(GRAD_CLIPS, base=paddle.nn.ClipGradByNorm.__base__),
            "weight_decay": Choices(WEIGHT_DECAYS, base=paddle.regularizer.WeightDecayRegularizer),
        },
        hints=OPTIMIZER_HINTS,
    ),
    "LearningRate.schedulers": Choices(
        SCHEDULERS,
        given=frozenset({"learning_rate", "run", "last_epoch", "verbose"}),
        base=paddle.optimizer.lr.LRScheduler,
        is_open=True,
        hints=SCHEDULER_HINTS,
    ),
    "Averages": Choices(AVERAGES, given=frozenset({"model", "run"}), base=WeightAverage),
    "Rounding": Choices(ROUNDINGS, given=frozenset({"model", "seed"}), base=BlockFloatingPoint),
}


def read_config(path: str, overrides: Sequence[str]) -> Config:
    """Return the checked config at `path`, with `-o` overrides on top.

    Raises:
        ConfigError: with the file and line of what is wrong.
    """
    return load_config(path, overrides, CATALOG)


def construct(config: Config, named: Named, *given: Any, **given_by_name: Any) -> Any:
    """Return the object that a section asks for; `given` is what ppema itself fills in.

    Raises:
        ConfigError: the class refuses its arguments; with the line of the one at fault.
    """
    arguments = {
        key: construct(config, value) if isinstance(value, Named) else value
        for key, value in named.arguments.items()
    }
    try:
        return named.cls(*given, **given_by_name, **arguments)
    except ArgumentError as error:
        raise argument_error(config, named, error) from None
    # A class of Paddle's or the user's says what is wrong with its arguments in its own way.
    except Exception as error:
        reason = telling_line(error)
        # Where the reason names an argument, the line is that argument's.
        argument = next((key for key in named.arguments if key in reason), "")
        text = f"{named.path} ({named.name}): {reason}"
        raise config.error(f"{named.path}.{argument}", text) from error


def argument_error(config: Config, named: Named, error: ArgumentError) -> ConfigError:
    """Return the error about an argument of a section, with its line."""
    return config.error(f"{named.path}.{error.argument}", f"{named.path}.{error}")
