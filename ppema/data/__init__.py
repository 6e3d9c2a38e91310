"""Data for training and evaluation: where they come from, and batches of them.

Importing it needs no Paddle; data that are read sample by sample do, when they are read.
"""

from __future__ import annotations

from .cifar import Cifar10, Cifar100
from .dataset import ArrayDataset
from .digits import Digits
from .download import NoDownloader
from .image_folder import ImageFolder
from .loader import LoaderReader
from .mnist import MNIST, FashionMNIST
from .paddle_transforms import paddle_transforms
from .parts import PartFault, PartWords, divide
from .preprocess import Preprocess
from .reader import ArrayReader, Batch, Reader
from .resolve import (
    DATASETS,
    Dataset,
    DatasetRequest,
    Offline,
    load_dataset,
    load_datasets,
    require_digest,
)
from .samples import SampleDataset
from .transforms import Step, TransformFault, Transforms, prepare_image, transform_samples

__all__ = [
    "DATASETS",
    "MNIST",
    "ArrayDataset",
    "ArrayReader",
    "Batch",
    "Cifar10",
    "Cifar100",
    "Dataset",
    "DatasetRequest",
    "Digits",
    "FashionMNIST",
    "ImageFolder",
    "LoaderReader",
    "NoDownloader",
    "Offline",
    "PartFault",
    "PartWords",
    "Preprocess",
    "Reader",
    "SampleDataset",
    "Step",
    "TransformFault",
    "Transforms",
    "divide",
    "load_dataset",
    "load_datasets",
    "paddle_transforms",
    "prepare_image",
    "require_digest",
    "transform_samples",
]
