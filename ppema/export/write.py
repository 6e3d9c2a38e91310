"""Write a trained model as a folder to deploy, once it gives there what it gives here.

model.json and model.pdiparams are Paddle's own inference format, with the weights of the chosen
average; infer_cfg.yml says what the model is fed, what its outputs mean, and where it is from.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import paddle

from ..checkpoint import require_finite
from ..checkpoint.files import make_folder, reason, replace_file, sha256_of, sync_folder
from ..config.render import render_tree
from ..data import Preprocess
from ..errors import CheckpointError, ConfigError, StorageError, telling_line
from .onnx_file import require_converter, run_onnx, write_onnx
from .predictor import DESCRIPTION, FORMAT, MODEL, PARAMETERS, Program

ONNX = "model.onnx"
_INPUT = "image"
# Of the largest logit: what other kernels, in another order of adding, differ by is a tenth of it.
_TOLERANCE = 1e-4
_REMARKS = {
    "input.shape": "-1 is the number of pictures, any",
    "output": "logits, one a class; their softmax are the probabilities",
    "preprocess.dtype": "uint8: of a decoded picture (RGB, or grey), pixels of 0 to 255",
    "preprocess.decoded_shape": "channels, rows, columns; -1: the picture's own",
    "preprocess.resize": "bilinear; stretch: whatever the proportions, crop: the middle, pad: all",
    "preprocess.transforms": "of paddle.vision.transforms, then, in turn",
    "preprocess.mean": "a pixel x becomes (x - mean) / std; floats stay as they are",
    "source.figures": "of these weights on the run's evaluation data",
    "source.figures_on": "test: of EvalDataset; validation: kept out of TrainDataset",
    "check": "the exported model beside the trained one",
}


@dataclass(frozen=True)
class Check:
    """How far an export is from the model it was made of, in logits."""

    num_images: int
    images: str
    largest_difference: float
    largest_logit: float

    @property
    def is_passed(self) -> bool:
        """Tell whether the difference is one that other kernels explain."""
        return self.largest_difference <= _TOLERANCE * max(self.largest_logit, 1.0)


def export_model(
    model: Any,
    preprocess: Preprocess,
    class_names: Sequence[str],
    source: Mapping[str, Any],
    images: npt.NDArray[np.float32],
    images_are: str,
    folder: Path,
    *,
    overwrite: bool = False,
    onnx: bool = False,
) -> dict[str, Check]:
    """Write a model for `paddle.inference`, once it is seen to give what the model gives.

    The folder appears whole or not at all.

    Args:
        model: a paddle.nn.Layer that gives logits; the weights it holds are exported.
        preprocess: what is done to a picture before.
        class_names: one a logit.
        source: where the weights are from, in the types of YAML.
        images: float32 [N, C, H, W], N at least 2, to compare on.
        images_are: what they are, for people.
        folder: where the export goes.
        overwrite: whether an older export there may be replaced.
        onnx: write model.onnx as well; needs the extra ppema[onnx].

    Returns:
        The comparison of each format, by its file's name.

    Raises:
        ConfigError: the folder is taken, the model cannot be exported, a transform is the user's
            own, or paddle2onnx is missing.
        CheckpointError: the export does not give what the model gives; nothing is written.
        NonFiniteError: a weight is NaN or infinite.
        StorageError: the disk refused.
    """
    # With a name and a parent, whatever was typed.
    folder = Path(os.path.abspath(folder))
    require_free(folder, overwrite)
    _require_no_code(preprocess)
    if onnx:
        require_converter()
    require_finite(model.state_dict(), "export them")
    temporary = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
    try:
        make_folder(temporary)
        expected = _trace(model, preprocess.shape, images, temporary)
        checks = {MODEL: _compare(_run_program(temporary, images), expected, images_are)}
        if onnx:
            write_onnx(temporary / MODEL, temporary / PARAMETERS, temporary / ONNX)
            checks[ONNX] = _compare(run_onnx(temporary / ONNX, images), expected, images_are)
        for file, check in checks.items():
            _require_passed(file, check)
        facts = _describe(preprocess, class_names, source, checks, temporary)
        text = render_tree(facts, _REMARKS.get)
        replace_file(temporary / DESCRIPTION, text.encode())
        _put_in_place(temporary, folder)
    except OSError as error:
        raise StorageError(f"cannot export to {folder}: {reason(error)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return checks


def _require_no_code(preprocess: Preprocess) -> None:
    if preprocess.own_transforms:
        raise ConfigError(
            f"EvalReader.transforms: {preprocess.own_transforms[0]} is code of your own, and an "
            "export holds none; evaluate with transforms of Paddle's, or make the images in "
            "your dataset"
        )


def require_free(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that holds an export, unless it may be replaced, or anything else.

    Raises:
        ConfigError: it does.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is no folder")
    if (folder / DESCRIPTION).is_file():
        if not overwrite:
            raise ConfigError(f"{folder} holds an export; name another folder, or --overwrite")
    elif any(folder.iterdir()):
        raise ConfigError(f"{folder} holds other files; name a new folder")


def _trace(
    model: Any, shape: tuple[int, ...], images: npt.NDArray[np.float32], folder: Path
) -> npt.NDArray[np.float32]:
    """Write the model's program and weights; return what the model itself gives."""
    modes = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    model.eval()
    spec = paddle.static.InputSpec([None, *shape], "float32", _INPUT)
    try:
        with paddle.no_grad():
            expected: npt.NDArray[np.float32] = model(paddle.to_tensor(images)).numpy()
        paddle.jit.save(model, str(folder / Path(MODEL).stem), input_spec=[spec])
    except OSError:
        raise
    # The forward of a user's own model may hold what no program can be made of.
    except Exception as error:
        raise ConfigError(
            f"the model ({type(model).__name__}) cannot be exported: {telling_line(error)}"
        ) from error
    finally:
        for layer, was_training in modes:
            layer.training = was_training
    if not (folder / MODEL).is_file():
        written = ", ".join(sorted(entry.name for entry in folder.iterdir()))
        raise ConfigError(f"this Paddle writes {written}; ppema exports with 3.0 or newer and PIR")
    return expected


