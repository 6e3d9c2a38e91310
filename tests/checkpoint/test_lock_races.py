"""Many processes want one folder: one gets it, the others are refused, the dead are no bother."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from torture_record import pending, recorded

# In a process of its own, which forks before it has any other thread.
RACES = """
import json, os, pathlib, random, signal, sys, time
from ppema.engine.run_folder import open_run_folder
from ppema.errors import FolderInUseError
from ppema.run_lock import RunLock

def runner(folder, kind, gate, answers):
    os.read(gate, 1)
    started = time.monotonic()
    try:
        if kind == "kill":
            lock = RunLock(folder)
            os.write(answers, f"{os.getpid()} held {time.monotonic() - started}\\n".encode())
            time.sleep(60)
        else:
            # Some come just when the folder is being removed.
            time.sleep(random.random() / 50)
            with open_run_folder(folder):
                alone = os.open(folder / "alone", os.O_CREAT | os.O_EXCL)
                time.sleep(random.random() / 200)
                os.close(alone)
                os.unlink(folder / "alone")
            said = "held"
    except FolderInUseError as error:
        said = "refused" if "in use" in str(error) else "cleared"
    except BaseException as error:
        said = type(error).__name__ + str(error).replace(" ", "_")
    os.write(answers, f"{os.getpid()} {said} {time.monotonic() - started}\\n".encode())
    os._exit(0)

def race(folder, kind, count):
    gate, opener = os.pipe()
    reader, answers = os.pipe()
    children = []
    for _ in range(count):
        child = os.fork()
        if child == 0:
            os.close(opener)
            runner(folder, kind, gate, answers)
        children.append(child)
    os.write(opener, b"x" * count)
    lines, buffer = [], b""
    while len(lines) < count:
        buffer += os.read(reader, 4096)
        *whole, buffer = buffer.split(b"\\n")
        lines += [line.decode().split() for line in whole]
    holders = [int(line[0]) for line in lines if line[1] == "held"]
    for child in holders:
        os.kill(child, signal.SIGKILL) if kind == "kill" else None
    for child in children:
        os.waitpid(child, 0)
    for file in (gate, opener, reader, answers):
        os.close(file)
    refused = [float(line[2]) for line in lines if line[1] == "refused"]
    return {"said": sorted(line[1] for line in lines), "slowest": max(refused, default=0)}

folder, kind, races = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for number in range(races):
    # What is never left alone is never removed: a new one each time.
    place = folder if kind == "kill" else folder / str(number)
    print(json.dumps(race(place, kind, 6)), flush=True)
"""


def run_races(folder, kind, count):
    command = [sys.executable, "-c", RACES, str(folder), kind, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    races = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(races) == count
    return races


def race_with_kills(folder, count):
    """Have six processes race for a folder; the one that got it is killed before the next race."""
    folder.mkdir()
    races = run_races(folder, "kill", count)
    for race in races:
        assert race["said"] == ["held"] + ["refused"] * 5
    return {"races": count, "slowest_refusal_s": max(race["slowest"] for race in races)}


def race_with_removals(folder, count):
    """Have six processes make a folder, and remove it where nothing came of it."""
    races = run_races(folder, "remove", count)
    said = [word for race in races for word in race["said"]]
    assert set(said) <= {"held", "refused", "cleared"}, set(said)
    assert all("held" in race["said"] for race in races)
    # A process that finds the folder there leaves it there.
    assert {path.name for path in folder.rglob("*") if path.is_file()} <= {".lock"}
    return {"removals": count}


def test_one_gets_the_lock_and_a_dead_one_blocks_nobody(tmp_path):
    race_with_kills(tmp_path / "run", 10)


def test_folders_that_come_and_go_are_held_by_one_at_a_time(tmp_path):
    race_with_removals(tmp_path / "run", 10)


@pytest.mark.torture
@pytest.mark.parametrize("race", [race_with_kills, race_with_removals])
def test_fifty_races(tmp_path, race):
    for case in pending("lock", [race.__name__]):
        with recorded("lock", case) as figures:
            figures.update(race(tmp_path / "run", 50))
