"""The record of the torture: what passed is not run again, what failed or was torn is."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torture_record
from torture_record import RESULTS, pending, read, recorded, totals


def test_without_a_file_every_case_is_run(monkeypatch, tmp_path):
    monkeypatch.delenv(RESULTS, raising=False)
    with recorded("kill", 1):
        pass
    assert pending("kill", [1, 2]) == [1, 2]


def test_only_what_has_not_passed_is_run_again(monkeypatch, tmp_path):
    path = tmp_path / "results.jsonl"
    monkeypatch.setenv(RESULTS, str(path))
    with recorded("kill", 1) as figures:
        figures["kills"] = 3
    with pytest.raises(ZeroDivisionError), recorded("kill", 2):
        1 / 0  # noqa: B018
    with pytest.raises(KeyboardInterrupt), recorded("kill", 3):
        raise KeyboardInterrupt
    assert pending("kill", [1, 2, 3]) == [2, 3]
    assert pending("other", [1]) == [1]
    assert [(r["case"], r["passed"]) for r in read()] == [(1, True), (2, False)]
    with recorded("kill", 2) as figures:
        figures["kills"] = 4
    sums = totals(read())["kill"]
    assert (sums["passed"], sums["kills"], "failed" in sums) == (2, 7, False)


def test_of_the_slowest_the_largest_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv(RESULTS, str(tmp_path / "results.jsonl"))
    for case, seconds in enumerate((0.25, 0.5, 0.125)):
        with recorded("fuzz", case) as figures:
            figures["slowest_s"] = seconds
    assert totals(read())["fuzz"]["slowest_s"] == 0.5


def test_a_line_that_a_kill_tore_is_run_again_and_swallows_no_other(monkeypatch, tmp_path):
    path = tmp_path / "results.jsonl"
    monkeypatch.setenv(RESULTS, str(path))
    with recorded("kill", 1):
        pass
    path.write_text(path.read_text() + '{"suite": "kill", "ca')
    with recorded("kill", 2):
        pass
    assert pending("kill", [1, 2, 3]) == [3]
    command = [sys.executable, torture_record.__file__, str(path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.startswith('kill {"passed": 2')
