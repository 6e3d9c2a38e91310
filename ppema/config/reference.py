"""The page that lists every key of a config and every class that one may name."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
from typing import Any, Iterator, Literal, Mapping, Sequence, get_args, get_origin

from .convert import (
    MAPPINGS,
    SEQUENCES,
    Bounds,
    hints_of,
    hints_of_fields,
    is_union,
    section_of,
)
from .named import Choices, Named, arguments_of
from .schema import Keys

_INTRODUCTION = """\
# Every key of a config

Made from the code by `python tools/make_schema.py`, beside `configs/schema.json`; do not edit it.
A key without a default has to be in the config or in a file of its `_BASE_`. Child mappings merge
over those of `_BASE_`, lists replace. `-o a.b=1` sets a key on the command line, and
`tools/train.py --check` prints the whole config with the file and line of each value.

`_BASE_` takes a file, or a list of files, that a config is based on.
"""
_NOUNS = {bool: "true or false", int: "whole number", float: "number", str: "text"}
_ARGUMENT = re.compile(r"    (\w+(?:, \w+)*): (.*)")


def reference_text(catalog: Mapping[str, Choices]) -> str:
    """Return the page: a table of all keys, then the classes of each section."""
    lines = [_INTRODUCTION, *_table(("key", "type", "default", "what it is"), _key_rows(Keys, ""))]
    sections: dict[int, list[str]] = {}
    for section, choices in catalog.items():
        # TrainDataset and EvalDataset have the same classes.
        sections.setdefault(id(choices.classes), []).append(section)
    for named in sections.values():
        choices = catalog[named[0]]
        lines += ["", f"## {' and '.join(f'`{section}`' for section in named)}", ""]
        lines += _open_section(choices) if choices.is_open else _own_section(choices)
    return "\n".join(lines) + "\n"


def _key_rows(keys: type, path: str) -> Iterator[tuple[str, ...]]:
    hints = hints_of_fields(keys)
    for entry in dataclasses.fields(keys):
        annotation = hints[entry.name]
        words = type_words(annotation) + _range(entry.metadata["bounds"])
        if entry.default_factory is not dataclasses.MISSING:
            default = _code(entry.default_factory())
        else:
            default = "" if entry.default is dataclasses.MISSING else _code(entry.default)
        yield f"`{path}{entry.name}`", words, default, entry.metadata["help"]
        section = section_of(annotation)
        if section is not None and section is not Named:
            yield from _key_rows(section, f"{path}{entry.name}.")


def _own_section(choices: Choices) -> list[str]:
    """Return the classes with a table of their arguments, and what each is for."""
    lines: list[str] = []
    for name, cls in choices.classes.items():
        summary = (inspect.getdoc(cls) or "").partition("\n")[0]
        lines += [*([""] if lines else []), f"### `name: {name}`", "", summary]
        rows = list(_argument_rows(cls, choices))
        if rows:
            lines += ["", *_table(("argument", "type", "default", "what it is"), rows)]
    return [*lines, "", _own_class(choices)]


def _argument_rows(cls: Any, choices: Choices) -> Iterator[tuple[str, ...]]:
    hints = hints_of(cls)
    for name, parameter in arguments_of(cls, choices.given).items():
        is_required = parameter.default is parameter.empty
        default = "" if is_required else _code(parameter.default)
        yield f"`{name}`", type_words(hints.get(name, Any)), default, argument_help(cls, name)


def _open_section(choices: Choices) -> list[str]:
    """Return the classes by signature: what their arguments mean, Paddle's pages say."""
    lines = []
    for name, cls in choices.classes.items():
        parameters = arguments_of(cls, choices.given).values()
        shown = ", ".join(str(p.replace(annotation=p.empty)) for p in parameters)
        lines.append(f"- `{name}`" + (f": `{shown}`" if shown else ""))
    return [*lines, "", _own_class(choices)]


