"""The data of a run, and of the evaluation of its weights: from one source, and the same again."""

from __future__ import annotations

import dataclasses
import inspect
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Mapping, Optional

from ..averaging import ranks
from ..checkpoint import Checkpoint
from ..config import Config, Named
from ..data import (
    ArrayDataset,
    ArrayReader,
    Dataset,
    ImageFolder,
    LoaderReader,
    NoDownloader,
    PartFault,
    PartWords,
    Preprocess,
    Reader,
    Step,
    TransformFault,
    Transforms,
    divide,
    load_dataset,
    load_datasets,
    require_digest,
    transform_samples,
)
from ..errors import OtherDataError
from .catalog import construct

logger = logging.getLogger(__name__)

ReaderName = Literal["TrainReader", "EvalReader"]


@dataclass(frozen=True)
class RunData:
    """What a run trains on and evaluates on, all from one source.

    `eval` is what EvalDataset names; with `validation` it stays untouched by training.
    """

    train: Dataset
    eval: Dataset
    train_dir: Optional[str]
    eval_dir: Optional[str]
    validation: Optional[Dataset] = None

    @property
    def evaluated(self) -> Dataset:
        """Return what is evaluated on during training, and the best weights are chosen by."""
        return self.eval if self.validation is None else self.validation

    def facts(self, config: Config) -> dict[str, Any]:
        """Return what the manifest says of the data, so that a resume takes the same.

        And what pictures that come later are fed as: as `config` has the evaluation fed.
        """
        facts = {
            "kind": self.eval.kind,
            "class_names": self.eval.class_names,
            "preprocess": Preprocess.of(transformed(config, self.eval, "EvalReader")).to_dict(),
            "train": _facts_of(self.train, self.train_dir),
            "eval": _facts_of(self.eval, self.eval_dir),
        }
        if self.validation is not None:
            facts["validation"] = _facts_of(self.validation, self.train_dir)
        return facts


def load_data(config: Config, start: Optional[Checkpoint], accepts_others: bool = False) -> RunData:
    """Return the data of a run; one that continues gets its own, or an error.

    With `accepts_others` the config alone says which.

    Raises:
        DataError: missing, damaged, or (OtherDataError) not those that the run began with.
    """
    require_sizes(config)
    saved = start.manifest["data"] if start is not None and not accepts_others else None
    train_request = _request(config, config.TrainDataset, saved and saved["train"])
    eval_request = _request(config, config.EvalDataset, saved and saved["eval"])
    train, evaluation = load_datasets(
        train_request,
        eval_request,
        config.offline,
        required_kind=saved["kind"] if saved else None,
    )
    train, validation = _divided(config, train)
    folders = _folder_of(train_request), _folder_of(eval_request)
    data = RunData(train, evaluation, *folders, validation)
    if saved and start is not None:
        hint = _other_words(config, start.manifest)
        require_digest(train, saved["train"]["digest"], hint)
        require_digest(evaluation, saved["eval"]["digest"])
    return data


def load_eval_data(
    config: Config, manifest: Mapping[str, Any], is_offline: bool = False
) -> Dataset:
    """Return the evaluation data; of the run that `manifest` is of, where there is one.

    With `is_offline`, nothing is downloaded for it.

    Raises:
        DataError: missing, damaged, or other data than the run's.
    """
    require_sizes(config)
    saved = manifest.get("data")
    return load_dataset(
        _request(config, config.EvalDataset, saved and saved["eval"]),
        config.offline,
        required_kind=saved["kind"] if saved else None,
        required_digest=saved["eval"]["digest"] if saved else None,
        downloader=NoDownloader() if is_offline else None,
    )


def load_validation_data(config: Config, manifest: Mapping[str, Any]) -> Dataset:
    """Return what `validation` keeps out of training; of the run that `manifest` is of, if any.

    Raises:
        ConfigError: the config keeps nothing out.
        DataError: missing, damaged, or (OtherDataError) other data than the run's.
    """
    require_sizes(config)
    if config.validation is None:
        raise config.error(
            "validation", "the config keeps no validation data out; such as -o validation=0.1"
        )
    saved = manifest.get("data")
    request = _request(config, config.TrainDataset, saved and saved["train"])
    whole = load_dataset(request, config.offline, required_kind=saved["kind"] if saved else None)
    _, validation = _divided(config, whole)
    assert validation is not None
    if saved and "validation" not in saved:
        raise OtherDataError("the run kept no validation data out of its training")
    if saved:
        hint = _other_words(config, manifest, "validation")
        require_digest(validation, saved["validation"]["digest"], hint)
    return validation


def load_deciding_data(config: Config, manifest: Mapping[str, Any]) -> Dataset:
    """Return what weights are chosen by: the validation data where the config keeps some out.

    Errors as of `load_eval_data` and `load_validation_data`.
    """
    if config.validation is None:
        return load_eval_data(config, manifest)
    return load_validation_data(config, manifest)


def make_train_reader(config: Config, dataset: Dataset) -> Reader:
    """Return the reader of the training data, in an order that seed and epoch decide."""
    section = config.TrainReader
    return _make_reader(
        transformed(config, dataset, "TrainReader"),
        section.batch_size,
        "TrainReader",
        section.num_workers,
        shuffle=section.shuffle,
        drop_last=section.drop_last,
        seed=config.seed,
        is_shared=True,
    )


def make_eval_reader(config: Config, dataset: Dataset) -> Reader:
    """Return the reader of the evaluation data: every image once, in order."""
    section = config.EvalReader
    prepared = transformed(config, dataset, "EvalReader")
    return _make_reader(prepared, section.batch_size, "EvalReader", section.num_workers)


