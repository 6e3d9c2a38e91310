"""The view of a run that VisualDL shows: one folder a curve, so that one chart has all of them.

Scalars and hyper-parameters are made anew from metrics.jsonl whenever a run goes on. Histograms,
precision-recall curves and pictures are kept from the part of the run before, up to its step.
"""

from __future__ import annotations

import io
import math
import struct
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Collection, Iterator, Mapping, Optional

import numpy as np

from ..plots import PixelScale, draw_mistakes
from .predictions import Predictions

Hyperparameters = Mapping[str, Any]

# What a training record has for each average.
BY_AVERAGE = ("decay", "distance", "window", "initial_share", "never_moved")
_METRICS = ("eval/top1", "eval/loss")
# What is in no other file, by the names of VisualDL's format.
_ONLY_HERE = frozenset({"histogram", "image", "pr_curve"})
_NUM_BINS = 40
# A chart for each class of more would be found by nobody.
_MOST_CURVES = 20
_RECORDS = "vdlrecords.*.log"


@dataclass(frozen=True)
class ViewOptions:
    """What a view says beside the figures.

    Attributes:
        class_names: of the evaluation data; numbers where they have none.
        scale: back to pixels of what the model is fed.
        hyperparameters: of each set of weights, by its name; numbers and text.
    """

    class_names: tuple[str, ...] = ()
    scale: PixelScale = field(default_factory=PixelScale)
    hyperparameters: Mapping[str, Hyperparameters] = field(default_factory=dict)


class VisualDLView:
    """Write what is recorded of a run so that VisualDL can show it.

    Args:
        folder: one folder a curve comes in here: train, raw, and each average's name.
        title: of the run, unique among those shown together.
        options: what is said beside the figures.
    """

    def __init__(self, folder: Path, title: str, options: ViewOptions) -> None:
        self._folder, self._title, self._options = folder, title, options
        self._curves: dict[str, _Curve] = {}

    def restart(self, steps: Collection[int]) -> None:
        """Begin new files, which take over what is nowhere else of the steps that remain."""
        self.close()
        kept: dict[str, list[bytes]] = {}
        for path in sorted(self._folder.glob(f"*/{_RECORDS}")):
            found = [bits for bits in _read_bits(path) if _is_kept(bits, steps)]
            kept.setdefault(path.parent.name, []).extend(found)
            path.unlink()
        for name, records in kept.items():
            for bits in records:
                self._curve(name).add_bits(bits)

    def show(self, record: Mapping[str, Any]) -> None:
        """Write the figures of one record of metrics.jsonl."""
        step = record["step"]
        if record["split"] == "train":
            self._show_training(record)
            return
        curve = self._curve(record["average"])
        if not curve.has_hyperparameters:
            # Beside a first figure, since VisualDL takes those without one for broken.
            given = self._options.hyperparameters.get(record["average"], {})
            curve.add_hyperparameters(given, _METRICS)
        for kind in ("top1", "top2", "loss", "ece"):
            # A run that earlier versions began has records without the last.
            curve.add_scalar(f"eval/{kind}", record.get(kind), step)

    def show_weights(self, name: str, state: Mapping[str, Any], step: int) -> None:
        """Write a histogram of each tensor of floats."""
        for key, tensor in state.items():
            if tensor.is_floating_point():
                values = tensor.astype("float32").numpy()
                self._curve(name).add_histogram(f"weights/{key}", values, step)

    def show_predictions(self, name: str, predictions: Predictions, step: int) -> None:
        """Write precision over recall, of all classes and of each, and the surest mistakes."""
        curve = self._curve(name)
        right, wrong = predictions.at_thresholds()
        names = self._options.class_names or tuple(map(str, range(len(right))))
        curve.add_precision_recall("pr/of all classes", right.sum(axis=0), wrong.sum(axis=0), step)
        if len(right) <= _MOST_CURVES:
            for label, counts in enumerate(zip(right, wrong)):
                curve.add_precision_recall(f"pr/{_as_tag(names[label])}", *counts, step)
        if predictions.mistakes:
            sheet = draw_mistakes(predictions.mistakes, self._options.scale, names, columns=4)
            curve.add_image("eval/mistakes", sheet, step)

    def close(self) -> None:
        """Flush and close all files."""
        for curve in self._curves.values():
            curve.close()
        self._curves = {}

    def _show_training(self, record: Mapping[str, Any]) -> None:
        for kind in ("loss", "lr", "ips", "left_out"):
            self._curve("train").add_scalar(f"train/{kind}", record.get(kind), record["step"])
        for kind in BY_AVERAGE:
            for name, value in record[kind].items():
                self._curve(name).add_scalar(f"train/{kind}", value, record["step"])

    def _curve(self, name: str) -> _Curve:
        if name not in self._curves:
            # The name comes first, since VisualDL has room for two dozen letters.
            self._curves[name] = _Curve(self._folder / name, f"{name} {self._title}")
        return self._curves[name]