def _own_class(choices: Choices) -> str:
    kind = "A class or function"
    if choices.base is not None:
        kind = f"A subclass of `{_public_path(choices.base)}`"
    given = ", ".join(f"`{name}`" for name in sorted(choices.given))
    filled = f" ppema itself fills in {given}." if given else ""
    return f"{kind} of your own is named by its import path, `name: my_module.MyClass`.{filled}"


def _public_path(cls: type) -> str:
    """Return the shortest import path of a class: `paddle.nn.Layer`."""
    parts = cls.__module__.split(".")
    modules = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
    name = cls.__name__
    found = (m for m in modules if getattr(sys.modules.get(m), name, None) is cls)
    return f"{next(found)}.{name}"


def type_words(annotation: Any) -> str:
    """Return what a value may be, in words."""
    arguments = get_args(annotation)
    if annotation is Named:
        return "a class, with its arguments"
    if dataclasses.is_dataclass(annotation):
        return "section"
    if get_origin(annotation) is Literal:
        return " or ".join(_code(choice) for choice in arguments)
    if is_union(annotation):
        # A whole number is a number; saying both would only be longer.
        members = [m for m in arguments if not (m is int and float in arguments)]
        members.sort(key=lambda member: member is type(None))
        return " or ".join("null" if m is type(None) else type_words(m) for m in members)
    if get_origin(annotation) is dict and Named in arguments:
        return "classes, each under a name"
    if (get_origin(annotation) or annotation) in MAPPINGS:
        return "mapping"
    if (get_origin(annotation) or annotation) in SEQUENCES:
        is_named = Named in arguments
        return "list of classes, with their arguments" if is_named else _list_words(arguments)
    return _NOUNS.get(annotation, "any") if isinstance(annotation, type) else "any"


def _list_words(arguments: Sequence[Any]) -> str:
    if not arguments or arguments[0] not in _NOUNS:
        return "list"
    noun = _NOUNS[arguments[0]]
    return f"list of {noun if noun == 'text' else noun + 's'}"


def argument_help(cls: Any, argument: str) -> str:
    """Return what the docstring of a class, or of one that it refers to, says of an argument."""
    texts = {
        base.__name__: _arguments_in(inspect.cleandoc(base.__doc__ or ""))
        for base in (inspect.getmro(cls) if isinstance(cls, type) else [])
    }
    text = next((found[argument] for found in texts.values() if argument in found), "")
    referred = re.fullmatch(r"see (\w+)([.;].*)", text)
    if referred and argument in texts.get(referred[1], {}):
        text = texts[referred[1]][argument].rstrip(".") + referred[2]
    return text


def _arguments_in(docstring: str) -> dict[str, str]:
    """Return the entries of a docstring's `Args:`, by name."""
    _, _, block = docstring.partition("\nArgs:\n")
    found: dict[str, str] = {}
    names: list[str] = []
    for line in block.split("\n"):
        entry = _ARGUMENT.match(line)
        if not line.startswith("    "):
            break
        if entry:
            names = entry[1].split(", ")
            found.update(dict.fromkeys(names, entry[2]))
        else:
            found.update({name: f"{found[name]} {line.strip()}" for name in names})
    return found


def _range(bounds: Bounds) -> str:
    parts = []
    if bounds.above is not None:
        parts.append(f"above {bounds.above:g}")
    if bounds.at_least is not None:
        parts.append(f"at least {bounds.at_least:g}")
    if bounds.at_most is not None:
        parts.append(f"at most {bounds.at_most:.0f}")
    return f", {', '.join(parts)}" if parts else ""


def _code(value: Any) -> str:
    plain = isinstance(value, (bool, int, float, list, tuple, dict)) or value is None
    shown = json.dumps(value) if plain else str(value)
    return f"`{shown}`"


def _table(head: tuple[str, ...], rows: Any) -> list[str]:
    cells = [head, ("---",) * len(head), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells]
