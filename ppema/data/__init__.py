"""Data for training and evaluation: where they come from, and batches of them; needs no Paddle."""

from __future__ import annotations

from .dataset import ArrayDataset
from .digits import Digits
from .mnist import MNIST
from .reader import ArrayReader, Batch
from .resolve import DATASETS, DatasetRequest, Offline, load_dataset, load_datasets

__all__ = [
    "DATASETS",
    "MNIST",
    "ArrayDataset",
    "ArrayReader",
    "Batch",
    "DatasetRequest",
    "Digits",
    "Offline",
    "load_dataset",
    "load_datasets",
]
