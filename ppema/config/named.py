"""A section that names a class: `{name: Adam, beta1: 0.9}`, checked against its signature."""

from __future__ import annotations

import importlib
import inspect
import sys
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, Optional

from ..errors import ConfigError
from .convert import (
    Unsupported,
    convert,
    hints_of,
    plain,
    plain_like,
    quote,
    shorten,
    suggest,
    wrong,
)
from .strict_yaml import Mapping as MappingNode
from .strict_yaml import Node, Origin, Scalar


@dataclass(frozen=True)
class Choices:
    """The classes that a section may name.

    Args:
        classes: by the short name that stands in a config.
        given: the parameters that ppema itself fills in, so that a config may not.
        base: what a user's own class, named by its import path, must be derived from.
        is_open: the arguments are Paddle's or the user's, and left open in the JSON schema.
        extras: arguments that ppema takes beside those of the class, by name, with their types.
        nested: arguments that are sections themselves, where they are mappings.
        hints: what is said of a class or an argument that is not to be had, by its name.
    """

    classes: Mapping[str, Callable[..., Any]]
    given: frozenset[str] = field(default_factory=frozenset)
    base: Optional[type] = None
    is_open: bool = False
    extras: Mapping[str, Any] = field(default_factory=dict)
    nested: Mapping[str, Choices] = field(default_factory=dict)
    hints: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Named:
    """A class chosen by a config, with its checked arguments; `path` is the section's key.

    An argument may be a section of its own, and is a Named then.
    """

    name: str
    cls: Callable[..., Any]
    arguments: dict[str, Any]
    path: str


def convert_named(node: Node, choices: Choices, path: str) -> Named:
    """Return the class and arguments that a section asks for.

    Raises:
        ConfigError: an unknown class or argument, a missing one, or one of the wrong type.
    """
    if not isinstance(node, MappingNode):
        raise wrong(node, path, "a mapping with a name, such as {name: …}")
    name_node = node.items.get("name")
    if name_node is None:
        raise ConfigError(f"{node.origin}: '{path}.name' is missing{_by_name(node)}")
    if not isinstance(name_node, Scalar) or not isinstance(name_node.value, str):
        raise wrong(name_node, f"{path}.name", "the name of a class")
    name = name_node.value
    cls = _find_class(name, choices, path, name_node.origin)
    extras = {key: _extra(key, annotation) for key, annotation in choices.extras.items()}
    parameters = {**extras, **arguments_of(cls, choices.given)}
    hints = {**choices.extras, **hints_of(cls)}
    arguments: dict[str, Any] = {}
    for key, child in node.items.items():
        if key == "name":
            continue
        key_path = f"{path}.{key}"
        _check_known(key, parameters, choices, path, node.key_origins[key])
        if key in choices.nested and isinstance(child, MappingNode):
            arguments[key] = convert_named(child, choices.nested[key], key_path)
            continue
        arguments[key] = _convert_argument(child, parameters.get(key), hints, key_path)
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in arguments and _is_named(parameter):
            raise ConfigError(f"{node.origin}: '{path}.{key}' is missing")
    return Named(name, cls, arguments, path)


def arguments_of(cls: Callable[..., Any], given: frozenset[str]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a class that a config may set, and `**kwargs` where it has them."""
    try:
        parameters = inspect.signature(cls).parameters
    except (TypeError, ValueError):
        return {"kwargs": inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)}
    return {
        name: parameter
        for name, parameter in parameters.items()
        # `name` is the class; a parameter of that name keeps its default.
        if name not in given and name != "name" and parameter.kind is not parameter.VAR_POSITIONAL
    }


def _extra(name: str, annotation: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, annotation=annotation, default=None)


def _by_name(node: MappingNode) -> str:
    """Return how `RandomFlip: {prob: 0.5}` is written here, as PaddleDetection's users have it."""
    keys = list(node.items)
    is_foreign = len(keys) == 1 and isinstance(node.items[keys[0]], MappingNode)
    return f"; write {{name: {shorten(keys[0])}, …}}" if is_foreign else ""


def _is_named(parameter: inspect.Parameter) -> bool:
    return parameter.kind is not parameter.VAR_KEYWORD


def _check_known(
    key: str,
    parameters: Mapping[str, inspect.Parameter],
    choices: Choices,
    path: str,
    origin: Origin,
) -> None:
    if key in choices.given:
        raise ConfigError(f"{origin}: '{path}.{key}' is set by ppema; leave it out")
    named = [name for name, parameter in parameters.items() if _is_named(parameter)]
    if key not in named and len(named) == len(parameters):
        if key in choices.hints:
            raise ConfigError(f"{origin}: '{path}.{key}' {choices.hints[key]}")
        raise ConfigError(f"{origin}: unknown key '{path}.{key}'{suggest(key, named)}")


def _convert_argument(
    node: Node, parameter: Optional[inspect.Parameter], hints: Mapping[str, Any], path: str
) -> Any:
    if parameter is None:
        return plain(node)
    if parameter.name in hints:
        try:
            return convert(node, hints[parameter.name], path)
        except Unsupported:
            pass
    return plain_like(node, parameter.default, path)


def _find_class(name: str, choices: Choices, path: str, origin: Origin) -> Callable[..., Any]:
    if name in choices.classes:
        return choices.classes[name]
    if name in choices.hints:
        raise ConfigError(f"{origin}: {path}.name: {quote(name)} {choices.hints[name]}")
    if "." not in name:
        near = suggest(name, choices.classes)
        raise ConfigError(f"{origin}: {path}.name: there is no {quote(name)}{near}")
    module_name, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    # The module is the user's own and may fail in any way.
    except (Exception, SystemExit) as error:
        reason = shorten((str(error).strip() or type(error).__name__).splitlines()[0])
        near = _near_names(module_name, attribute)
        text = f"{path}.name: cannot import {quote(name)}: {reason}{near}"
        raise ConfigError(f"{origin}: {text}") from None
    if not callable(found):
        raise ConfigError(f"{origin}: {path}.name: {quote(name)} is not a class")
    if choices.base is not None and not _derives(found, choices.base):
        base = f"{choices.base.__module__}.{choices.base.__qualname__}"
        raise ConfigError(f"{origin}: {path}.name: {quote(name)} is not derived from {base}")
    return found  # type: ignore[no-any-return]


def _near_names(module_name: str, attribute: str) -> str:
    """Return which of a module's own names may be meant; empty where it could not be imported."""
    # Python takes out what failed on the way.
    own = vars(sys.modules[module_name]) if module_name in sys.modules else {}
    names = [
        name
        for name, value in own.items()
        if callable(value) and getattr(value, "__module__", None) == module_name
    ]
    return suggest(attribute, names)


def _derives(found: Any, base: type) -> bool:
    return isinstance(found, type) and issubclass(found, base)