def make_trial_reader(dataset: Dataset, num_images: int) -> Reader:
    """Return a reader of a few images, for which no worker is started."""
    return _make_reader(dataset, num_images, "EvalReader", num_workers=0)


def make_transforms(config: Config, section: ReaderName) -> Optional[Transforms]:
    """Return what a reader's section does to each image, None where it does nothing.

    Raises:
        ConfigError: a transform refuses its arguments, or cannot be called; with its line.
    """
    steps = []
    for named in getattr(config, section).transforms:
        transform = construct(config, named)
        if not callable(transform):
            raise config.error(
                f"{named.path}.name",
                f"{named.path} ({named.name}) gives a {type(transform).__name__}, which cannot be "
                "called with an image",
            )
        steps.append(Step(named.path, named.name, transform, named.arguments))
    return Transforms(steps) if steps else None


def transformed(config: Config, dataset: Dataset, section: ReaderName) -> Dataset:
    """Return the data as a reader's section says; the same object where it names no transforms.

    Raises:
        ConfigError: a transform refuses its arguments or one of the samples tried.
        DataError: a sample cannot be read, or what comes out are images of several sizes.
    """
    transforms = make_transforms(config, section)
    if transforms is None:
        return dataset
    try:
        return transform_samples(dataset, transforms)
    except TransformFault as fault:
        raise config.error(fault.path, str(fault)) from None


def require_sizes(config: Config) -> None:
    """Raise ConfigError where images keep their own sizes and no transform makes them one."""
    pairs = [(config.TrainDataset, "TrainReader"), (config.EvalDataset, "EvalReader")]
    if config.validation is not None:
        pairs.append((config.TrainDataset, "EvalReader"))
    for dataset, section in pairs:
        is_own = dataset.cls is ImageFolder and dataset.arguments.get("image_size") is None
        if is_own and not getattr(config, section).transforms:
            raise config.error(
                dataset.path,
                f"{dataset.path}.image_size is missing, such as image_size: 64; it may be left out "
                f"where {section}.transforms make the size",
            )


def note_on(dataset: Dataset) -> str:
    """Return what stands beside each figure where the data are not the ones people expect."""
    return _note(dataset.kind, dataset.is_validation)


def note_on_run(manifest: Mapping[str, Any]) -> str:
    """Return the same for a run, from its manifest."""
    return _note(manifest["data"]["kind"], "validation" in manifest["data"])


def _make_reader(
    dataset: Dataset,
    batch_size: int,
    section: str,
    num_workers: int,
    shuffle: bool = False,
    drop_last: bool = False,
    seed: int = 0,
    is_shared: bool = False,
) -> Reader:
    """Return a reader; where it `is_shared`, of this process's part of each batch."""
    place = (ranks.rank(), ranks.num_ranks()) if is_shared else (0, 1)
    if not isinstance(dataset, ArrayDataset):
        return LoaderReader(dataset, batch_size, shuffle, drop_last, seed, num_workers, *place)
    # One is the default, and none is what there are.
    if num_workers > 1:
        logger.info(
            "%s.num_workers: %d is of no use, since these data are in memory", section, num_workers
        )
    return ArrayReader(dataset, batch_size, shuffle, drop_last, seed, *place)


def _note(kind: str, is_validation: bool) -> str:
    parts = ["the embedded UCI digits, not MNIST"] if kind == "digits" else []
    parts += ["validation images"] if is_validation else []
    return f" (on {'; '.join(parts)})" if parts else ""


def _words_of(config: Config) -> PartWords:
    return PartWords(**{f.name: getattr(config, f.name) for f in dataclasses.fields(PartWords)})


def _divided(config: Config, dataset: Dataset) -> tuple[Dataset, Optional[Dataset]]:
    """Return what is trained on, and what validation takes.

    Raises:
        ConfigError: there are not so many images; with its line.
    """
    try:
        return divide(dataset, _words_of(config))
    except PartFault as fault:
        raise config.error(fault.key, str(fault)) from None


def _other_words(config: Config, manifest: Mapping[str, Any], keys: str = "") -> str:
    """Return which keys divide the data otherwise than in a run, as the end of a message.

    `keys` is how those begin that matter.
    """
    before = manifest.get("config_values")
    if not isinstance(before, Mapping):
        return ""
    changed = []
    for key, value in dataclasses.asdict(_words_of(config)).items():
        # A run that began before there was such a key had its default.
        old = before.get(key, getattr(Config, key))
        if old != value and key.startswith(keys):
            changed.append(f"{key} was {_said(old)}, is {_said(value)}")
    return f"; {', '.join(changed)}" if changed else ""


def _said(value: Any) -> str:
    return "not set" if value is None else str(value)


def _folder_of(request: Any) -> Optional[str]:
    # A dataset of the user's may mean anything by that name.
    folder = getattr(request, "dataset_dir", None)
    return folder if isinstance(folder, str) else None


def _facts_of(dataset: Dataset, folder: Optional[str]) -> dict[str, Any]:
    absolute = None if folder is None else str(Path(folder).expanduser().absolute())
    return {"source": dataset.source, "digest": dataset.digest, "dataset_dir": absolute}


def _request(config: Config, named: Named, saved: Optional[Mapping[str, Any]]) -> Any:
    """Return what a dataset section asks for; a run's own folder where it names none."""
    folder = saved.get("dataset_dir") if saved else None
    takes_folder = "dataset_dir" in inspect.signature(named.cls).parameters
    if folder and takes_folder and not named.arguments.get("dataset_dir"):
        named = replace(named, arguments={**named.arguments, "dataset_dir": folder})
    return construct(config, named)
