"""An exported model as a function from a picture to its classes, by `paddle.inference`."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Union

import numpy as np
import numpy.typing as npt

from ..checkpoint.files import sha256_of
from ..config.convert import plain
from ..config.strict_yaml import read_yaml
from ..data import Preprocess
from ..data.preprocess import Picture
from ..errors import CheckpointError, ConfigError, telling_line
from ..ranking import rank_classes

MODEL, PARAMETERS, DESCRIPTION = "model.json", "model.pdiparams", "infer_cfg.yml"
# Of infer_cfg.yml.
FORMAT = 1


class Predictor:
    """Name the classes of pictures with an exported model, by `paddle.inference`, on the CPU.

    `predictor(image_bytes)` returns [(class, probability), …], the likeliest first. May be called
    from several threads, which take turns.

    Args:
        folder: what `export_model` wrote.
        num_threads: of the CPU, for each picture.

    Raises:
        CheckpointError: a file of the export is missing, damaged, or of another format.
    """

    def __init__(self, folder: Union[str, Path], num_threads: int = 1) -> None:
        folder = Path(folder)
        facts = read_description(folder)
        try:
            self.preprocess = Preprocess.from_dict(facts["preprocess"])
        except ValueError as error:
            raise CheckpointError(f"{folder / DESCRIPTION}: {error}") from None
        self.class_names: tuple[str, ...] = tuple(facts["class_names"])
        self.source: dict[str, Any] = facts["source"]
        self._program = Program(folder, num_threads)
        trial = np.zeros((1, *self.preprocess.shape), np.float32)
        num_classes = self._program(trial).shape[1]
        if num_classes != len(self.class_names):
            raise CheckpointError(
                f"{folder / DESCRIPTION}: names {len(self.class_names)} classes, the model gives "
                f"{num_classes}"
            )

    def __call__(self, picture: Union[Picture, str], top_k: int = 5) -> list[tuple[str, float]]:
        """Return the likeliest classes of a picture with their probabilities.

        Args:
            picture: the bytes of an image file, a path, or an array as decoded from one.
            top_k: how many classes.

        Raises:
            DataError: it is no picture, or not one that this model takes.
        """
        source = Path(picture) if isinstance(picture, str) else picture
        logits = self.logits(self.preprocess(source)[np.newaxis])
        (guesses,) = rank_classes(logits, self.class_names, top_k)
        return [(guess.name, guess.probability) for guess in guesses]

    def logits(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return what the model gives, [N, classes], for preprocessed pictures [N, C, H, W]."""
        return self._program(images)


class Program:
    """An exported model as a function of arrays.

    Args:
        folder: of the files.
        num_threads: of the CPU.

    Raises:
        CheckpointError: Paddle cannot load it.
    """

    def __init__(self, folder: Path, num_threads: int) -> None:
        from paddle import inference

        settings = inference.Config(str(folder / MODEL), str(folder / PARAMETERS))
        settings.disable_glog_info()
        settings.set_cpu_math_library_num_threads(num_threads)
        try:
            self._predictor = inference.create_predictor(settings)
        # Paddle's own, with a page of C++ calls.
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{folder}: Paddle cannot load it ({telling_line(error)})"
            ) from None
        self._input = self._predictor.get_input_handle(self._predictor.get_input_names()[0])
        self._output = self._predictor.get_output_handle(self._predictor.get_output_names()[0])
        # Input and output are of the predictor, not of a call.
        self._lock = threading.Lock()

    def __call__(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with self._lock:
            self._input.copy_from_cpu(np.ascontiguousarray(images))
            self._predictor.run()
            outputs: npt.NDArray[np.float32] = self._output.copy_to_cpu()
        return outputs


def read_description(folder: Path) -> dict[str, Any]:
    """Return what infer_cfg.yml says, once the files it lists are seen to be those of the export.

    Raises:
        CheckpointError: one is missing, damaged, or of another format.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise CheckpointError(f"{folder}: holds no export ({DESCRIPTION} is missing)")
    try:
        facts: dict[str, Any] = plain(read_yaml(str(path)))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    if facts.get("format") != FORMAT:
        found = str(facts.get("format"))[:20]
        raise CheckpointError(f"{path}: format {found}, this ppema reads {FORMAT}")
    kinds = {"preprocess": dict, "class_names": list, "source": dict, "files": dict}
    for key, kind in kinds.items():
        if not isinstance(facts.get(key), kind):
            raise CheckpointError(f"{path}: has no {key}")
    if not all(isinstance(name, str) for name in facts["class_names"]):
        raise CheckpointError(f"{path}: class_names holds what is no text")
    for name in (MODEL, PARAMETERS):
        try:
            is_same = sha256_of(folder / name) == facts["files"].get(name)
        except OSError as error:
            raise CheckpointError(f"{folder / name}: {error.strerror}") from None
        if not is_same:
            raise CheckpointError(f"{folder / name}: checksum differs from {DESCRIPTION}")
    return facts
