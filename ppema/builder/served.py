"""A trained network as it is used after its run: weights, what it is fed, and its classes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Mapping, Optional

import numpy as np
import paddle

from ..checkpoint import require_finite
from ..config import Config
from ..data import ArrayDataset, Dataset, Preprocess, Transforms
from ..data.samples import OWN_SIZE, read_sample
from ..data.stored_transforms import describe_transforms, own_transforms
from ..engine.weights import ALL, Weights, find_weights
from ..errors import CheckpointError, ConfigError, DataError, telling_line
from ..ranking import names_of
from .parts import make_model
from .run import run_folder
from .run_data import load_eval_data, make_transforms, transformed

_TRIAL_IMAGES = 2
# Of an export beside its model.
_CHECK_IMAGES = 16


@dataclass(frozen=True)
class Served:
    """A model in eval mode that holds one set of a run's weights, and what goes in and comes out.

    `name` is which of the sets it is: raw, an average, or a file's stem.
    """

    model: Any
    weights: Weights
    name: str
    preprocess: Preprocess
    class_names: tuple[str, ...]

    def source(self, config: Config) -> dict[str, Any]:
        """Return where the weights are from, for programs."""
        manifest, checkpoint = self.weights.manifest, self.weights.checkpoint
        return {
            "config": config.name,
            "checkpoint": checkpoint and f"{checkpoint.path.parent.name}/{checkpoint.path.name}",
            "step": manifest.get("step"),
            "epoch": manifest.get("epoch"),
            "average": self.name,
            "figures": manifest.get("metrics", {}).get(self.name),
            "weights": self.weights.digest(self.name),
        }


def load_served(config: Config, average: Optional[str]) -> Served:
    """Return the model that the config describes with the chosen weights of its run.

    Only the run's folder is read; the data are, where its manifest does not say how they are fed.

    Args:
        config: `weights` in it names others than the run's own.
        average: raw or an average's name; None for the winner of the run's best checkpoint.

    Raises:
        CheckpointError: no weights are there, or they are damaged or do not fit.
        ConfigError: no such average, or none is known to be the best.
        NonFiniteError: a weight is NaN or infinite.
    """
    if average == ALL:
        raise ConfigError("--average all: one set of weights is needed; name it")
    weights = find_weights(config.weights, run_folder(config), average or ALL)
    name = weights.choose(config.select)
    if weights.checkpoint is not None:
        weights = find_weights(config.weights, run_folder(config), name)
    preprocess, class_names = _data_facts(config, weights.manifest)
    model = make_model(config)
    weights.load(name, model)
    require_finite(model.state_dict(), "use them")
    model.eval()
    num_classes = _count_classes(config, model, preprocess)
    if class_names is not None and len(class_names) != num_classes:
        raise CheckpointError(
            f"{weights.described}: the model gives {num_classes} classes, and the data have "
            f"{len(class_names)}"
        )
    return Served(model, weights, name, preprocess, names_of(class_names, num_classes))


def check_images(config: Config, served: Served) -> tuple[Any, str, str]:
    """Return some of the run's evaluation images as the model is fed them, and what they are.

    In a few words, and where they are from. Where these are not at hand, noise of the same range
    takes their place.
    """
    preprocess = served.preprocess
    try:
        dataset = _evaluation_data_at_hand(config, served.weights.manifest)
        chosen = np.linspace(0, len(dataset) - 1, _CHECK_IMAGES).astype(int).tolist()
        if isinstance(dataset, ArrayDataset):
            images = list(dataset.take(np.array(chosen)))
        else:
            images = [read_sample(dataset.source, dataset.samples, index)[0] for index in chosen]
        return (
            np.stack([preprocess(image) for image in images]),
            "evaluation images",
            dataset.source,
        )
    except DataError as error:
        random = np.random.RandomState(0)
        channels, *size = preprocess.decoded
        # Of pictures with sizes of their own, one that the transforms leave as it is would do.
        rows, columns = preprocess.shape[1:] if tuple(size) == OWN_SIZE else size
        shape = (_CHECK_IMAGES, channels, rows, columns)
        is_bytes = preprocess.dtype == "uint8"
        noise = random.randint(0, 256, shape) if is_bytes else random.standard_normal(shape)
        images = [preprocess(image) for image in noise.astype(preprocess.dtype)]
        return np.stack(images), "seeded noise", f"as the evaluation data are not at hand: {error}"


def _evaluation_data_at_hand(config: Config, manifest: Mapping[str, Any]) -> Dataset:
    """Return the evaluation data, of the run's own folder where that is still there."""
    folder = manifest["data"]["eval"]["dataset_dir"] if "data" in manifest else None
    named = config.EvalDataset
    if folder and Path(folder).is_dir() and "dataset_dir" in named.arguments:
        # The config may name another: the run was perhaps told by -o.
        named = replace(named, arguments={**named.arguments, "dataset_dir": folder})
    return load_eval_data(replace(config, EvalDataset=named), manifest, is_offline=True)


def _data_facts(
    config: Config, manifest: Mapping[str, Any]
) -> tuple[Preprocess, Optional[tuple[str, ...]]]:
    """Return what is done to pictures and the names of the classes, of the run or its config."""
    saved = manifest.get("data", {})
    if "preprocess" not in saved:
        # Weights of no run, or of a run before ppema kept these facts.
        dataset: Dataset = load_eval_data(config, manifest)
        return Preprocess.of(transformed(config, dataset, "EvalReader")), dataset.class_names
    names, facts = saved["class_names"], saved["preprocess"]
    try:
        preprocess = Preprocess.from_dict(facts, _own_transforms(config, facts))
        return preprocess, None if names is None else tuple(names)
    except ValueError as error:
        raise CheckpointError(f"the manifest of step {manifest['step']}: {error}") from None


def _own_transforms(config: Config, facts: Any) -> Optional[Transforms]:
    """Return the transforms of the config where those of a run are the user's own code.

    A manifest may be a stranger's: what is imported is what the config says, and only that.

    Raises:
        ConfigError: the config has others than the run.
    """
    stored = facts.get("transforms") if isinstance(facts, Mapping) else None
    names = own_transforms(stored)
    if not names:
        return None
    transforms = make_transforms(config, "EvalReader")
    if transforms is None or describe_transforms(transforms) != stored:
        raise config.error(
            "EvalReader",
            f"EvalReader.transforms are not those of the run, among which is {names[0]}, which is "
            "not Paddle's and only taken from the config; name the run's own config",
        )
    return transforms


def _count_classes(config: Config, model: Any, preprocess: Preprocess) -> int:
    """Return how many logits the model gives for a picture.

    Raises:
        ConfigError: the model of the config does not take such pictures, or gives no logits.
    """
    shape = [_TRIAL_IMAGES, *preprocess.shape]
    try:
        with paddle.no_grad():
            logits = model(paddle.zeros(shape))
    # The model may be the user's own and fail in any way.
    except Exception as error:
        raise config.error(
            "Model", f"Model ({config.Model.name}): {telling_line(error)}"
        ) from error
    found = list(getattr(logits, "shape", []))
    if len(found) != 2 or found[0] != _TRIAL_IMAGES:
        raise config.error(
            "Model",
            f"Model ({config.Model.name}) gives {found or type(logits).__name__} for "
            f"{_TRIAL_IMAGES} images: [{_TRIAL_IMAGES}, number of classes] is needed",
        )
    return int(found[1])