class _Curve:
    """One record file of VisualDL.

    Its records are put together here rather than by its LogWriter, whose precision-recall curves
    fail with NumPy 1.24 and later.
    """

    def __init__(self, folder: Path, title: str) -> None:
        self._format, writer = _visualdl()
        self._writer = writer(logdir=str(folder))
        self.has_hyperparameters = False
        self._add(self._format.meta_data(display_name=title, walltime=_now()))

    def add_bits(self, bits: bytes) -> None:
        """Add a record that was read from a file."""
        self._add(_parse(bits))

    def add_scalar(self, tag: str, value: Optional[float], step: int) -> None:
        """Add a figure, unless it was not finite."""
        if value is not None:
            self._add(self._format.scalar(tag, value, step, _now()))

    def add_hyperparameters(self, values: Hyperparameters, metrics: Collection[str]) -> None:
        """Say what the curve was made with, once, and by which figures it is compared."""
        self.has_hyperparameters = True
        name = self._writer.get_filename()
        self._add(self._format.hparam(name, _as_hyperparameters(values), list(metrics), _now()))

    def add_histogram(self, tag: str, values: Any, step: int) -> None:
        """Add a histogram of finite values."""
        if not np.isfinite(values).all():
            return
        counts, edges = np.histogram(values, bins=_NUM_BINS)
        self._add(self._format.histogram(tag, counts, edges, step, _now()))

    def add_precision_recall(self, tag: str, right: Any, wrong: Any, step: int) -> None:
        """Add precision and recall at each threshold, from the right and the wrong answers."""
        missed, refused = right[0] - right, wrong[0] - wrong
        counts = [x.tolist() for x in (right, wrong, refused, missed)]
        # Nothing answered is nothing wrong.
        precision = np.where(right + wrong > 0, right / np.maximum(right + wrong, 1), 1.0)
        recall = right / max(int(right[0]), 1)
        shares = (precision.tolist(), recall.tolist())
        self._add(self._format.pr_curve_raw(tag, *counts, *shares, step, _now()))

    def add_image(self, tag: str, pixels: Any, step: int) -> None:
        """Add a picture of pixels [rows, columns, 3]."""
        from PIL import Image

        png = io.BytesIO()
        Image.fromarray(pixels).save(png, format="png")
        record = self._format.Record
        image = record.Image(encoded_image_string=png.getvalue())
        value = record.Value(id=step, tag=tag, timestamp=_now(), image=image)
        self._add(record(values=[value]))

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()

    def _add(self, record: Any) -> None:
        self._writer.add_record(record)


def _as_hyperparameters(values: Hyperparameters) -> dict[str, Any]:
    """Return them in the two types that VisualDL can compare across runs, numbers and text.

    A name's type is that of the first run it is read from, so that a number is never an int here
    and a float there.
    """
    return {
        name: float(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        else str(value)
        for name, value in values.items()
    }


def _as_tag(name: str) -> str:
    """Return a class's name without the letters that have a meaning in tags."""
    return name.replace("%", "_").replace("/", "_")


def _read_bits(path: Path) -> Iterator[bytes]:
    """Yield the records of a file, up to where a crash tore it."""
    with open(path, "rb") as file:
        while len(header := file.read(8)) == 8:
            (length,) = struct.unpack("<Q", header)
            bits = file.read(min(length, path.stat().st_size))
            if len(bits) < length:
                return
            yield bits


def _is_kept(bits: bytes, steps: Collection[int]) -> bool:
    record = _parse(bits)
    return record is not None and all(
        value.WhichOneof("one_value") in _ONLY_HERE and value.id in steps for value in record.values
    )


def _parse(bits: bytes) -> Any:
    """Return a record, None where the bits are none."""
    _visualdl()
    from google.protobuf.message import DecodeError
    from visualdl.proto.record_pb2 import Record

    try:
        return Record.FromString(bits)
    except DecodeError:
        return None


def _now() -> int:
    return round(time.time() * 1000)


def _visualdl() -> tuple[Any, Any]:
    """Return VisualDL's record format and its writer of files."""
    # Imported at the first record: not every run writes them, and it warns of what it imports.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from visualdl.component import base_component
        from visualdl.writer.record_writer import RecordFileWriter
    return base_component, RecordFileWriter
