"""Config files that no one would write for good, through the command line: one line and 2 (P13)."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from in_process import REPOSITORY

HEAD = f"_BASE_: {REPOSITORY}/configs/lenet_digits.yml\n"
NOT_ALLOWED = "anchors and aliases (&, *, <<) are not allowed"
NO_FILE = "lenet.yml:1: _BASE_ names {!r}, and there is no such file"


def based(text):
    return (HEAD + text + "\n").encode()


CASES = {
    "a bomb of aliases": (
        based("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]"),
        f"lenet.yml:2: {NOT_ALLOWED}",
    ),
    "an alias": (based("seed: 1\nepoch: *seed"), f"lenet.yml:3: {NOT_ALLOWED}"),
    "a merge": (based("Model: {<<: {name: LeNet}}"), f"lenet.yml:2: {NOT_ALLOWED}"),
    "a quoted merge": (based("Model:\n  '<<': 1"), f"lenet.yml:3: {NOT_ALLOWED}"),
    "a tag that calls": (
        based("seed: !!python/object/apply:os.system ['touch ran']"),
        "lenet.yml:2: tags (!…) are not allowed",
    ),
    "a tag that makes": (
        based("seed: !!python/object/new:type {args: [x]}"),
        "lenet.yml:2: tags (!…) are not allowed",
    ),
    "a tag that reads": (based("a: !include b.yml"), "lenet.yml:2: tags (!…) are not allowed"),
    "binary": (based("seed: !!binary aGk="), "lenet.yml:2: tags (!…) are not allowed"),
    "too deep": (based("a: " + "{a: " * 20 + "1" + "}" * 20), "lenet.yml:2: nested deeper than 20"),
    "far too deep": (b"[" * 500_000, "lenet.yml:1: nested deeper than 20 levels"),
    "too large": (b"# " + b"x" * (1 << 20), "lenet.yml: config is larger than 1 MiB"),
    "too many parts": (b"a: [" + b"1," * 60_000 + b"]", "lenet.yml:1: more than 50,000 parts"),
    "nul at the start": (b"\0epoch: 1", "lenet.yml:1: control character '\\x00' is not allowed"),
    "nul at the end": (
        based("seed: 1\0"),
        "lenet.yml:2: control character '\\x00' is not allowed",
    ),
    "nul by an escape": (
        based('Model.name: "a\\0"'),
        "lenet.yml:2: NUL and lone surrogates are not allowed",
    ),
    "half a character by an escape": (
        based('output_dir: "\\ud800"'),
        "lenet.yml:2: ",
    ),
    "a byte order mark within": (
        based("seed: \ufeff1"),
        "lenet.yml:2: control character '\\ufeff' is not allowed",
    ),
    "utf-16": ("epoch: 1\n".encode("utf-16"), "lenet.yml: not UTF-8 (byte 0)"),
    "not utf-8 in a key": (b"\xe9poch: 1", "lenet.yml: not UTF-8 (byte 0)"),
    "not utf-8 in a value": (b"epoch: \xff", "lenet.yml: not UTF-8 (byte 7)"),
    "not utf-8 in a comment": (b"# \xc3(\nepoch: 1", "lenet.yml: not UTF-8 (byte 2)"),
    "not utf-8 at the end": (b"epoch: 1 # \xe2\x82", "lenet.yml: not UTF-8 (byte 11)"),
    "half a character as bytes": (b"# \xed\xa0\x80", "lenet.yml: not UTF-8 (byte 2)"),
    "a terminal's command": (
        based("seed: \x1b[2J"),
        "lenet.yml:2: control character '\\x1b' is not allowed",
    ),
    "a float beyond all": (
        based("LearningRate: {base_lr: 1e999}"),
        "lenet.yml:2: LearningRate.base_lr must be a finite number above 0, got inf",
    ),
    "nan": (
        based("LearningRate: {base_lr: .nan}"),
        "lenet.yml:2: LearningRate.base_lr must be a finite number above 0, got nan",
    ),
    "a huge integer": (based("seed: " + "9" * 5000), "lenet.yml:2: seed must be "),
    "a huge hexadecimal": (based("seed: 0x" + "f" * 290), "lenet.yml:2: seed must be "),
    "a huge epoch": (
        based("epoch: " + "9" * 290),
        "lenet.yml:2: epoch must be 1000000000 or less, got 9999",
    ),
    "minutes of YAML 1.1": (
        based("epoch: 1:30"),
        "lenet.yml:2: epoch must be a whole number, got '1:30'",
    ),
    "digits of YAML 1.1": (
        based("epoch: 1_000"),
        "lenet.yml:2: epoch must be a whole number, got '1_000'",
    ),
    "binary of YAML 1.1": (
        based("epoch: 0b11"),
        "lenet.yml:2: epoch must be a whole number, got '0b11'",
    ),
    "yes of YAML 1.1": (based("use_vdl: yes"), "lenet.yml:2: use_vdl must be true or false, got"),
    "a date of YAML 1.1": (
        based("epoch: 2001-01-01"),
        "lenet.yml:2: epoch must be a whole number, got '2001-01-01'",
    ),
    "a number for a key": (
        based("1: x"),
        "lenet.yml:2: a key must be text, got 1; put it in quotes",
    ),
    "nothing for a key": (
        based("null: x"),
        "lenet.yml:2: a key must be text, got null; put it in quotes",
    ),
    "a list for a key": (
        based("? [a]\n: x"),
        "lenet.yml:2: a key must be a word, not a list or a mapping",
    ),
    "two documents": (based("---\nepoch: 1"), "lenet.yml:2: a second document (---)"),
    "a list": (b"- epoch", "lenet.yml:1: a config is a mapping of keys to values"),
    "only a comment": (b"# nothing\n", "lenet.yml: config is empty"),
    "a base that is itself": (b"_BASE_: lenet.yml", "_BASE_ loop: lenet.yml → lenet.yml"),
    "a base that is itself by another way": (
        b"_BASE_: folder/../lenet.yml",
        "_BASE_ loop: lenet.yml → lenet.yml",
    ),
    "a base that is itself by a link": (b"_BASE_: link.yml", "_BASE_ loop: lenet.yml → link.yml"),
    "a base that is missing": (b"_BASE_: none.yml", NO_FILE.format("none.yml")),
    "an absolute base that is missing": (b"_BASE_: /none/a.yml", NO_FILE.format("/none/a.yml")),
    "a base that is a folder": (b"_BASE_: folder", NO_FILE.format("folder")),
    "a base that is a pipe": (b"_BASE_: pipe", NO_FILE.format("pipe")),
    "a base without an end": (b"_BASE_: /dev/zero", NO_FILE.format("/dev/zero")),
    "a base that is a link to itself": (b"_BASE_: loop", NO_FILE.format("loop")),
    "a base with two lines": (b'_BASE_: "a\\nb"', NO_FILE.format("a\nb")),
    "a base that is no name": (
        b"_BASE_: 3",
        "lenet.yml:1: _BASE_ must be a file name or a list of them",
    ),
    "a base without a name": (
        b"_BASE_: ''",
        "lenet.yml:1: _BASE_ must be a file name or a list of them",
    ),
}


@pytest.fixture
def surroundings(run_tool):
    """Make what the cases name."""
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("link.yml").symlink_to("lenet.yml")
    Path("loop").symlink_to("loop")


@pytest.mark.parametrize("case", CASES)
def test_it_gives_its_line_and_2(refuse, surroundings, case):
    content, message = CASES[case]
    Path("lenet.yml").write_bytes(content)
    assert refuse(2, "train", "-c", "lenet.yml").startswith(message)


@pytest.mark.parametrize("tool", ["train", "eval", "average"])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("pipe", "pipe: is no regular file"),
        ("/dev/zero", "/dev/zero: is no regular file"),
        ("folder", "folder: Is a directory"),
        ("loop", "loop: Too many levels of symbolic links"),
        ("none.yml", "none.yml: No such file or directory"),
        ("two\nlines.yml", "two\\nlines.yml: No such file or directory"),
    ],
)
def test_a_config_that_is_no_file_is_refused_at_once(refuse, surroundings, tool, path, message):
    posthoc = ("posthoc", "--sigma_rel", "0.1") if tool == "average" else ()
    assert refuse(2, tool, *posthoc, "-c", path) == message


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_mark_and_other_line_ends_change_nothing(run_tool, line_end, mark):
    text = mark + HEAD.replace("\n", line_end) + f"epoch: 3{line_end}"
    Path("lenet.yml").write_bytes(text.encode())
    result = run_tool("train", "-c", "lenet.yml", "--check")
    assert result.code == 0, result.err
    assert re.search(r"^epoch: 3 +# lenet\.yml:2$", result.out, re.M)
