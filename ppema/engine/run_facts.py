"""What a manifest must say beside step and files, where a tool is to use the checkpoint of a run.

Its digest is no secret: one that is whole to the byte may still be of a stranger's making.
"""

from __future__ import annotations

from typing import Any, Optional

from ..checkpoint import Checkpoint
from ..checkpoint.manifest import MANIFEST
from ..errors import CheckpointError

_SERVED = {"epoch": int, "averages": list, "winner": (str, type(None))}
_DATA = {"digest": str, "dataset_dir": (str, type(None))}
_CONTINUED = {
    "epoch": int,
    "is_epoch_end": bool,
    "best": dict,
    "identity": dict,
    "steps_per_epoch": int,
    # Not in a manifest of an earlier version.
    "processes": (int, type(None)),
    "data": {"kind": str, "train": _DATA, "eval": _DATA},
    "config_values": {
        "epoch": int,
        "accumulate_steps": int,
        "Averages": dict,
        "TrainReader": {"batch_size": int},
        "LearningRate": {"schedulers": list},
    },
}


def require_served_facts(checkpoint: Checkpoint) -> None:
    """Refuse a manifest without what is needed to use the weights.

    Raises:
        CheckpointError: something is missing, or of another kind.
    """
    _require(checkpoint, _SERVED)


def require_continued_facts(checkpoint: Checkpoint) -> None:
    """Refuse a manifest without what is needed to go on with the run.

    Raises:
        CheckpointError: something is missing, or of another kind.
    """
    _require(checkpoint, _CONTINUED)
    if "validation" in checkpoint.manifest["data"]:
        _require(checkpoint, {"data": {"validation": _DATA}})
    best = checkpoint.manifest["best"]
    if best and not isinstance(best.get("step"), int):
        raise CheckpointError(f"{checkpoint.path / MANIFEST}: has no best.step")


def _require(checkpoint: Checkpoint, shape: Any) -> None:
    path = _find_misfit(checkpoint.manifest, shape, "")
    if path is not None:
        raise CheckpointError(f"{checkpoint.path / MANIFEST}: has no {path}")


def _find_misfit(value: Any, shape: Any, path: str) -> Optional[str]:
    """Return the path of the first value that is not of its kind."""
    if not isinstance(shape, dict):
        return None if isinstance(value, shape) else path
    if not isinstance(value, dict):
        return path
    for key, below in shape.items():
        found = _find_misfit(value.get(key), below, f"{path}.{key}" if path else key)
        if found is not None:
            return found
    return None
