"""The Chinese README says what the English one does: same commands, code, tables and links."""

from __future__ import annotations

import ast
import re

import pytest
from in_process import REPOSITORY

ENGLISH = (REPOSITORY / "README.md").read_text(encoding="utf-8")
CHINESE = (REPOSITORY / "README.zh-CN.md").read_text(encoding="utf-8")


def blocks(page):
    return re.findall(r"```(\w+)\n(.*?)```", page, re.S)


def test_each_block_is_the_same_but_for_the_comments():
    english, chinese = blocks(ENGLISH), blocks(CHINESE)
    assert len(chinese) > 10
    assert [kind for kind, _ in chinese] == [kind for kind, _ in english]
    for (kind, text), (_, original) in zip(chinese, english):
        if kind == "python":
            assert ast.dump(ast.parse(text)) == ast.dump(ast.parse(original))
            assert text.count("#") == original.count("#")
        else:
            assert text == original


def test_the_sections_and_tables_are_as_many():
    for pattern in (r"^## ", r"^\|---", r"^- \*\*"):
        assert len(re.findall(pattern, CHINESE, re.M)) == len(re.findall(pattern, ENGLISH, re.M))
    rows = [re.findall(r"^\| (.*?) \|", page, re.M) for page in (CHINESE, ENGLISH)]
    assert len(rows[0]) == len(rows[1])


@pytest.mark.parametrize(
    "part", [r"\d+\.\d+ %", r"\]\(([^)]+\.(?:md|png)[^)]*)\)", r"`([a-z_]+\.yml)`"]
)
def test_figures_links_and_configs_are_the_same_ones(part):
    found, wanted = (sorted(re.findall(part, page)) for page in (CHINESE, ENGLISH))
    # Each links to the other.
    own = {"README.md", "README.zh-CN.md"}
    assert [item for item in found if item not in own] == [x for x in wanted if x not in own]


def test_each_leads_to_the_other_in_its_first_lines():
    assert "(README.zh-CN.md)" in "".join(ENGLISH.splitlines()[:4])
    assert "(README.md)" in "".join(CHINESE.splitlines()[:4])


def test_what_stands_in_code_there_stands_in_code_here():
    found, wanted = (set(re.findall(r"`([^`\n]+)`", page)) for page in (CHINESE, ENGLISH))
    assert wanted - found == set()