def _run_program(folder: Path, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return what an exported model gives for a first image alone, then for the others at once."""
    program, outputs = Program(folder, num_threads=1), []
    for part in (images[:1], images[1:]):
        try:
            outputs.append(program(part))
        # Of a model that was written for batches of one size.
        except RuntimeError as error:
            raise CheckpointError(
                f"the exported model does not take {len(part)} images: {telling_line(error)}"
            ) from None
    return np.concatenate(outputs)


def _compare(
    outputs: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], images_are: str
) -> Check:
    if outputs.shape != expected.shape:
        raise CheckpointError(
            f"the export gives {list(outputs.shape)}, the model {list(expected.shape)}"
        )
    difference = np.abs(outputs.astype(np.float64) - expected.astype(np.float64))
    # NaN passes no comparison, so that one in the export is a failure.
    largest = float(difference.max())
    return Check(len(expected), images_are, largest, float(np.abs(expected).max()))


def _require_passed(file: str, check: Check) -> None:
    if not check.is_passed:
        raise CheckpointError(
            f"{file} gives other logits than the model, by up to {check.largest_difference:.3g} "
            f"where the largest is {check.largest_logit:.3g} ({check.num_images} images); nothing "
            "is exported"
        )


def _describe(
    preprocess: Preprocess,
    class_names: Sequence[str],
    source: Mapping[str, Any],
    checks: Mapping[str, Check],
    folder: Path,
) -> dict[str, Any]:
    """Return what infer_cfg.yml says."""
    from .. import __version__

    return {
        "format": FORMAT,
        "files": {entry.name: sha256_of(entry) for entry in sorted(folder.iterdir())},
        "input": {"name": _INPUT, "shape": [-1, *preprocess.shape], "dtype": "float32"},
        "output": {"shape": [-1, len(class_names)], "dtype": "float32"},
        "preprocess": preprocess.to_dict(),
        "class_names": list(class_names),
        "source": dict(source),
        "check": {
            file: {
                "num_images": check.num_images,
                "images": check.images,
                "largest_difference": check.largest_difference,
                "largest_logit": check.largest_logit,
            }
            for file, check in checks.items()
        },
        "made_by": {"ppema": __version__, "paddle": paddle.__version__},
    }


def _put_in_place(temporary: Path, folder: Path) -> None:
    """Rename a whole export to its name; the one that it replaces is gone only then."""
    for entry in temporary.iterdir():
        with open(entry, "rb") as file:
            os.fsync(file.fileno())
    sync_folder(temporary)
    aside = folder.with_name(f".tmp-old-{folder.name}-{os.getpid()}")
    has_old = folder.exists()
    if has_old:
        folder.rename(aside)
    try:
        temporary.rename(folder)
    except OSError:
        if has_old:
            aside.rename(folder)
        raise
    sync_folder(folder.parent)
    if has_old:
        shutil.rmtree(aside, ignore_errors=True)
