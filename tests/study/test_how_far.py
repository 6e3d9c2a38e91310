"""How far a study is, by the records of the runs under way."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ppema.study import how_far
from ppema.study.how_far import HowFar, last_step


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ('{"step": 4}\n{"step": 8}\n', 8),
        ('{"step": 4}\n{"step": 8', 4),
        ('{"step": 4}\nnull\n', 4),
        ("", 0),
        ("x" * 100_000 + '\n{"step": 5}\n', 5),
    ],
)
def test_the_last_whole_record_tells_the_step(tmp_path, text, step):
    (tmp_path / "metrics.jsonl").write_text(text)
    assert last_step(tmp_path / "metrics.jsonl") == step


def test_a_run_without_a_record_has_not_begun(tmp_path):
    assert last_step(tmp_path / "metrics.jsonl") == 0


def test_the_rest_takes_as_long_as_its_steps_did_so_far(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(how_far, "time", SimpleNamespace(monotonic=lambda: clock.now))
    short, long = (SimpleNamespace(variant=SimpleNamespace(name=name)) for name in ("a", "b"))
    # Of two parts, one of which has not begun.
    long.parts = [tmp_path, tmp_path / "none"]
    monkeypatch.setattr(how_far, "run_folder", lambda part: part)
    found = HowFar({"a": 100, "b": 300}, [short, long])
    found.end(short)
    found.look([long])
    assert (found.total, found.done, found.time_left()) == (400, 100, "")
    (tmp_path / "metrics.jsonl").write_text('{"step": 50}\n')
    clock.now += 0.5
    # Not twice in a second.
    found.look([long])
    assert found.done == 100
    clock.now += 9.5
    found.look([long])
    # Ten seconds for 50 steps, and 250 are left.
    assert (found.done, found.time_left()) == (150, ", eta 0:00:50")
