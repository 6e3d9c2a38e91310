"""One small batch through model and loss, so that what does not fit is said before training."""

from __future__ import annotations

import logging
from typing import Any, Callable, Optional, Sequence

import paddle

from ..config import Config
from ..data import Dataset
from ..data.seeding import kept_generators
from ..engine.trainer import Trainer
from ..errors import telling_line
from .images import no_empty_outputs, said_of_images, what_fits
from .run_data import RunData, make_trial_reader, transformed

logger = logging.getLogger(__name__)


def try_one_batch(config: Config, trainer: Trainer, data: RunData) -> None:
    """Run the model and the loss on two images, so that what does not fit is said before training.

    Leaves weights, statistics, modes and random numbers as they were.

    Raises:
        ConfigError: the model does not take the images, its classes are not the data's, or the
            loss is no single number.
    """
    model, dataset = trainer.model, data.train
    # As the reader of the training data has transformed them.
    image, label = _first_batch(trainer.reader.dataset)
    eval_image, _ = _first_batch(transformed(config, data.evaluated, "EvalReader"))
    is_other = eval_image.shape[1:] != image.shape[1:]
    model.eval()
    try:
        with paddle.no_grad(), kept_generators():
            logits = _run_model(config, model, image, "Train")
            _require_logits(config, logits, len(label), dataset.class_names)
            if is_other:
                _run_model(config, model, eval_image, "Eval")
            loss = _attempt(
                config, "Loss", config.Loss.name, lambda: trainer.loss_fn(logits, label)
            )
            if not paddle.is_tensor(loss) or loss.size != 1 or not loss.is_floating_point():
                raise config.error(
                    "Loss", f"Loss ({config.Loss.name}) gives {_shape_of(loss)}, not one number"
                )
    finally:
        model.train()
    if is_other:
        logger.warning(
            "in training %s; in evaluation %s; is that meant?",
            said_of_images(config, "Train", image.shape[1:]),
            said_of_images(config, "Eval", eval_image.shape[1:]),
        )


def _first_batch(dataset: Dataset) -> tuple[Any, Any]:
    batch = next(make_trial_reader(dataset, num_images=2).batches(1))
    return paddle.to_tensor(batch.image), paddle.to_tensor(batch.label)


def _require_logits(
    config: Config, logits: Any, num_images: int, class_names: Optional[Sequence[str]]
) -> None:
    shape = list(getattr(logits, "shape", []))
    gives = f"Model ({config.Model.name}) gives {_shape_of(logits)} for {num_images} images"
    if class_names is None:
        # A dataset of the user's need not say how many classes it has.
        if len(shape) != 2 or shape[0] != num_images:
            raise config.error("Model", f"{gives}: [{num_images},number of classes] is needed")
    elif shape != [num_images, len(class_names)]:
        raise config.error(
            "Model.num_classes",
            f"{gives}, and the data have {len(class_names)} classes: "
            f"[{num_images},{len(class_names)}] is needed",
        )


def _run_model(config: Config, model: Any, image: Any, part: str) -> Any:
    """Return the logits, or say which images the model would take, and what decides theirs."""
    try:
        with no_empty_outputs(model):
            return model(image)
    # Whatever a class of Paddle's or the user's raises, it does not fit the data.
    except Exception as error:
        key, reason = what_fits(config.Model, model, image)
        images = said_of_images(config, part, image.shape[1:])
        text = f"Model ({config.Model.name}): {reason or telling_line(error)}; {images}"
        raise config.error(f"Model.{key}", text) from error


def _attempt(config: Config, path: str, name: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    # Whatever a class of Paddle's or the user's raises, it does not fit the data.
    except Exception as error:
        raise config.error(path, f"{path} ({name}): {telling_line(error)}") from error


def _shape_of(value: Any) -> str:
    if not hasattr(value, "shape"):
        return f"a {type(value).__name__}"
    return f"[{','.join(map(str, value.shape))}]"
