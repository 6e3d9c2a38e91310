"""The pictures of an evaluation: what a config's data are called and look like."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Mapping

import numpy as np

from ..data import Dataset
from ..engine.predictions import Predictions
from ..engine.weights import Weights
from ..errors import ConfigError
from ..metrics import Evaluation
from ..plots import PixelScale, plot_confusion, plot_mistakes, plot_reliability
from .run_data import note_on

NUM_MISTAKES = 24


def plots_folder(named: str, weights: Weights) -> Path:
    """Return the folder for pictures: the one that was named, or `plots` beside the weights.

    Raises:
        ConfigError: there is a file of that name.
    """
    source = weights.file if weights.checkpoint is None else weights.checkpoint.path
    assert source is not None
    # Short where it can be: a checkpoint knows where it really lies.
    beside = Path(os.path.relpath(source.parent.resolve()))
    folder = Path(named) if named else beside / "plots"
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--plots {folder}: is a file; name a folder")
    return folder


def pixel_scale(dataset: Dataset) -> PixelScale:
    """Return how the images that a model is fed become pixels again."""
    if np.dtype(getattr(dataset, "image_dtype", np.uint8)) != np.uint8:
        return PixelScale()
    return PixelScale(dataset.mean, dataset.std)


def class_names_of(dataset: Dataset, num_classes: int) -> tuple[str, ...]:
    """Return the names of the classes; their numbers where the data do not name them."""
    names = dataset.class_names or ()
    return (*names, *(str(label) for label in range(len(names), num_classes)))[:num_classes]


def chosen(evaluations: Mapping[str, Evaluation], winner: Any) -> str:
    """Return the name of the weights to draw: the run's winner, or the best of those evaluated."""
    if winner in evaluations:
        return str(winner)
    return max(evaluations, key=lambda name: evaluations[name].rank)


def plot_evaluation(
    name: str, title: str, predictions: Predictions, dataset: Dataset, folder: Path
) -> list[Path]:
    """Draw confusion matrix, reliability and the surest mistakes of some weights; return the files.

    Raises:
        StorageError: the disk refused.
    """
    counts = predictions.confusion
    class_names = class_names_of(dataset, len(counts))
    title += note_on(dataset)
    kinds = ("confusion", "reliability", "mistakes")
    confusion, diagram, sheet = (folder / f"{name}_{kind}.png" for kind in kinds)
    plot_confusion(counts, class_names, title, confusion)
    plot_reliability(predictions.reliability, title, diagram)
    num_images, num_mistakes = int(counts.sum()), int(counts.sum() - counts.trace())
    if not num_mistakes:
        # One of other weights would say the contrary.
        sheet.unlink(missing_ok=True)
        return [confusion, diagram]
    shown = len(predictions.mistakes)
    what = "all" if shown == num_mistakes else f"the surest {shown} of"
    title = f"{title}: {what} {num_mistakes:,} mistakes on {num_images:,} images"
    plot_mistakes(predictions.mistakes, pixel_scale(dataset), class_names, title, sheet)
    return [confusion, diagram, sheet]
