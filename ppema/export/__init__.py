"""A trained model as a folder to deploy: written by `export_model`, used by `Predictor`."""

from __future__ import annotations

from .onnx_file import require_converter
from .predictor import Predictor
from .write import Check, export_model, require_free

__all__ = ["Check", "Predictor", "export_model", "require_converter", "require_free"]
