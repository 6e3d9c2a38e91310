"""From nodes to typed values, by annotation, with the file and line of what does not fit."""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import math
import types
import typing
from typing import Any, Iterable, Literal, Optional, Sequence, Union, get_args, get_origin

from ..errors import ConfigError
from .strict_yaml import Mapping, Node, Scalar
from .strict_yaml import Sequence as SequenceNode

SEQUENCES = (list, tuple, collections.abc.Sequence)
MAPPINGS = (dict, collections.abc.Mapping)
_NOUNS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_SHOWN = 12
_SHOWN_TEXT = 60
# `int | None`, where Python has it (3.10).
_UNIONS = (Union, getattr(types, "UnionType", Union))


class Unsupported(Exception):
    """An annotation that says nothing a config could be checked against."""


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a number must satisfy beside its type."""

    at_least: Optional[float] = None
    above: Optional[float] = None
    at_most: Optional[float] = None

    def fault(self, value: Any) -> Optional[str]:
        """Return what `value` must be instead, None where it is allowed, or is none."""
        if value is None:
            return None
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
    if is_union(annotation):
        return _convert_union(node, arguments, path)
    if origin is Literal:
        return _convert_choice(node, arguments, path)
    if not isinstance(origin or annotation, collections.abc.Hashable):
        raise Unsupported
    if annotation in _NOUNS:
        return _convert_scalar(node, annotation, path)
    if (origin or annotation) in SEQUENCES:
        return _convert_sequence(node, origin or annotation, arguments, path)
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
        found = "nothing" if node.value is None else shorten(repr(node.value))
    else:
        found = "a mapping" if isinstance(node, Mapping) else "a list"
    return ConfigError(f"{node.origin}: {path} must be {allowed}, got {found}")


def shorten(text: str) -> str:
    """Return `text` as a message shows it: on one line, and cut where it is long."""
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= _SHOWN_TEXT else text[:_SHOWN_TEXT] + "…"


def quote(text: str) -> str:
    """Return `text` in quotes, as a message shows it."""
    return repr(text if len(text) <= _SHOWN_TEXT else text[:_SHOWN_TEXT] + "…")


def is_union(annotation: Any) -> bool:
    """Return whether an annotation is a Union, an Optional or `int | None`."""
    return get_origin(annotation) in _UNIONS


def section_of(annotation: Any) -> Optional[type]:
    """Return the dataclass whose fields are the keys of a section, which may be optional."""
    members = get_args(annotation) if is_union(annotation) else (annotation,)
    sections = [m for m in members if isinstance(m, type) and dataclasses.is_dataclass(m)]
    return sections[0] if sections else None


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


def plain_like(node: Node, default: Any, path: str) -> Any:
    """Return plain values where a signature has no readable annotation, only a default.

    Raises:
        ConfigError: text stands where the default is a number, or true or false.
    """
    value = plain(node)
    if isinstance(default, (bool, int, float)) and isinstance(value, str):
        raise wrong(node, path, _NOUNS[bool if isinstance(default, bool) else float])
    return value


def hints_of(function: Any) -> dict[str, Any]:
    """Return the annotations of a function or of a class's constructor; {} if unreadable."""
    target: Any = function
    if isinstance(function, type):
        target = function.__init__  # type: ignore[misc]
    try:
        return typing.get_type_hints(target)
    # Paddle's annotations name types that exist only for type checkers; a user's own may be
    # any text, and evaluating it may fail in any way.
    except Exception:
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


def _convert_sequence(node: Node, kind: Any, items: Sequence[Any], path: str) -> Any:
    if not isinstance(node, SequenceNode):
        raise wrong(node, path, "a list")
    is_fixed = kind is tuple and bool(items) and items[-1] is not Ellipsis
    if is_fixed and len(items) != len(node.items):
        raise wrong(node, path, f"a list of {len(items)}")
    item = items[0] if items else Any
    wanted = items if is_fixed else [item] * len(node.items)
    values = [
        convert(child, annotation, f"{path}.{index}")
        for index, (child, annotation) in enumerate(zip(node.items, wanted))
    ]
    return tuple(values) if kind is tuple else values


def _convert_choice(node: Node, choices: Sequence[Any], path: str) -> Any:
    value = node.value if isinstance(node, Scalar) else None
    # By type too, as 1, 1.0 and true are equal to Python.
    if (type(value), value) not in [(type(choice), choice) for choice in choices]:
        error = str(wrong(node, path, f"one of {', '.join(map(str, choices))}"))
        near = difflib.get_close_matches(str(value), list(map(str, choices)), 1)
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
    # A whole number is a number; saying both would only be longer.
    named = [member for member in others if not (member is int and float in others)]
    raise wrong(node, path, " or ".join(map(_noun, named)))


def _noun(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(map(str, get_args(annotation)))
    return _NOUNS.get(annotation, "a list or a mapping")
