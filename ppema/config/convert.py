"""From nodes to typed values, by annotation, with the file and line of what does not fit."""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import math
import typing
from typing import Any, Iterable, Literal, Optional, Sequence, Union, get_args, get_origin

from ..errors import ConfigError
from .strict_yaml import Mapping, Node, Scalar
from .strict_yaml import Sequence as SequenceNode

SEQUENCES = (list, tuple, collections.abc.Sequence)
MAPPINGS = (dict, collections.abc.Mapping)
_NOUNS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_SHOWN = 12


class Unsupported(Exception):
    """An annotation that says nothing a config could be checked against."""


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a number must satisfy beside its type."""

    at_least: Optional[float] = None
    above: Optional[float] = None
    at_most: Optional[float] = None

    def fault(self, value: Any) -> Optional[str]:
        """Return what `value` must be instead, None where it is allowed."""
        if self.at_least is not None and not value >= self.at_least:
            return f"{self.at_least:g} or more"
        if self.at_most is not None and not value <= self.at_most:
            return f"{self.at_most:.0f} or less"
        if self.above is not None and not (value > self.above and math.isfinite(value)):
            return f"a finite number above {self.above:g}"
        return None


def convert(node: Node, annotation: Any, path: str) -> Any:
    """Return the value of `node` as `annotation` wants it.

    Raises:
        ConfigError: it is something else; the text names file, line, key and what is allowed.
        Unsupported: the annotation is no type that a config can hold.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return plain(node)
    if origin is Union:
        return _convert_union(node, arguments, path)
    if origin is Literal:
        return _convert_choice(node, arguments, path)
    if annotation in _NOUNS:
        return _convert_scalar(node, annotation, path)
    if (origin or annotation) in SEQUENCES:
        if not isinstance(node, SequenceNode):
            raise wrong(node, path, "a list")
        item = arguments[0] if arguments else Any
        return [convert(child, item, f"{path}.{i}") for i, child in enumerate(node.items)]
    if (origin or annotation) in MAPPINGS:
        if not isinstance(node, Mapping):
            raise wrong(node, path, "a mapping")
        item = arguments[1] if arguments else Any
        return {key: convert(child, item, f"{path}.{key}") for key, child in node.items.items()}
    raise Unsupported


def plain(node: Node) -> Any:
    """Return the node as plain Python values."""
    if isinstance(node, Mapping):
        return {key: plain(child) for key, child in node.items.items()}
    if isinstance(node, SequenceNode):
        return [plain(child) for child in node.items]
    return node.value


def wrong(node: Node, path: str, allowed: str) -> ConfigError:
    """Return the error that says what a key must be and what was found."""
    if isinstance(node, Scalar):
        found = "nothing" if node.value is None else repr(node.value)
    else:
        found = "a mapping" if isinstance(node, Mapping) else "a list"
    return ConfigError(f"{node.origin}: {path} must be {allowed}, got {found}")


def suggest(found: str, allowed: Iterable[str]) -> str:
    """Return `; did you mean 'decay'?`, or the allowed words where none is near."""
    names = list(allowed)
    near = difflib.get_close_matches(found, names, 1, cutoff=0.6)
    if not near:
        by_lower = {name.lower(): name for name in names}
        near = [by_lower[found.lower()]] if found.lower() in by_lower else []
    if near:
        return f"; did you mean {near[0]!r}?"
    shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    return f"; known are {shown}" if names else ""


def annotation_of_default(default: Any) -> Any:
    """Return the type that a default hints at where a signature has no readable annotation."""
    if isinstance(default, bool):
        return bool
    if isinstance(default, (int, float)):
        return float
    return str if isinstance(default, str) else Any


def hints_of(function: Any) -> dict[str, Any]:
    """Return the annotations of a function or of a class's constructor; {} if unreadable."""
    target: Any = function
    if isinstance(function, type):
        target = function.__init__  # type: ignore[misc]
    try:
        return typing.get_type_hints(target)
    # Paddle's annotations name types that exist only for type checkers.
    except (NameError, TypeError, AttributeError):
        return {}


def hints_of_fields(keys: type) -> dict[str, Any]:
    """Return the evaluated annotations of a dataclass."""
    return typing.get_type_hints(keys)


def _convert_scalar(node: Node, wanted: type, path: str) -> Any:
    if not isinstance(node, Scalar):
        raise wrong(node, path, _NOUNS[wanted])
    value = node.value
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    # On a command line all is text until its key says otherwise: dataset_dir=2024 is a folder.
    if wanted is str and node.origin.place.startswith("-o ") and value is not None:
        return node.text
    if type(value) is not wanted:
        raise wrong(node, path, _NOUNS[wanted])
    return value


def _convert_choice(node: Node, choices: Sequence[Any], path: str) -> Any:
    value = node.value if isinstance(node, Scalar) else None
    if value not in choices or (isinstance(value, bool) and True not in choices):
        error = str(wrong(node, path, f"one of {', '.join(map(str, choices))}"))
        near = difflib.get_close_matches(str(value), map(str, choices), 1)
        raise ConfigError(f"{error}; did you mean {near[0]!r}?" if near else error)
    return value


def _convert_union(node: Node, members: Sequence[Any], path: str) -> Any:
    if type(None) in members and isinstance(node, Scalar) and node.value is None:
        return None
    others = [member for member in members if member is not type(None)]
    if len(others) == 1:
        return convert(node, others[0], path)
    for member in others:
        try:
            return convert(node, member, path)
        except ConfigError:
            continue
    raise wrong(node, path, " or ".join(_noun(member) for member in others))


def _noun(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(map(str, get_args(annotation)))
    return _NOUNS.get(annotation, "a list or a mapping")
