"""Remember which cases of the torture have passed, so that a run that was stopped goes on there.

Started detached, from the folder of the project:

    PPEMA_TORTURE_RESULTS=torture.jsonl nohup python -m pytest -m torture -q > torture.log 2>&1 &

Each case is one line: `suite`, `case`, `passed`, `seconds`, and what the case counted, or its
`error`. The same command again runs only what has not passed; delete the file after a change of
the code. Without the variable nothing is kept and every case is run.

`python tests/torture_record.py torture.jsonl` adds up what the file holds.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

RESULTS = "PPEMA_TORTURE_RESULTS"


def pending(suite, cases):
    """Return those of `cases` (numbers: their seeds, or texts) that have not passed yet."""
    passed = {r["case"] for r in read() if r["suite"] == suite and r["passed"]}
    return [case for case in cases if case not in passed]


@contextlib.contextmanager
def recorded(suite, case):
    """Run the block as one case: it puts figures into the dict it gets; a line is appended."""
    figures = {}
    started = time.monotonic()
    try:
        yield figures
    except Exception as error:
        _append(
            suite, case, started, {**figures, "error": f"{type(error).__name__}: {error}"[:500]}
        )
        raise
    # Killed or interrupted, a case has neither passed nor failed.
    _append(suite, case, started, figures)


def read():
    """Return all lines but a torn one."""
    path = os.environ.get(RESULTS)
    if not path or not Path(path).exists():
        return []
    records = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return records


def totals(records):
    """Return, by suite, the passed cases, the seconds and the sums of all figures counted.

    Of a figure whose name begins with slowest_ it is the largest.
    """
    # Of a case that failed at first only the last line counts.
    last = {(r["suite"], r["case"]): r for r in records}
    sums = {}
    for record in last.values():
        counted = sums.setdefault(record["suite"], Counter())
        counted["passed" if record["passed"] else "failed"] += 1
        for name, value in record.items():
            if type(value) in (int, float) and name not in ("case", "passed"):
                is_peak = name.startswith("slowest_")
                counted[name] = max(counted[name], value) if is_peak else counted[name] + value
    return {suite: dict(counted) for suite, counted in sums.items()}


def _append(suite, case, started, figures):
    path = os.environ.get(RESULTS)
    if not path:
        return
    seconds = round(time.monotonic() - started, 3)
    line = {"suite": suite, "case": case, "passed": "error" not in figures, "seconds": seconds}
    # A line that a kill tore must not swallow this one.
    with open(path, "a+b") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        start = b"" if file.read() in (b"", b"\n") else b"\n"
        file.write(start + json.dumps({**line, **figures}).encode() + b"\n")


if __name__ == "__main__":
    os.environ[RESULTS] = sys.argv[1]
    for name, sums in sorted(totals(read()).items()):
        print(name, json.dumps({key: round(value, 3) for key, value in sums.items()}))
