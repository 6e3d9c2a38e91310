"""YAML without its traps: text becomes nodes that know their line, and nothing is guessed.

No duplicate keys, anchors, aliases, merges or tags; numbers as YAML 1.2 has them (1e-3 is one).
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from typing import Any, Iterator, Optional, Union

import yaml

from ..errors import ConfigError
from ..nearby import near_path

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
# Fully escaped, a longer key passes YAML's limit of 1,024 characters, and a dump of it would
# not be read back.
MAX_KEY = 80
# A config of this many parts is not one that a person wrote; reading it would take seconds.
_MAX_EVENTS = 50_000

_TAB_INDENT = re.compile(r"^ *\t[ \t]*[^\s]", re.MULTILINE)
_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufeff\ufffe\uffff]"
)

_NO_ALIASES = "anchors and aliases (&, *, <<) are not allowed"
_INTEGER = re.compile(r"[-+]?[0-9]{1,300}|0o[0-7]{1,300}|0x[0-9a-fA-F]{1,300}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


@dataclass(frozen=True)
class Origin:
    """Where a value was written: `lenet.yml:12`, `lenet.yml`, or `-o epoch`."""

    place: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.place}:{self.line}" if self.line else self.place


@dataclass
class Scalar:
    """A value: what it means, and the very text of it."""

    value: Any
    text: str
    origin: Origin


@dataclass
class Sequence:
    """A list."""

    origin: Origin
    items: list[Node] = field(default_factory=list)


@dataclass
class Mapping:
    """A mapping; `key_origins` tells where each key stands."""

    origin: Origin
    items: dict[str, Node] = field(default_factory=dict)
    key_origins: dict[str, Origin] = field(default_factory=dict)


Node = Union[Scalar, Sequence, Mapping]


def read_yaml(path: str) -> Mapping:
    """Return the top-level mapping of a file.

    Raises:
        ConfigError: with file and line, for all that is refused.
    """
    try:
        # A pipe would be waited for.
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ConfigError(f"{path}: is no regular file")
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    # A name with NUL in it is a ValueError.
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        near = near_path(path) if isinstance(error, FileNotFoundError) else ""
        shown = path if path.isprintable() else ascii(path)[1:-1]
        raise ConfigError(f"{shown}: {why}{near}") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: config is larger than 1 MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start})") from None
    node = parse_yaml(text, path)
    if not isinstance(node, Mapping):
        raise ConfigError(f"{node.origin}: a config is a mapping of keys to values")
    return node


def parse_yaml(text: str, place: str) -> Node:
    """Return the one document in `text` as a node.

    Raises:
        ConfigError: with file and line, for all that is refused.
    """
    _refuse_controls_and_tabs(text, place)
    try:
        node = _build(_events(text, place), place)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_describe_syntax_error(error, place)) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{place}: {str(error).splitlines()[0]}") from None
    if node is None or (isinstance(node, Scalar) and not node.text):
        raise ConfigError(f"{place}: config is empty")
    return node


def is_key(text: str) -> bool:
    """Return whether a key fits on a line of a message and of a dumped config."""
    return 0 < len(text) <= MAX_KEY and text.isprintable()


def make_scalar(text: str, is_plain: bool, origin: Origin) -> Scalar:
    """Return the node of a scalar; a quoted one is always text.

    Raises:
        ConfigError: it holds NUL or half of a character, which no file name and no file may.
    """
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ConfigError(f"{origin}: NUL and lone surrogates are not allowed in text")
    return Scalar(resolve_scalar(text) if is_plain else text, text, origin)


def resolve_scalar(text: str) -> Any:
    """Return what a plain (unquoted) scalar means: null, bool, int, float or the text itself.

    Source: https://yaml.org/spec/1.2.2/#103-core-schema
    """
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text, base)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _events(text: str, place: str) -> Iterator[Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    events: Iterator[Any] = yaml.parse(text, Loader=loader)
    for count, event in enumerate(events):
        origin = Origin(place, event.start_mark.line + 1)
        if count > _MAX_EVENTS:
            raise ConfigError(f"{origin}: more than {_MAX_EVENTS:,} parts")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ConfigError(f"{origin}: {_NO_ALIASES}")
        if getattr(event, "tag", None):
            raise ConfigError(f"{origin}: tags (!…) are not allowed")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ConfigError(f"{origin}: nested deeper than {MAX_DEPTH} levels")
        yield event


def _build(events: Iterator[Any], place: str) -> Optional[Node]:
    """Return the node of the document that the events describe, None without a document."""
    root: Optional[Node] = None
    parents: list[Node] = []
    keys: list[Optional[str]] = []  # of each open collection, the key that awaits its value
    num_documents = 0
    for event in events:
        origin = Origin(place, event.start_mark.line + 1)
        num_documents += isinstance(event, yaml.DocumentStartEvent)
        if num_documents > 1:
            raise ConfigError(f"{origin}: a second document (---) is not allowed")
        if isinstance(event, yaml.CollectionEndEvent):
            keys.pop()
            node = parents.pop()
        elif isinstance(event, yaml.NodeEvent):
            node = _node_of(event, origin)
            if parents and isinstance(parents[-1], Mapping) and keys[-1] is None:
                keys[-1] = _new_key(parents[-1], node)
                continue
            if not isinstance(node, Scalar):
                parents.append(node)
                keys.append(None)
                continue
        else:
            continue
        if not parents:
            root = node
        elif isinstance(parents[-1], Mapping):
            parents[-1].items[str(keys[-1])], keys[-1] = node, None
        elif isinstance(parents[-1], Sequence):
            parents[-1].items.append(node)
    return root


def _node_of(event: Any, origin: Origin) -> Node:
    if isinstance(event, yaml.MappingStartEvent):
        return Mapping(origin)
    if isinstance(event, yaml.SequenceStartEvent):
        return Sequence(origin)
    return make_scalar(event.value, event.style in (None, ""), origin)


def _new_key(mapping: Mapping, node: Node) -> str:
    if not isinstance(node, Scalar):
        raise ConfigError(f"{node.origin}: a key must be a word, not a list or a mapping")
    key = node.text
    if key == "<<":
        raise ConfigError(f"{node.origin}: {_NO_ALIASES}")
    if not is_key(key):
        raise ConfigError(f"{node.origin}: a key must be 1 to {MAX_KEY} printable characters")
    if not isinstance(node.value, str):
        raise ConfigError(f"{node.origin}: a key must be text, got {key}; put it in quotes")
    if key in mapping.items:
        first = mapping.key_origins[key].line
        raise ConfigError(f"{node.origin}: {key!r} is given twice (first on line {first})")
    mapping.key_origins[key] = node.origin
    return key


def _refuse_controls_and_tabs(text: str, place: str) -> None:
    control = _CONTROL.search(text)
    if control is not None:
        line = text.count("\n", 0, control.start()) + 1
        raise ConfigError(f"{place}:{line}: control character {control.group()!a} is not allowed")
    # Looked for in the text, as YAML itself takes a tab within brackets.
    tab = _TAB_INDENT.search(text)
    if tab is not None:
        line = text.count("\n", 0, tab.start()) + 1
        raise ConfigError(f"{place}:{line}: indented with a tab; use spaces")


def _describe_syntax_error(error: yaml.MarkedYAMLError, place: str) -> str:
    mark = error.problem_mark or error.context_mark
    origin = Origin(place, 1 if mark is None else int(mark.line) + 1)
    # `exclude: *.bias` is an alias to YAML, though its writer meant a pattern.
    if error.context in ("while scanning an alias", "while scanning an anchor"):
        return f"{origin}: {_NO_ALIASES}"
    # libyaml's own limit, which it reaches first as it reads ahead.
    if error.problem == "exceeded maximum nesting depth":
        return f"{origin}: nested deeper than {MAX_DEPTH} levels"
    return f"{origin}: {error.problem or 'not YAML'}"
