"""Figures in the prose of a page: each has to stand in a table that is made from a result.

A figure is a number with a decimal point, one of four or more digits, or one with a unit behind it
(%, percent, points, steps, seconds, seeds, times). In the prose of a section, which is all from one
`## ` heading to the next but for tables between marks, code blocks and comments, each figure has
to be written, digit by digit, in

- a table of the section, its header included,
- the text of the study file of such a table, comments aside (`half_life: 0.3 %`), or the number of
  its seeds, or of the steps of its runs,
- or likewise in a section, of this page or another of the evidence, that this section links to.

Signs and commas between thousands do not count. What stands before the first `## ` is a section
too. Numbers in names (`ema_03`, top-1), versions and arXiv numbers are no figures. A table made by
hand is prose.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Mapping

from .results import Results
from .tables import TABLE, read_mark

_NUMBER = re.compile(r"(?<![\w.,])(?<![A-Za-z]-)\d+(?:,\d{3})*(?:\.\d+)?(?!\.?,?\d)")
_UNIT = re.compile(r"\s*(?:%|(?:percent|percentage|points?|steps?|seconds?|seeds?|times)\b)")
_HEADING = re.compile(r'^(?:<a (?:name|id)="[\w-]+"></a>\n)?## (.+)$', re.M)
_NO_PROSE = (
    re.compile(r"^```.*?^```", re.S | re.M),
    re.compile(r"<!--.*?-->", re.S),
    # Where a link leads, not what it says.
    re.compile(r"(?<=\])\([^)\s]*\)"),
    re.compile(r"arXiv[: ]\d{4}\.\d{5}"),
)
_LINK = re.compile(r"\]\(([\w./-]*)#([\w-]+)\)")


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        line: of its beginning.
        anchors: by which links lead to it.
    """

    page: Path
    line: int
    anchors: frozenset[str]
    text: str


def unfounded(pages: Mapping[Path, str], results: Results) -> list[str]:
    """Return a line for each figure that stands in no table that it may be from."""
    sections = [section for page, text in pages.items() for section in sections_of(page, text)]
    founded = {id(section): _numbers_behind(section, results) for section in sections}
    lines = []
    for section in sections:
        known = set().union(*(founded[id(each)] for each in _sources(section, sections)))
        for line, figure in figures_in(section.text):
            if _digits(figure) not in known:
                where = f"{section.page}:{section.line + line}"
                lines.append(f"{where}: {figure} is in no table of its section, nor of one linked")
    return lines


def sections_of(page: Path, text: str) -> list[Section]:
    """Return the sections of a page; headings in code blocks are none."""
    starts = [(match.start(), match[1]) for match in _HEADING.finditer(_blank(text, _NO_PROSE[:1]))]
    ends = [*(start for start, _ in starts), len(text)]
    sections = []
    for (start, heading), end in zip([(0, ""), *starts], ends):
        part = text[start:end]
        named = re.findall(r'<a (?:name|id)="([\w-]+)">', part)
        made = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        line = text.count("\n", 0, start) + 1
        sections.append(Section(page, line, frozenset([*named, made]), part))
    return sections


def figures_in(text: str) -> Iterator[tuple[int, str]]:
    """Return the figures in the prose of a section, each with its line, counted from 0."""
    prose = _blank(text, (TABLE, *_NO_PROSE))
    for match in _NUMBER.finditer(prose):
        figure = match[0]
        has_unit = _UNIT.match(prose, match.end()) is not None
        if "." in figure or len(_digits(figure)) >= 4 or has_unit:
            yield prose.count("\n", 0, match.start()), figure


def _sources(section: Section, sections: list[Section]) -> list[Section]:
    """Return a section and those that it links to."""
    links = {
        (section.page.name if not page else Path(page).name, anchor)
        for page, anchor in _LINK.findall(section.text)
    }
    linked = [s for s in sections if any((s.page.name, anchor) in links for anchor in s.anchors)]
    return [section, *linked]


def _numbers_behind(section: Section, results: Results) -> set[str]:
    """Return the numbers in a section's tables and in the settings of their studies."""
    found: set[str] = set()
    for match in TABLE.finditer(section.text):
        found |= _numbers_in(match[3])
        result = results.read(read_mark(match[2], str(section.page)).study)
        settings = re.sub(r"(^|\s)#.*", "", result.facts["file"])
        counts = [v["n"] for v in result.variants] + [run["steps"] for run in result.facts["runs"]]
        found |= _numbers_in(settings) | set(map(str, counts))
    return found


def _numbers_in(text: str) -> set[str]:
    return {_digits(number) for number in _NUMBER.findall(text)}


def _digits(number: str) -> str:
    return number.replace(",", "")


def _blank(text: str, patterns: tuple[re.Pattern[str], ...]) -> str:
    """Return a text with spaces for what matches; its lines stay where they are."""
    for pattern in patterns:
        text = pattern.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    return text
