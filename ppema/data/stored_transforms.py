"""Transforms as they stand in a manifest or an export: names and arguments, never code.

Such files come from strangers, so that a name means one of `paddle.vision.transforms` and nothing
else: nothing is imported by it.
"""

from __future__ import annotations

import inspect
from typing import Any, Mapping

from .paddle_transforms import paddle_transforms
from .samples import reason_of
from .transforms import Step, Transforms

_PLAIN = (bool, int, float, str, type(None))
# For boxes and masks beside the image, as in a config.
_NOT_TAKEN = frozenset({"name", "keys"})


def describe_transforms(transforms: Transforms) -> list[dict[str, Any]]:
    """Return names and arguments in the types of JSON and YAML."""
    return [
        {"name": step.name, **{key: _plain(value) for key, value in step.arguments.items()}}
        for step in transforms.steps
    ]


def own_transforms(facts: Any) -> list[str]:
    """Return the names, in what `describe_transforms` gave, that are import paths of a user's."""
    entries = facts if isinstance(facts, list) else []
    names = [entry.get("name") for entry in entries if isinstance(entry, Mapping)]
    return [name for name in names if isinstance(name, str) and "." in name]


def make_stored_transforms(facts: Any) -> Transforms:
    """Return the transforms that `describe_transforms` describes.

    Raises:
        ValueError: one is none of Paddle's, or does not take its arguments.
    """
    if not isinstance(facts, list) or not facts:
        raise ValueError(f"transforms must be a list of one or more, got {str(facts)[:100]}")
    return Transforms([_make_step(f"transforms.{n}", entry) for n, entry in enumerate(facts)])


def _make_step(path: str, entry: Any) -> Step:
    name = entry.get("name") if isinstance(entry, Mapping) else None
    if not isinstance(name, str):
        raise ValueError(f"{path} must be a mapping with a name, got {str(entry)[:100]}")
    if "." in name:
        raise ValueError(
            f"{path} is {name[:100]}, a transform of somebody's own, and code is never taken "
            "from a file; only those of paddle.vision.transforms are"
        )
    cls = paddle_transforms().get(name)
    if cls is None:
        raise ValueError(f"{path}: this Paddle has no transform {name[:100]!r}")
    arguments = {str(key): value for key, value in entry.items() if key != "name"}
    for key, value in arguments.items():
        if key in _NOT_TAKEN or not _is_plain(value):
            raise ValueError(f"{path} ({name}) takes no {key[:100]}: {str(value)[:100]}")
    try:
        inspect.signature(cls).bind(**arguments)
        return Step(path, name, cls(**arguments), arguments)
    # Paddle's constructors say in their own ways what is wrong with an argument.
    except Exception as error:
        raise ValueError(f"{path} ({name}): {reason_of(error)}") from None


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)
