"""Progress: on a terminal only, after two seconds, ten times a second, and gone at the end."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from terminal import Terminal

from ppema import progress
from ppema.progress import ProgressLine, track


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Return the time, which stands still unless a test moves it."""
    now = [0.0]
    monkeypatch.setattr("ppema.progress.time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def terminal():
    return Terminal()


@pytest.fixture
def stderr(terminal, monkeypatch):
    # Not sys.stderr itself, which pytest sets anew before each test.
    monkeypatch.setattr("ppema.progress.sys", SimpleNamespace(stderr=terminal))
    return terminal


def test_a_line_has_title_bar_share_and_text_and_is_wiped(terminal, clock):
    line = ProgressLine("f.gz", terminal)
    clock[0] = 2.0
    line.show_bytes(1_000_000, 4_000_000)
    assert terminal.frames() == ["", "f.gz [#####...............]  25 %  1.0 of 4.0 MB"]
    line.close()
    assert terminal.frames()[2:] == [""]


def test_of_a_size_that_nobody_knows_it_shows_what_is_done(terminal, clock):
    ProgressLine("f.gz", terminal, wait_s=0).show_bytes(1_000_000, 0)
    assert terminal.frames()[-1].endswith("  1.0 MB")


def test_what_is_done_within_two_seconds_is_not_shown(terminal, clock):
    with ProgressLine("short", terminal) as line:
        clock[0] = 1.99
        line.show(1, 2)
    assert terminal.getvalue() == ""


def test_a_line_is_redrawn_ten_times_a_second_at_most(terminal, clock):
    line = ProgressLine("long", terminal)
    for tick in range(200, 300):
        clock[0] = tick / 100
        line.show(tick, 300)
    assert 9 <= len(terminal.frames()) - 1 <= 11


def test_a_line_is_no_longer_than_the_terminal_is_wide(terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    ProgressLine("x" * 50, terminal, wait_s=0).show(1, 2)
    assert len(terminal.frames()[-1]) == 29


def test_tracking_yields_all_and_says_how_long_the_rest_takes(stderr, clock):
    found = []
    for item in track("abcd", 4, "letters"):
        found.append(item)
        clock[0] += 3
    assert found == list("abcd")
    assert stderr.frames()[1:] == [
        "letters [#####...............]  25 %  eta 0:00:09",
        "letters [##########..........]  50 %  eta 0:00:06",
        "letters [###############.....]  75 %  eta 0:00:03",
        "",
    ]


def test_the_line_is_wiped_when_the_work_breaks_off(stderr, clock):
    def work():
        for _ in track("abcd", 4, "letters"):
            clock[0] += 3
            if clock[0] > 5:
                raise ValueError("broken off")

    with pytest.raises(ValueError, match="broken off"):
        work()
    assert len(stderr.frames()) == 3
    assert stderr.frames()[-1] == ""


@pytest.mark.parametrize("stream", [io.StringIO(), None])
def test_nothing_is_shown_where_stderr_is_no_terminal(stream, monkeypatch):
    monkeypatch.setattr("ppema.progress.sys", SimpleNamespace(stderr=stream))
    line = ProgressLine("f.gz", wait_s=0)
    line.show(1, 4)
    line.close()
    assert not progress.can_be_shown()
    assert stream is None or stream.getvalue() == ""


def test_nothing_is_shown_where_it_is_to_be_quiet(stderr):
    progress.enable(False)
    try:
        ProgressLine("f.gz", wait_s=0).show(1, 4)
    finally:
        progress.enable(True)
    assert stderr.getvalue() == ""


@pytest.mark.parametrize("fault", [BrokenPipeError, ValueError])
def test_a_terminal_that_went_away_is_no_fault(terminal, fault, monkeypatch):
    def refuse(text):
        raise fault

    monkeypatch.setattr(terminal, "write", refuse)
    line = ProgressLine("f.gz", terminal, wait_s=0)
    line.show(1, 4)
    line.close()
