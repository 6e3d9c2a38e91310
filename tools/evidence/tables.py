"""Tables in pages, between marks that say what they show.

<!-- table STUDY | variants: a, b | weights: raw, ema | columns: top1, difference, p -->
<!-- end of table -->

Without `variants` or `weights` all are shown. Marks may go over several lines. `reference: swa`
has differences to these weights of the same variant, in place of the study's reference;
`reference: VARIANT/swa` to those of a variant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Sequence

from ppema.config.convert import suggest
from ppema.errors import CheckpointError, ConfigError
from ppema.study.table import as_markdown, columns_of, marked

from .pairs import with_reference
from .results import Result, Results, require_known

PAGES = tuple(
    map(Path, ("docs/evidence.md", "docs/which_average.md", "README.md", "README.zh-CN.md"))
)
END = "<!-- end of table -->"
# The mark, with its line's end, and what stands below it up to the end.
TABLE = re.compile(rf"(<!-- table\b(.*?)-->\n)(.*?)({re.escape(END)})", re.S)
_START = re.compile(r"<!-- table\b")
_KEYS = ("variants", "weights", "reference", "columns")


@dataclass(frozen=True)
class Mark:
    """What a table is to show.

    Attributes:
        where: page and line.
    """

    where: str
    study: str
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def error(self, message: str) -> ConfigError:
        """Return an error that begins with page and line."""
        return ConfigError(f"{self.where}: {message}")

    def chosen(self, key: str, known: Sequence[str]) -> Sequence[str]:
        """Return what was chosen of something, all where nothing was.

        Raises:
            ConfigError: something was chosen that there is not.
        """
        for name in self.choices.get(key, ()):
            require_known(name, known, f"{key[:-1]} of {self.study} named", self.error)
        return self.choices.get(key, known)


def rendered(page: Path, text: str, results: Results) -> str:
    """Return a page with each of its tables as the kept results have it.

    Raises:
        ConfigError: a mark says what cannot be; with page and line.
        CheckpointError: the result of a study is not kept or is damaged; likewise.
    """
    found = list(TABLE.finditer(text))
    starts = [match.start() for match in _START.finditer(text)]
    for start, match in zip(starts, [*found, *[None] * len(starts)]):
        if match is None or match.start() != start:
            raise ConfigError(f"{_where(page, text, start)}: the table has no {END!r} below it")

    def replaced(match: re.Match[str]) -> str:
        mark = read_mark(match[2], _where(page, text, match.start()))
        require_known(mark.study, results.names, "study", mark.error)
        try:
            result = results.read(mark.study)
        except CheckpointError as error:
            raise CheckpointError(f"{mark.where}: {error}") from None
        return f"{match[1]}{as_markdown(rows(mark, result))}\n{match[4]}"

    return TABLE.sub(replaced, text)


def read_mark(text: str, where: str) -> Mark:
    """Return what a mark says, between its `table` and its end.

    Raises:
        ConfigError: it cannot be read.
    """
    study, *parts = (" ".join(part.split()) for part in text.split("|"))
    choices: dict[str, Sequence[str]] = {}
    for part in parts:
        key, colon, names = (piece.strip() for piece in part.partition(":"))
        if key not in _KEYS or not colon:
            raise ConfigError(f"{where}: there is no {key!r} of a table{suggest(key, _KEYS)}")
        choices[key] = [name.strip() for name in names.split(",")]
    mark = Mark(where, study, choices)
    if "columns" not in choices:
        raise mark.error("a table needs columns, such as columns: top1, difference, p")
    return mark


def rows(mark: Mark, result: Result) -> list[list[str]]:
    """Return the cells of a table, the names of its columns first.

    Raises:
        ConfigError: there is no such variant, weights or column.
    """
    plan, found_of_all, reference = result.plan, result.variants, None
    if "reference" in mark.choices:
        found_of_all, reference = _compared_anew(mark, result)
    summaries = {found["variant"]: found for found in found_of_all}
    variants = mark.chosen("variants", list(summaries))
    known = [name for variant in variants for name in summaries[variant]["weights"]]
    weights = mark.chosen("weights", list(dict.fromkeys(known)))
    columns = columns_of(plan, reference)
    names = mark.chosen("columns", list(columns))
    titles = {variant.name: variant.title for variant in plan.variants}
    has_variants = len(summaries) > 1 and len(variants) > 1
    table = [[*["variant"][: int(has_variants)], "weights", *(columns[n].header for n in names)]]
    for variant in variants:
        found = summaries[variant]
        for name in weights:
            # An axis may bring averages of its own.
            if name in found["weights"]:
                cells = [columns[n].cell(found["weights"][name]) for n in names]
                title = [titles[variant]] if has_variants else []
                table.append([*title, marked(name, found["chosen"]), *cells])
    return table


def _compared_anew(mark: Mark, result: Result) -> tuple[Sequence[Mapping[str, Any]], str]:
    """Return the variants with differences to what the mark names, and its name for readers."""
    variant, _, name = mark.choices["reference"][0].rpartition("/")
    known = {found["variant"]: found for found in result.variants}
    if variant:
        require_known(variant, list(known), f"variant of {mark.study} named", mark.error)
    for found in [known[variant]] if variant else known.values():
        require_known(
            name, list(found["weights"]), f"set of weights of {mark.study} named", mark.error
        )
    titles = {each.name: each.title for each in result.plan.variants}
    return with_reference(result, name, variant or None), (
        f"{titles[variant]}, {name}" if variant else name
    )


def _where(page: Path, text: str, position: int) -> str:
    return f"{page}:{text.count(chr(10), 0, position) + 1}"
