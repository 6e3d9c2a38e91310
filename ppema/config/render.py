"""Write a config as YAML that the strict reader reads back as the same values."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Callable, Iterator, Optional

from .strict_yaml import resolve_scalar

_PLAIN = re.compile(r"-?[A-Za-z0-9_./~+][A-Za-z0-9_./~+*-]*")
_COMMENT_COLUMN = 48


def render_tree(values: dict[str, Any], comment: Callable[[str], Optional[str]]) -> str:
    """Return `values` as YAML; `comment` gives the remark behind the key at a dotted path."""
    lines = []
    for text, path in _lines(values, "", 0):
        remark = comment(path)
        lines.append(f"{text:<{_COMMENT_COLUMN}} # {remark}" if remark else text)
    return "\n".join(lines) + "\n"


def render_scalar(value: Any) -> str:
    """Return a scalar, or a collection on one line, as the strict reader takes it."""
    if isinstance(value, dict):
        inner = ", ".join(f"{render_scalar(k)}: {render_scalar(v)}" for k, v in value.items())
        return f"{{{inner}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(render_scalar(item) for item in value)}]"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else (".inf" if value > 0 else "-.inf")
    if isinstance(value, str) and _PLAIN.fullmatch(value) and resolve_scalar(value) == value:
        return value
    if isinstance(value, str):
        return _quote(value)
    # JSON is YAML: its numbers, true, false and null mean the same.
    return json.dumps(value)


def _quote(text: str) -> str:
    # Not JSON's escapes: YAML does not join the surrogate pairs that they make of an emoji.
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text) + '"'


def _lines(values: dict[str, Any], path: str, depth: int) -> Iterator[tuple[str, str]]:
    indent = "  " * depth
    for key, value in values.items():
        key_path = f"{path}.{key}" if path else key
        if isinstance(value, dict) and value:
            yield f"{indent}{render_scalar(key)}:", key_path
            yield from _lines(value, key_path, depth + 1)
        elif isinstance(value, list) and value and all(isinstance(v, dict) and v for v in value):
            yield f"{indent}{render_scalar(key)}:", key_path
            for index, item in enumerate(value):
                first, *others = _lines(item, f"{key_path}.{index}", depth + 2)
                yield f"{indent}  - {first[0].lstrip()}", first[1]
                yield from others
        else:
            yield f"{indent}{render_scalar(key)}: {render_scalar(value)}", key_path
