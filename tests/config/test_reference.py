"""docs/config.md is what the code gives, and says of each key what the reader enforces."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Dict, List, Literal, Optional, Sequence, Tuple, Union

import paddle
import pytest

from ppema.averaging import AVERAGES
from ppema.builder import CATALOG
from ppema.config import reference_text
from ppema.config.reference import argument_help, type_words
from ppema.config.schema import Keys

PAGE = Path(__file__).resolve().parents[2] / "docs/config.md"


@pytest.mark.skipif(paddle.__version__ != "3.3.1", reason="its signatures are of Paddle 3.3.1")
def test_the_committed_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == reference_text(CATALOG), (
        "run python tools/make_schema.py"
    )


def test_every_key_and_every_class_has_its_place():
    page = PAGE.read_text(encoding="utf-8")
    for entry in dataclasses.fields(Keys):
        assert f"| `{entry.name}` | " in page
        assert f" | {entry.metadata['help']} |" in page
    for choices in CATALOG.values():
        start = "- `" if choices.is_open else "### `name: "
        assert all(f"{start}{name}`" in page for name in choices.classes)


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (bool, "true or false"),
        (Optional[float], "number or null"),
        (Union[int, float, str, None], "number or text or null"),
        (Literal["off", 1], "`off` or `1`"),
        (Sequence[str], "list of text"),
        (List[int], "list of whole numbers"),
        (Tuple[int, int], "list of whole numbers"),
        (Sequence[Dict[str, int]], "list"),
        (Union[int, Sequence[float]], "whole number or list of numbers"),
        (object, "any"),
    ],
)
def test_a_type_is_said_in_words(annotation, words):
    assert type_words(annotation) == words


@pytest.mark.parametrize("name", AVERAGES)
def test_every_argument_of_an_average_is_explained(name):
    page = reference_text({"Averages": CATALOG["Averages"]})
    section = (
        page.partition(f"### `name: {name}`")[2].partition("\n### ")[0].partition("\nA sub")[0]
    )
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert len(rows) > 5
    assert not [row for row in rows if row.endswith("|  |") or "| see " in row]


def test_what_another_class_says_of_an_argument_is_found_there():
    class Base:
        """Do something.

        Args:
            size, depth: how much of it,
                in steps.
            start: when.

        Raises:
            ValueError: never.
        """

    class Derived(Base):
        """Do more.

        Args:
            start: see Base; or text.
            size: see Base.
        """

    assert argument_help(Derived, "start") == "when; or text."
    assert argument_help(Derived, "size") == "how much of it, in steps."
    assert argument_help(Derived, "depth") == "how much of it, in steps."
    assert argument_help(Derived, "ValueError") == ""
    assert argument_help(len, "size") == ""
