"""The data of a run, and of the evaluation of its weights: from one source, and the same again."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Mapping, Optional

from ..checkpoint import Checkpoint
from ..config import Config, Named
from ..data import ArrayDataset, ArrayReader, load_dataset, load_datasets
from .catalog import construct


@dataclass(frozen=True)
class RunData:
    """What a run trains on and evaluates on, both from one source."""

    train: ArrayDataset
    eval: ArrayDataset
    train_dir: Optional[str]
    eval_dir: Optional[str]

    def facts(self) -> dict[str, Any]:
        """Return what the manifest says of the data, so that a resume takes the same."""
        return {
            "kind": self.eval.kind,
            "train": _facts_of(self.train, self.train_dir),
            "eval": _facts_of(self.eval, self.eval_dir),
        }


def load_data(config: Config, start: Optional[Checkpoint]) -> RunData:
    """Return the data of a run; one that continues gets its own, or an error.

    Raises:
        DataError: missing, damaged, or other data than the run began with.
    """
    saved = start.manifest["data"] if start is not None else None
    train_request = _request(config, config.TrainDataset, saved and saved["train"])
    eval_request = _request(config, config.EvalDataset, saved and saved["eval"])
    train, evaluation = load_datasets(
        train_request,
        eval_request,
        config.offline,
        required_kind=saved["kind"] if saved else None,
        required_digests=(saved["train"]["digest"], saved["eval"]["digest"]) if saved else None,
    )
    folders = [getattr(r, "dataset_dir", None) for r in (train_request, eval_request)]
    return RunData(train, evaluation, *folders)


def load_eval_data(config: Config, manifest: Mapping[str, Any]) -> ArrayDataset:
    """Return the evaluation data; of the run that `manifest` is of, where there is one.

    Raises:
        DataError: missing, damaged, or other data than the run's.
    """
    saved = manifest.get("data")
    return load_dataset(
        _request(config, config.EvalDataset, saved and saved["eval"]),
        config.offline,
        required_kind=saved["kind"] if saved else None,
        required_digest=saved["eval"]["digest"] if saved else None,
    )


def make_train_reader(config: Config, dataset: ArrayDataset) -> ArrayReader:
    """Return the reader of the training data, in an order that seed and epoch decide."""
    section = config.TrainReader
    return ArrayReader(
        dataset,
        batch_size=section.batch_size,
        shuffle=section.shuffle,
        drop_last=section.drop_last,
        seed=config.seed,
    )


def make_eval_reader(config: Config, dataset: ArrayDataset) -> ArrayReader:
    """Return the reader of the evaluation data: every image once, in order."""
    return ArrayReader(
        dataset, config.EvalReader.batch_size, shuffle=False, drop_last=False, seed=0
    )


def note_on(dataset: ArrayDataset) -> str:
    """Return what stands beside each figure where the data are not the ones people expect."""
    return _note(dataset.kind)


def note_on_run(manifest: Mapping[str, Any]) -> str:
    """Return the same for a run, from its manifest."""
    return _note(manifest["data"]["kind"])


def _note(kind: str) -> str:
    return " (on the embedded UCI digits, not MNIST)" if kind == "digits" else ""


def _facts_of(dataset: ArrayDataset, folder: Optional[str]) -> dict[str, Any]:
    absolute = None if folder is None else str(Path(folder).expanduser().absolute())
    return {"source": dataset.source, "digest": dataset.digest, "dataset_dir": absolute}


def _request(config: Config, named: Named, saved: Optional[Mapping[str, Any]]) -> Any:
    """Return what a dataset section asks for; a run's own folder where it names none."""
    folder = saved.get("dataset_dir") if saved else None
    takes_folder = "dataset_dir" in inspect.signature(named.cls).parameters
    if folder and takes_folder and not named.arguments.get("dataset_dir"):
        named = replace(named, arguments={**named.arguments, "dataset_dir": folder})
    return construct(config, named)
