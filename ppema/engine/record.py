"""The figures of a run: metrics.jsonl is the record of truth, VisualDL a view of it."""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional

from ..checkpoint.files import reason, replace_file
from ..errors import StorageError
from .predictions import Predictions
from .visualdl_view import BY_AVERAGE, ViewOptions, VisualDLView

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
_FIGURES = ("loss", "lr", "ips", "top1", "top2", "ece", "left_out")
# A record of a hundred averages takes a tenth; a stranger's line may be of any length.
_MAX_LINE = 1 << 20
# What a picture's axis can take.
_MAX_NUMBER = 1e300
_MAX_NAME = 100


class Recorder:
    """Append records to metrics.jsonl and show them in VisualDL.

    A training record has `step, epoch, split: train, loss, top1, lr, ips`, then by
    average `decay, distance, window, initial_share, never_moved`, and `left_out` where a gate is
    set; an evaluation record `step, epoch, split: eval, on, average, top1, top2, loss, ece`;
    `on` is test or validation.

    Args:
        folder: the run's folder.
        vdl_folder: where VisualDL's records go, one folder a curve; None for none.
        options: what VisualDL shows beside the figures.
    """

    def __init__(
        self, folder: Path, vdl_folder: Optional[Path], options: Optional[ViewOptions] = None
    ) -> None:
        self._path = folder / METRICS
        self._view = None
        if vdl_folder is not None:
            self._view = VisualDLView(vdl_folder, str(folder), options or ViewOptions())

    @property
    def has_view(self) -> bool:
        """Tell whether VisualDL's records are written."""
        return self._view is not None

    def start(self, step: int, is_open: bool = False) -> None:
        """Drop all records after `step`, and make the view of what is left anew.

        Of an open step only the training record stays: it is evaluated and shown again.

        Raises:
            StorageError: the disk refused; the records are what they were.
        """
        records = [
            record
            for record in read_records(self._path)
            if record["step"] < step
            or (record["step"] == step and not (is_open and record["split"] == "eval"))
        ]
        # On the disk by name too: a checkpoint that comes through a power cut must not be alone.
        replace_file(self._path, "".join(f"{json.dumps(r)}\n" for r in records).encode())
        if self._view is not None:
            steps = {record["step"] for record in records}
            self._view.restart(steps - {step} if is_open else steps)
            for record in records:
                self._view.show(record)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; it is in the file when this returns.

        Raises:
            StorageError: the disk refused.
        """
        # NaN is not JSON; null is.
        line = json.dumps(_without_nan(record), allow_nan=False)
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise StorageError(f"{self._path}: {reason(error)}") from error
        if self._view is not None:
            self._view.show(_without_nan(record))

    def show_weights(self, name: str, state: Mapping[str, Any], step: int) -> None:
        """Show the weights of one set, in the view only."""
        if self._view is not None:
            self._view.show_weights(name, state, step)

    def show_predictions(self, name: str, predictions: Predictions, step: int) -> None:
        """Show what one set of weights says of the evaluation data, in the view only."""
        if self._view is not None:
            self._view.show_predictions(name, predictions, step)

    def sync(self) -> None:
        """Wait until the disk has all records."""
        if self._path.exists():
            with open(self._path, "rb") as file:
                os.fsync(file.fileno())

    def close(self) -> None:
        """Flush the view."""
        if self._view is not None:
            self._view.close()


class SilentRecorder(Recorder):
    """Record nothing: what a rank has that is not the first, which records for all.

    Args:
        has_view: whether the first rank writes records for VisualDL.
    """

    def __init__(self, has_view: bool) -> None:
        self._has_view = has_view

    @property
    def has_view(self) -> bool:
        """Tell whether the first rank writes VisualDL's records, for which all must evaluate."""
        return self._has_view

    def start(self, step: int, is_open: bool = False) -> None:
        """Do nothing."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Do nothing."""

    def show_weights(self, name: str, state: Mapping[str, Any], step: int) -> None:
        """Do nothing."""

    def show_predictions(self, name: str, predictions: Predictions, step: int) -> None:
        """Do nothing."""

    def sync(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a metrics.jsonl, up to the first line that is none.

    A crash tears the last line; anything else there is said in a warning.
    """
    if not path.is_file():
        return
    with open(path, "rb") as file:
        for number in itertools.count(1):
            line = file.readline(_MAX_LINE)
            if not line:
                return
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not _is_record(record):
                if file.read(1):
                    logger.warning(
                        "%s:%d: is no record; it and all after it are left out", path, number
                    )
                return
            yield record


def _is_record(record: Any) -> bool:
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        return False
    # None stands for NaN, which a loss may be.
    if not all(_is_number(record.get(key)) for key in ("step", "epoch", *_FIGURES)):
        return False
    if record.get("split") == "train":
        return all(key in record for key in ("loss", "lr", "ips")) and all(
            isinstance(record.get(key), dict)
            and all(_is_name(name) and _is_number(value) for name, value in record[key].items())
            for key in BY_AVERAGE
        )
    return (
        record.get("split") == "eval"
        and _is_name(record.get("average"))
        and all(record.get(key) is not None for key in ("epoch", "top1", "top2"))
        and "loss" in record
    )


def _is_number(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and abs(value) < _MAX_NUMBER)


def _is_name(value: Any) -> bool:
    """Tell whether VisualDL's records, and pictures, can have it as a name."""
    return (
        isinstance(value, str)
        and value.isprintable()
        and 0 < len(value) <= _MAX_NAME
        and os.path.basename(value) == value
        and not value.startswith(".")
    )


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
