"""Checkpoints that are whole or absent, and a reader that runs no code."""

from .optimizer_state import load_structured_optimizer_state, structured_optimizer_state
from .store import BEST, FINAL, Checkpoint, CheckpointStore, is_checkpoint_folder
from .strict import load_strictly, not_weights, require_finite
from .weight_file import read_weight_file, replace_weight_file

__all__ = [
    "BEST",
    "FINAL",
    "Checkpoint",
    "CheckpointStore",
    "is_checkpoint_folder",
    "load_strictly",
    "load_structured_optimizer_state",
    "not_weights",
    "read_weight_file",
    "replace_weight_file",
    "require_finite",
    "structured_optimizer_state",
]
