"""docs/reliability.md names every proof there is and no other, and its commands do what it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = (REPOSITORY / "docs/reliability.md").read_text()
COMMANDS = [
    line.replace(".venv/bin/python", sys.executable)
    for text in re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    for line in text.splitlines()
]


def run(command, folder):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_table_names_each_proof_and_no_other():
    text = PAGE.split('<a name="promises">')[1].split('<a name="run">')[0]
    named = {Path(path).name for path in re.findall(r"`([\w/]*test_\w+\.py)`", text)}
    modules = {path.name: path for path in (REPOSITORY / "tests").rglob("test_*.py")}
    mark = "\npytestmark = pytest.mark.reliability\n"
    assert named == {name for name, path in modules.items() if mark in path.read_text()}
    assert [int(number) for number in re.findall(r"^\| P(\d+) ", text, re.M)] == list(range(1, 15))


def test_the_short_and_the_long_proofs_are_chosen_by_their_marks():
    short, long_ = COMMANDS[:2]
    assert "torture.log 2>&1 &" in long_
    counts = []
    for command in (short, long_.replace("nohup", "").split(" > ")[0]):
        result = run(f"{command} -n 0 --collect-only -p no:cacheprovider", REPOSITORY)
        assert result.returncode == 0, result.stderr
        counts.append(int(re.search(r"(\d+)/\d+ tests collected", result.stdout, re.M)[1]))
    assert counts[0] > 2 * counts[1] > 200


def test_what_was_recorded_is_added_up(tmp_path):
    line = {"suite": "kill -9", "case": 100, "passed": True, "seconds": 20.5, "kills": 10}
    (tmp_path / "torture.jsonl").write_text(json.dumps(line) + "\n")
    command = COMMANDS[2].replace("tests/", f"{REPOSITORY}/tests/")
    assert run(command, tmp_path).stdout == (
        'kill -9 {"passed": 1, "seconds": 20.5, "kills": 10}\n'
    )


@pytest.mark.parametrize("command", COMMANDS[3:])
def test_the_fuzz_led_by_coverage_runs(command, tmp_path):
    pytest.importorskip("atheris")
    command = command.replace("tests/", f"{REPOSITORY}/tests/")
    result = run(f"{command} -runs=500 -timeout=60", tmp_path)
    assert result.returncode == 0, result.stderr[-500:]
    assert re.search(r"^Done \d{3,} runs", result.stderr, re.M)
