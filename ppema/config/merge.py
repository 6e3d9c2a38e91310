"""One tree from a config, the files it is based on, and the overrides of the command line."""

from __future__ import annotations

import os
import re
from typing import Optional
from typing import Sequence as SequenceOf

from ..errors import ConfigError
from .convert import quote, shorten
from .strict_yaml import (
    MAX_DEPTH,
    Mapping,
    Node,
    Origin,
    Scalar,
    Sequence,
    is_key,
    make_scalar,
    parse_yaml,
    read_yaml,
)

BASE = "_BASE_"
# Bases of bases double at each level; no config needs so many.
_MAX_FILES = 100


def read_tree(path: str, overrides: SequenceOf[str]) -> Mapping:
    """Return the merged tree of a config file, its bases and `-o` overrides.

    Raises:
        ConfigError: with file and line, or `-o key`, for all that is refused.
    """
    tree = _read_with_bases(path, (), [])
    parsed = [_parse_override(text) for text in overrides]
    # A class is named before its arguments are set, in whatever order they were typed.
    for keys, value in sorted(parsed, key=lambda item: item[0][-1] != "name"):
        _override(tree, keys, value)
    return tree


def _read_with_bases(path: str, opened: tuple[str, ...], read: list[str]) -> Mapping:
    """Return a file's tree over those of its bases.

    Args:
        path: the file.
        opened: the files that led here, each based on the next.
        read: all files read so far; this one is added.
    """
    path = os.path.normpath(path)
    chain = (*opened, path)
    read.append(path)
    if len(read) > _MAX_FILES:
        raise ConfigError(f"{chain[0]}: based on more than {_MAX_FILES} files")
    tree = read_yaml(path)
    base = tree.items.pop(BASE, None)
    if base is None:
        return tree
    merged = Mapping(tree.origin)
    for name in _base_names(base):
        origin = tree.key_origins[BASE]
        base_path = os.path.join(os.path.dirname(path), name)
        if not os.path.isfile(base_path):
            raise ConfigError(f"{origin}: {BASE} names {quote(name)}, and there is no such file")
        if os.path.realpath(base_path) in map(os.path.realpath, chain):
            names = " → ".join(os.path.basename(link) for link in (*chain, base_path))
            raise ConfigError(f"{BASE} loop: {names}")
        merged = merge(merged, _read_with_bases(base_path, chain, read))
    return merge(merged, tree)


def _base_names(base: Node) -> list[str]:
    nodes = base.items if isinstance(base, Sequence) else [base]
    for node in nodes:
        if not isinstance(node, Scalar) or not isinstance(node.value, str) or not node.value:
            raise ConfigError(f"{base.origin}: {BASE} must be a file name or a list of them")
    return [node.value for node in nodes if isinstance(node, Scalar)]


def merge(base: Mapping, child: Mapping) -> Mapping:
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
            node = merge(below, node)
        merged.items[key] = node
        merged.key_origins[key] = child.key_origins[key]
    return merged


def _class_name(mapping: Mapping) -> object:
    return _class_name_of(mapping.items.get("name"))


def _class_name_of(node: Optional[Node]) -> object:
    return node.value if isinstance(node, Scalar) else None


def _parse_override(text: str) -> tuple[list[str], Node]:
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(map(is_key, keys)):
        raise ConfigError(
            f"-o {shorten(text)}: must be KEY=VALUE, such as Averages.ema.decay=0.999"
        )
    origin = Origin(f"-o {path.strip()}")
    value = value.strip()
    node: Node
    if value[:1] in ("[", "{", "'", '"'):
        try:
            node = parse_yaml(value, origin.place)
        except ConfigError as error:
            # A command line has no lines to point at.
            raise ConfigError(re.sub(r":\d+: ", ": ", str(error), count=1)) from None
        _forget_lines(node, origin)
    else:
        node = make_scalar(value, True, origin)
    # What is read back from the run's folder must not be deeper than the reader goes.
    if len(keys) + _depth(node) > MAX_DEPTH:
        raise ConfigError(f"{origin}: nested deeper than {MAX_DEPTH} levels")
    return keys, node


def _depth(node: Node) -> int:
    if isinstance(node, Scalar):
        return 0
    children = node.items.values() if isinstance(node, Mapping) else node.items
    return 1 + max(map(_depth, children), default=0)


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
    if last == "name" and _class_name(node) not in (None, _class_name_of(value)):
        node.items.clear()
    node.items[last] = value
    node.key_origins[last] = value.origin


def _element(node: Node, key: str, path: list[str], origin: Origin) -> Node:
    assert isinstance(node, Sequence)
    if key not in map(str, range(len(node.items))):
        raise ConfigError(
            f"{origin}: {'.'.join(path)} is a list of {len(node.items)}; {key!r} is no index of it"
        )
    return node.items[int(key)]
