"""An exported model as an ONNX file, by paddle2onnx, which is an extra: ppema[onnx]."""

from __future__ import annotations

import importlib.util
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError

# Known by all runtimes of the last years; paddle2onnx takes a newer one where a layer needs it.
_OPSET = 13
_MODULES = ("paddle2onnx", "onnxruntime")
# polygraphy, which paddle2onnx calls, pip-installs packages in mid-export where this says 1.
_AUTO_INSTALL = "POLYGRAPHY_AUTOINSTALL_DEPS"


def require_converter() -> None:
    """Refuse where the extra is not installed; nothing is ever installed from here.

    Raises:
        ConfigError: a package is missing; says which, and how to get it.
    """
    lacking = [name for name in _MODULES if importlib.util.find_spec(name) is None]
    if lacking:
        raise ConfigError(
            f"ONNX needs {' and '.join(lacking)}, and nothing is installed from here: "
            "pip install 'ppema[onnx]'"
        )


def write_onnx(model: Path, parameters: Path, target: Path) -> None:
    """Convert an exported model; `target` is written.

    Raises:
        ConfigError: paddle2onnx is missing, or cannot convert this model.
    """
    require_converter()
    with _no_auto_install():
        import paddle2onnx

        try:
            paddle2onnx.export(
                str(model),
                str(parameters),
                str(target),
                opset_version=_OPSET,
                verbose=False,
                # Its default folds constants with polygraphy, and sets the variable back to 1.
                optimize_tool="None",
            )
        # It logs what went wrong, and then stumbles over it.
        except Exception as error:
            raise ConfigError(f"paddle2onnx cannot convert this model: {error}") from error


def run_onnx(path: Path, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return what the ONNX file gives for a first image alone, then for the others at once."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Its warnings are of what it tidies up itself.
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts: list[Any] = [session.run(None, {name: part})[0] for part in (images[:1], images[1:])]
    return np.concatenate(parts)


@contextmanager
def _no_auto_install() -> Iterator[None]:
    before = os.environ.get(_AUTO_INSTALL)
    os.environ[_AUTO_INSTALL] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_AUTO_INSTALL]
        else:
            os.environ[_AUTO_INSTALL] = before
