"""The figures of a run: metrics.jsonl is the record of truth, VisualDL a view of it."""

from __future__ import annotations

import json
import logging
import math
import os
import warnings
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional

from ..checkpoint.files import reason
from ..errors import StorageError

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
# What a training record has for each average.
_BY_AVERAGE = ("decay", "distance", "window", "initial_share", "never_moved")


class Recorder:
    """Append records to metrics.jsonl and show them in VisualDL.

    A training record has `step, epoch, split: train, loss, top1, lr, ips`, then by
    average `decay, distance, window, initial_share, never_moved`, and `left_out` where a gate is
    set; an evaluation record `step, epoch, split: eval, average, top1, top2, loss`.

    Args:
        folder: the run's folder.
        vdl_folder: where VisualDL's records go, one folder a curve; None for none.
    """

    def __init__(self, folder: Path, vdl_folder: Optional[Path]) -> None:
        self._path = folder / METRICS
        self._view = VisualDLView(vdl_folder) if vdl_folder is not None else None

    def start(self, step: int) -> None:
        """Drop all records after `step`, and make the view of what is left anew."""
        records = [record for record in read_records(self._path) if record["step"] <= step]
        temporary = self._path.with_suffix(".tmp")
        with open(temporary, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._path)
        if self._view is not None:
            self._view.clear()
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

    def sync(self) -> None:
        """Wait until the disk has all records."""
        if self._path.exists():
            with open(self._path, "rb") as file:
                os.fsync(file.fileno())

    def close(self) -> None:
        """Flush the view."""
        if self._view is not None:
            self._view.close()


class VisualDLView:
    """Write scalars so that one chart shows one tag for raw and every average."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, Any] = {}

    def clear(self) -> None:
        """Delete the records that an earlier part of the run left."""
        self.close()
        if self._folder.is_dir():
            for records in self._folder.glob("*/vdlrecords.*.log"):
                records.unlink()

    def show(self, record: Mapping[str, Any]) -> None:
        """Write one record of metrics.jsonl as scalars."""
        if record["split"] == "train":
            self._show_training(record)
            return
        for kind in ("top1", "top2", "loss"):
            self._add(record["average"], f"eval/{kind}", record[kind], record["step"])

    def close(self) -> None:
        """Flush and close all files."""
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def _show_training(self, record: Mapping[str, Any]) -> None:
        for kind in ("loss", "lr", "ips"):
            self._add("train", f"train/{kind}", record[kind], record["step"])
        self._add("train", "train/left_out", record.get("left_out"), record["step"])
        for kind in _BY_AVERAGE:
            for name, value in record[kind].items():
                self._add("train", f"{name}/{kind}", value, record["step"])

    def _add(self, curve: str, tag: str, value: Optional[float], step: int) -> None:
        if value is None:
            return
        if curve not in self._writers:
            self._writers[curve] = _log_writer_class()(logdir=str(self._folder / curve))
        self._writers[curve].add_scalar(tag=tag, step=step, value=value)


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a metrics.jsonl, up to the first line that is none.

    A crash tears the last line; anything else there is said in a warning.
    """
    if not path.exists():
        return
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not _is_record(record):
            if number < len(lines):
                logger.warning(
                    "%s:%d: is no record; it and all after it are left out", path, number
                )
            return
        yield record


def _is_record(record: Any) -> bool:
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        return False
    if record.get("split") == "train":
        return all(key in record for key in ("loss", "lr", "ips", *_BY_AVERAGE))
    return record.get("split") == "eval" and all(
        key in record for key in ("average", "top1", "top2", "loss")
    )


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _log_writer_class() -> Any:
    # Imported at the first record: not every run writes them, and it warns of what it imports.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from visualdl import LogWriter
    return LogWriter
