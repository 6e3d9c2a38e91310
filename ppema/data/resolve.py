"""Decide where a run's data come from: one source for training and evaluation, or none."""

from __future__ import annotations

import logging
from typing import Literal, Mapping, Optional, Sequence, Union

from ..errors import ConfigError, DataError
from .dataset import ArrayDataset, Kind
from .digits import Digits, load_digits
from .download import Downloader
from .mnist import MNIST, NotWithinReachError, load_mnist

logger = logging.getLogger(__name__)

DatasetRequest = Union[MNIST, Digits]
Offline = Literal["digits", "error"]

# What a config may name; keyword arguments make a request of it.
DATASETS: Mapping[str, type[DatasetRequest]] = {"MNIST": MNIST, "Digits": Digits}

_WAYS_OUT = (
    "set offline: digits to use the digits that come with ppema, or name the folder of the four "
    "files: -o TrainDataset.dataset_dir=... EvalDataset.dataset_dir=..."
)
_EVERYDAY_NAMES: Mapping[Kind, str] = {"mnist": "MNIST", "digits": "the embedded digits"}


def load_datasets(
    train_request: DatasetRequest,
    eval_request: DatasetRequest,
    offline: Offline,
    *,
    required_kind: Optional[Kind] = None,
    required_digests: Optional[tuple[str, str]] = None,
) -> tuple[ArrayDataset, ArrayDataset]:
    """Return the data to train on and to evaluate on, both from one source.

    Args:
        train_request: as the config says it.
        eval_request: likewise, of the same class.
        offline: what to do when MNIST is asked for, no dataset_dir is given, and it is neither
            in Paddle's cache nor on a mirror: `digits` takes the embedded digits for both, with
            a warning; `error` raises.
        required_kind: the kind of a run that goes on; it takes the place of `offline`.
        required_digests: the digests of that run, in the order of the requests.

    Raises:
        ConfigError: one request is for MNIST, the other for the digits.
        DataError: data are damaged, missing, or not those required; the text says which, where
            they were looked for, and the ways out.
    """
    train, evaluation = _load([train_request, eval_request], offline, required_kind)
    if required_digests is not None:
        for dataset, digest in zip((train, evaluation), required_digests):
            _require_digest(dataset, digest)
    return train, evaluation


def load_dataset(
    request: DatasetRequest,
    offline: Offline,
    *,
    required_kind: Optional[Kind] = None,
    required_digest: Optional[str] = None,
) -> ArrayDataset:
    """Return one part of the data; arguments and errors as for `load_datasets`."""
    (dataset,) = _load([request], offline, required_kind)
    if required_digest is not None:
        _require_digest(dataset, required_digest)
    return dataset


def _load(
    requests: Sequence[DatasetRequest], offline: Offline, required_kind: Optional[Kind]
) -> list[ArrayDataset]:
    names = " and ".join(type(request).__name__ for request in requests)
    if not all(isinstance(request, (MNIST, Digits)) for request in requests):
        raise ConfigError(f"the data must be {' or '.join(DATASETS)}, got {names}")
    if len({type(request) for request in requests}) > 1:
        raise ConfigError(
            f"TrainDataset and EvalDataset are {names}; both must be the same data, since "
            "figures would otherwise mean nothing"
        )
    if required_kind is not None:
        _require_possible(requests, required_kind)
    if required_kind == "digits":
        return _load_digits(requests)
    downloader = Downloader()
    try:
        return [_load_as_asked(request, downloader) for request in requests]
    except NotWithinReachError as error:
        _require_fallback(requests, offline, required_kind, error)
        logger.warning(
            "MNIST is not within reach (%s): the embedded UCI digits are used in its place, to "
            "train and to evaluate; NO FIGURE of this run is a figure on MNIST",
            error,
        )
    return _load_digits(requests)


def _load_as_asked(request: DatasetRequest, downloader: Downloader) -> ArrayDataset:
    if isinstance(request, MNIST):
        return load_mnist(request, downloader)
    return load_digits(request.mode)


def _load_digits(requests: Sequence[DatasetRequest]) -> list[ArrayDataset]:
    return [load_digits(request.mode) for request in requests]


def _require_possible(requests: Sequence[DatasetRequest], kind: Kind) -> None:
    """Refuse at once what the config's own words rule out."""
    if kind == "mnist" and any(isinstance(request, Digits) for request in requests):
        raise DataError("the run was trained on MNIST, but the config names the embedded digits")
    if kind == "digits":
        folders = _folders(requests)
        if folders:
            raise DataError(
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
    if required_kind == "mnist":
        raise DataError(
            f"the run was trained on MNIST, but only the embedded digits are within reach: {error}"
        ) from None
    folders = _folders(requests)
    if folders:
        raise DataError(
            f"dataset_dir {folders[0]} is given for one of TrainDataset and EvalDataset, and "
            f"MNIST for the other is not within reach: {error}; give dataset_dir for both"
        ) from None
    if offline == "error":
        raise DataError(f"MNIST is not within reach: {error}; {_WAYS_OUT}") from None


def _require_digest(dataset: ArrayDataset, digest: str) -> None:
    if dataset.digest != digest:
        raise DataError(
            f"{dataset.source}: these are not the data of the run "
            f"(sha256 {dataset.digest[:12]}, the run's is {digest[:12]})"
        )


def _folders(requests: Sequence[DatasetRequest]) -> list[str]:
    """Return the folders that the user gave."""
    given = [request.dataset_dir for request in requests if isinstance(request, MNIST)]
    return [folder for folder in given if folder is not None]
