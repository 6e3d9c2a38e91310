"""Decide where a run's data come from: one source for training and evaluation, or none."""

from __future__ import annotations

import logging
from typing import Any, Callable, Literal, Mapping, Optional, Protocol, Sequence, Union

from ..errors import ConfigError, DataError, OtherDataError
from .archives import NotWithinReachError
from .cifar import Cifar10, Cifar100
from .dataset import ArrayDataset, Kind
from .digits import Digits, load_digits
from .download import Downloader
from .image_folder import ImageFolder
from .mnist import MNIST, FashionMNIST
from .samples import SampleDataset, UserSamples

logger = logging.getLogger(__name__)

Offline = Literal["digits", "error"]
Dataset = Union[ArrayDataset, SampleDataset]


class DatasetRequest(Protocol):
    """What a config's words ask for: one class a data set, made of keyword arguments."""

    @property
    def kind(self) -> Kind:
        """Return which data it is, for programs."""

    @property
    def title(self) -> str:
        """Return what people call it."""

    def load(self, downloader: Downloader) -> Dataset:
        """Return the data.

        Raises:
            DataError: missing or damaged; NotWithinReachError where it had to be downloaded.
        """


# What a config may name; keyword arguments make a request of it.
DATASETS: Mapping[str, Callable[..., DatasetRequest]] = {
    "MNIST": MNIST,
    "Digits": Digits,
    "FashionMNIST": FashionMNIST,
    "Cifar10": Cifar10,
    "Cifar100": Cifar100,
    "ImageFolder": ImageFolder,
}

# The digits stand in for MNIST, and for nothing else.
_STAND_IN = (MNIST, Digits)
_FOLDER_WAY_OUT = "-o TrainDataset.dataset_dir=... EvalDataset.dataset_dir=..."
_WAYS_OUT = (
    "set offline: digits to use the digits that come with ppema, or name the folder of the four "
    f"files: {_FOLDER_WAY_OUT}"
)
_EVERYDAY_NAMES: Mapping[str, str] = {
    "mnist": "MNIST",
    "digits": "the embedded digits",
    "fashion_mnist": "FashionMNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "image_folder": "an image folder",
    "user": "a dataset of your own",
}


def load_datasets(
    train_request: Any,
    eval_request: Any,
    offline: Offline,
    *,
    required_kind: Optional[Kind] = None,
) -> tuple[Dataset, Dataset]:
    """Return the data to train on and to evaluate on, both from one source.

    Args:
        train_request: as the config says it: of a class in DATASETS, or a map-style dataset.
        eval_request: likewise, of the same data.
        offline: what to do when MNIST is asked for, no dataset_dir is given, and it is neither
            in Paddle's cache nor on a mirror: `digits` takes the embedded digits for both, with
            a warning; `error` raises.
        required_kind: the kind of a run that goes on; it takes the place of `offline`.

    Raises:
        ConfigError: the requests are for different data, or one is for none.
        DataError: data are damaged, missing, or not of the kind required; the text says which,
            where they were looked for, and the ways out.
    """
    train, evaluation = _load([train_request, eval_request], offline, required_kind)
    _require_same_classes(train, evaluation)
    return train, evaluation


def load_dataset(
    request: Any,
    offline: Offline,
    *,
    required_kind: Optional[Kind] = None,
    required_digest: Optional[str] = None,
    downloader: Optional[Downloader] = None,
) -> Dataset:
    """Return one part of the data; as for `load_datasets`, and with the digest of a run's."""
    (dataset,) = _load([request], offline, required_kind, downloader)
    if required_digest is not None:
        require_digest(dataset, required_digest)
    return dataset


