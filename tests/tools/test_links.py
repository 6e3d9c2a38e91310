"""Every page can be found, and what a page links to is there."""

from __future__ import annotations

import re

import pytest
from in_process import REPOSITORY

PAGES = sorted(
    str(path.relative_to(REPOSITORY))
    for pattern in ("*.md", "docs/*.md", "examples/*.md")
    for path in REPOSITORY.glob(pattern)
)
INDEX = "docs/README.md"


def read(page):
    return (REPOSITORY / page).read_text(encoding="utf-8")


def links(page):
    """Return the files and anchors that a page links to; code and other sites are left out."""
    prose = re.sub(r"```.*?```", "", read(page), flags=re.S)
    return re.findall(r"\]\((?!https?:)([^)\s]+)\)", prose)


def anchors(page):
    """Return the anchors of a page: those written, and those that GitHub makes of headings."""
    headings = re.findall(r"^#+ (.+)$", read(page), re.M)
    made = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
    return made | set(re.findall(r'<a (?:name|id)="([\w-]+)">', read(page)))


@pytest.mark.parametrize("page", PAGES)
def test_what_it_links_to_is_there(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (REPOSITORY / page).parent / path if path else REPOSITORY / page
        assert file.exists(), target
        inside = file.resolve().relative_to(REPOSITORY)
        assert not anchor or anchor in anchors(inside), target


def test_the_index_leads_to_every_page_and_both_readmes_to_the_index():
    found = {target.partition("#")[0] for target in links(INDEX)}
    pages = {path.name for path in (REPOSITORY / "docs").glob("*.md")} - {"README.md"}
    assert pages - found == set()
    assert {"../README.md", "../README.zh-CN.md", "../examples/README.md"} <= found
    assert all(INDEX in links(readme) for readme in ("README.md", "README.zh-CN.md"))


def test_every_picture_is_shown_on_a_page():
    shown = {target.rpartition("/")[2] for page in PAGES for target in links(page)}
    pictures = {path.name for path in (REPOSITORY / "docs/images").iterdir()}
    assert pictures - shown == set()
