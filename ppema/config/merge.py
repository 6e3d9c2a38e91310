"""One tree from a config, the files it is based on, and the overrides of the command line."""

from __future__ import annotations

import os
import re
from typing import Sequence as SequenceOf

from ..errors import ConfigError
from .strict_yaml import (
    MAX_DEPTH,
    Mapping,
    Node,
    Origin,
    Scalar,
    Sequence,
    parse_yaml,
    read_yaml,
    resolve_scalar,
)

BASE = "_BASE_"


def read_tree(path: str, overrides: SequenceOf[str]) -> Mapping:
    """Return the merged tree of a config file, its bases and `-o` overrides.

    Raises:
        ConfigError: with file and line, or `-o key`, for all that is refused.
    """
    tree = _read_with_bases(path, ())
    parsed = [_parse_override(text) for text in overrides]
    # A class is named before its arguments are set, in whatever order they were typed.
    for keys, value in sorted(parsed, key=lambda item: item[0][-1] != "name"):
        _override(tree, keys, value)
    return tree


def _read_with_bases(path: str, opened: tuple[str, ...]) -> Mapping:
    path = os.path.normpath(path)
    chain = (*opened, path)
    if os.path.realpath(path) in map(os.path.realpath, opened):
        names = " → ".join(os.path.basename(name) for name in chain)
        raise ConfigError(f"{BASE} loop: {names}")
    if len(chain) > MAX_DEPTH:
        raise ConfigError(f"{path}: more than {MAX_DEPTH} files based on each other")
    tree = read_yaml(path)
    base = tree.items.pop(BASE, None)
    if base is None:
        return tree
    merged = Mapping(tree.origin)
    for name in _base_names(base):
        origin = tree.key_origins[BASE]
        base_path = os.path.join(os.path.dirname(path), name)
        if not os.path.isfile(base_path):
            raise ConfigError(f"{origin}: {BASE} names {name!r}, and there is no such file")
        merged = _merge(merged, _read_with_bases(base_path, chain))
    return _merge(merged, tree)


def _base_names(base: Node) -> list[str]:
    nodes = base.items if isinstance(base, Sequence) else [base]
    for node in nodes:
        if not isinstance(node, Scalar) or not isinstance(node.value, str) or not node.value:
            raise ConfigError(f"{base.origin}: {BASE} must be a file name or a list of them")
    return [node.value for node in nodes if isinstance(node, Scalar)]


def _merge(base: Mapping, child: Mapping) -> Mapping:
    """Return the child's keys over the base's; lists and values replace.

    Where both name a class and the names differ, the base's other keys were arguments of
    another class, so the child's mapping stands alone.
    """
    if _class_name(child) not in (None, _class_name(base)) and _class_name(base) is not None:
        return child
    merged = Mapping(child.origin, dict(base.items), dict(base.key_origins))
    for key, node in child.items.items():
        below = merged.items.get(key)
        if isinstance(below, Mapping) and isinstance(node, Mapping):
            node = _merge(below, node)
        merged.items[key] = node
        merged.key_origins[key] = child.key_origins[key]
    return merged


def _class_name(mapping: Mapping) -> object:
    name = mapping.items.get("name")
    return name.value if isinstance(name, Scalar) else None


def _parse_override(text: str) -> tuple[list[str], Node]:
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"-o {text}: must be KEY=VALUE, such as Averages.ema.decay=0.999")
    if len(keys) > MAX_DEPTH:
        raise ConfigError(f"-o {path}: nested deeper than {MAX_DEPTH} levels")
    place = f"-o {path.strip()}"
    value = value.strip()
    if value[:1] in ("[", "{", "'", '"'):
        try:
            node = parse_yaml(value, place)
        except ConfigError as error:
            # A command line has no lines to point at.
            raise ConfigError(re.sub(r":\d+: ", ": ", str(error), count=1)) from None
        _forget_lines(node, Origin(place))
        return keys, node
    return keys, Scalar(resolve_scalar(value), value, Origin(place))


def _forget_lines(node: Node, origin: Origin) -> None:
    """Give all nodes of an override one origin, without lines."""
    node.origin = origin
    if isinstance(node, Mapping):
        node.key_origins = dict.fromkeys(node.items, origin)
    if not isinstance(node, Scalar):
        children = node.items.values() if isinstance(node, Mapping) else node.items
        for child in children:
            _forget_lines(child, origin)


def _override(tree: Mapping, keys: list[str], value: Node) -> None:
    node: Node = tree
    for depth, key in enumerate(keys[:-1]):
        if isinstance(node, Mapping):
            node.key_origins.setdefault(key, value.origin)
            node = node.items.setdefault(key, Mapping(value.origin))
        else:
            node = _element(node, key, keys[:depth], value.origin)
        if isinstance(node, Scalar):
            where = ".".join(keys[: depth + 1])
            raise ConfigError(f"{value.origin}: {where} is a value and has no keys")
    last = keys[-1]
    if isinstance(node, Sequence):
        _element(node, last, keys[:-1], value.origin)
        node.items[int(last)] = value
        return
    assert isinstance(node, Mapping)
    if last == "name" and isinstance(value, Scalar) and _class_name(node) != value.value:
        node.items.clear()
    node.items[last] = value
    node.key_origins[last] = value.origin


def _element(node: Node, key: str, path: list[str], origin: Origin) -> Node:
    assert isinstance(node, Sequence)
    if not key.isdecimal() or int(key) >= len(node.items):
        raise ConfigError(
            f"{origin}: {'.'.join(path)} is a list of {len(node.items)}; {key!r} is no index of it"
        )
    return node.items[int(key)]