def _load(
    asked: Sequence[Any],
    offline: Offline,
    required_kind: Optional[Kind],
    downloader: Optional[Downloader] = None,
) -> Sequence[Dataset]:
    requests = [_as_request(one) for one in asked]
    if len({request.kind for request in requests}) > 1:
        names = " and ".join(type(one).__name__ for one in asked)
        raise ConfigError(
            f"TrainDataset and EvalDataset are {names}; both must be the same data, since "
            "figures would otherwise mean nothing"
        )
    if required_kind is not None:
        _require_possible(requests, required_kind)
    if required_kind == "digits":
        return _load_digits(requests)
    downloader = downloader or Downloader()
    try:
        return [request.load(downloader) for request in requests]
    except NotWithinReachError as error:
        _require_fallback(requests, offline, required_kind, error)
        logger.warning(
            "MNIST is not within reach (%s): the embedded UCI digits are used in its place, to "
            "train and to evaluate; NO FIGURE of this run is a figure on MNIST",
            error,
        )
    return _load_digits(requests)


def _as_request(asked: Any) -> DatasetRequest:
    if any(isinstance(asked, cls) for cls in DATASETS.values() if isinstance(cls, type)):
        return asked  # type: ignore[no-any-return]
    if not hasattr(type(asked), "__getitem__"):
        raise ConfigError(
            f"the data must be {', '.join(DATASETS)} or a map-style dataset, got "
            f"{type(asked).__name__}"
        )
    return UserSamples(asked)


def _load_digits(requests: Sequence[DatasetRequest]) -> list[Dataset]:
    return [load_digits(request.mode) for request in requests if isinstance(request, _STAND_IN)]


def _require_possible(requests: Sequence[DatasetRequest], kind: Kind) -> None:
    """Refuse at once what the config's own words rule out."""
    for request in requests:
        is_stand_in = kind == "digits" and request.kind == "mnist"
        if request.kind != kind and not is_stand_in:
            trained_on = _EVERYDAY_NAMES.get(kind, kind)
            raise OtherDataError(
                f"the run was trained on {trained_on}, but the config names {request.title}"
            )
    if kind == "digits":
        folders = _folders(requests)
        if folders:
            raise OtherDataError(
                f"the run was trained on the embedded digits, but dataset_dir is {folders[0]}; "
                "leave dataset_dir out, or start another run"
            )


def _require_fallback(
    requests: Sequence[DatasetRequest],
    offline: Offline,
    required_kind: Optional[Kind],
    error: NotWithinReachError,
) -> None:
    """Raise unless the digits may stand in for MNIST."""
    title = requests[0].title
    folders = _folders(requests)
    if required_kind == "mnist":
        raise OtherDataError(
            f"the run was trained on MNIST, but only the embedded digits are within reach: {error}"
        ) from None
    if folders:
        raise DataError(
            f"dataset_dir {folders[0]} is given for one of TrainDataset and EvalDataset, and "
            f"{title} for the other is not within reach: {error}; give dataset_dir for both"
        ) from None
    if not isinstance(requests[0], MNIST):
        raise DataError(
            f"{title} is not within reach: {error}; name the folder that has it: {_FOLDER_WAY_OUT}"
        ) from None
    if offline == "error":
        raise DataError(f"MNIST is not within reach: {error}; {_WAYS_OUT}") from None


def _require_same_classes(train: Dataset, evaluation: Dataset) -> None:
    """Raise where a label would mean one class in training and another in evaluation."""
    if train.class_names is None or evaluation.class_names is None:
        return
    if train.class_names != evaluation.class_names:
        differing = sorted(set(train.class_names) ^ set(evaluation.class_names))
        which = f": only one has {', '.join(differing[:5])}" if differing else " in another order"
        raise DataError(
            f"{evaluation.source}: its {len(evaluation.class_names)} classes are not the "
            f"{len(train.class_names)} of the training data{which}"
        )


def require_digest(dataset: Dataset, digest: str, hint: str = "") -> None:
    """Raise OtherDataError where the data are not those of a run; `hint` follows the text."""
    if dataset.digest != digest:
        raise OtherDataError(
            f"{dataset.source}: these are not the data of the run "
            f"(sha256 {dataset.digest[:12]}, the run's is {digest[:12]}){hint}"
        )


def _folders(requests: Sequence[DatasetRequest]) -> list[str]:
    """Return the folders that the user gave."""
    given = [getattr(request, "dataset_dir", None) for request in requests]
    return [folder for folder in given if folder is not None]
