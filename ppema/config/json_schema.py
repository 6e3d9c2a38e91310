"""The JSON Schema of a config, so that editors complete and check while one types."""

from __future__ import annotations

import dataclasses
from typing import Any, Hashable, Literal, Mapping, Optional, get_args, get_origin

from .convert import (
    MAPPINGS,
    SEQUENCES,
    Bounds,
    hints_of,
    hints_of_fields,
    is_union,
    section_of,
)
from .merge import BASE
from .named import Choices, Named, arguments_of
from .schema import ALONE, AVERAGE_NAME, Keys

_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}
_IMPORT_PATH = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+$"


def json_schema(catalog: Mapping[str, Choices]) -> dict[str, Any]:
    """Return the schema of all keys, with the arguments of the classes that are ppema's own.

    No key is required, since a config may take any from its `_BASE_`.
    """
    schema = _object_of(Keys, "", catalog)
    base = {"description": "files that this one is based on", "type": ["string", "array"]}
    schema["properties"] = {BASE: base, **schema["properties"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A ppema config",
        **schema,
    }


def _object_of(keys: type, path: str, catalog: Mapping[str, Choices]) -> dict[str, Any]:
    hints = hints_of_fields(keys)
    properties = {}
    for entry in dataclasses.fields(keys):
        key_path = f"{path}.{entry.name}" if path else entry.name
        described = {"description": entry.metadata["help"]}
        described.update(_schema_of(hints[entry.name], key_path, catalog))
        described.update(_bounds(entry.metadata["bounds"]))
        if entry.default is not dataclasses.MISSING:
            described["default"] = entry.default
        elif entry.default_factory is not dataclasses.MISSING:
            described["default"] = entry.default_factory()
        properties[entry.name] = described
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _schema_of(annotation: Any, path: str, catalog: Mapping[str, Choices]) -> dict[str, Any]:
    if annotation is Named:
        return _section(catalog[path])
    if annotation == Optional[Named]:
        return {"anyOf": [{"type": "null"}, _section(catalog[path])]}
    if Named in get_args(annotation):
        if get_origin(annotation) is dict:
            return {
                "type": "object",
                "propertyNames": {"pattern": f"^{AVERAGE_NAME.pattern}$"},
                "additionalProperties": _section(catalog[path]),
            }
        return {"type": "array", "items": _section(catalog[path])}
    section = section_of(annotation)
    if section is not None:
        schema = _object_of(section, path, catalog)
        return schema if section is annotation else {"anyOf": [{"type": "null"}, schema]}
    return {"$ref": "#"} if path == ALONE else _type(annotation)


def _section(choices: Choices) -> dict[str, Any]:
    """Return the schema of `{name: …, arguments}`: one alternative for each class."""
    own: dict[str, Any] = {"pattern": _IMPORT_PATH, "description": "an import path of your own"}
    if choices.is_open:
        name = {"type": "string", "anyOf": [{"enum": list(choices.classes)}, own]}
        properties: dict[str, Any] = {"name": name}
        for key, nested in choices.nested.items():
            properties[key] = {"anyOf": [{"type": ["number", "null"]}, _section(nested)]}
        properties.update({key: _type(hint) for key, hint in choices.extras.items()})
        return {"type": "object", "properties": properties}
    alternatives = [_class(name, cls, choices) for name, cls in choices.classes.items()]
    alternatives.append({"type": "object", "properties": {"name": {"type": "string", **own}}})
    # A child of a _BASE_ may leave the name out, and then says nothing of the class.
    return {
        "type": "object",
        "if": {"required": ["name"]},
        "then": {"anyOf": alternatives},
    }


def _class(name: str, cls: Any, choices: Choices) -> dict[str, Any]:
    hints = hints_of(cls)
    properties: dict[str, Any] = {"name": {"const": name}}
    takes_any = False
    for key, parameter in arguments_of(cls, choices.given).items():
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_any = True
            continue
        properties[key] = _type(hints.get(key, Any))
        default = parameter.default
        if isinstance(default, tuple):
            default = list(default)
        # Any other default is an object of Python's, which JSON cannot show.
        if default is None or isinstance(default, (bool, int, float, str, list)):
            properties[key]["default"] = default
    return {"type": "object", "properties": properties, "additionalProperties": takes_any}


def _type(annotation: Any) -> dict[str, Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if not isinstance(annotation, Hashable):
        return {}
    if annotation in _TYPES:
        return {"type": _TYPES[annotation]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if is_union(annotation):
        members = [{"type": "null"} if m is type(None) else _type(m) for m in arguments]
        return {"anyOf": members}
    if (origin or annotation) in SEQUENCES:
        return {"type": "array", **({"items": _type(arguments[0])} if arguments else {})}
    if (origin or annotation) in MAPPINGS:
        return {"type": "object"}
    return {}


def _bounds(bounds: Bounds) -> dict[str, Any]:
    limits = {
        "minimum": bounds.at_least,
        "exclusiveMinimum": bounds.above,
        "maximum": bounds.at_most,
    }
    return {name: limit for name, limit in limits.items() if limit is not None}
