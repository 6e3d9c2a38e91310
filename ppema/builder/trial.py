"""One small batch through model and loss, so that what does not fit is said before training."""

from __future__ import annotations

from typing import Any, Callable

import paddle

from ..config import Config
from ..engine.trainer import Trainer
from .catalog import reason_of
from .run_data import RunData, make_eval_reader


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
        raise config.error(path, f"{path} ({name}): {reason_of(error)}") from error


def _shape_of(value: Any) -> str:
    if not hasattr(value, "shape"):
        return f"a {type(value).__name__}"
    return f"[{','.join(map(str, value.shape))}]"
