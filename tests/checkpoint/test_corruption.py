"""The newest checkpoint is damaged in any way: it is noticed, and the one before is used."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest
from faulty_disk import copy_bytes
from small_store import filled, run_of, whole_steps
from torture_record import pending, recorded

from ppema.checkpoint import CheckpointStore
from ppema.checkpoint.manifest import render
from ppema.errors import CheckpointError

pytestmark = pytest.mark.reliability

STEPS = (10, 20, 30)


def flip(path, choose):
    content = bytearray(path.read_bytes())
    content[choose.randrange(len(content))] ^= 1 << choose.randrange(8)
    path.write_bytes(content)


def truncate(path, choose):
    os.truncate(path, choose.randrange(path.stat().st_size))


def append(path, choose):
    path.write_bytes(path.read_bytes() + choose.randbytes(choose.randint(1, 100)))


def zero(path, choose):
    content = path.read_bytes()
    start = choose.randrange(len(content))
    length = choose.randint(1, len(content) - start)
    path.write_bytes(content[:start] + bytes(length) + content[start + length :])


def overwrite(path, choose):
    content = path.read_bytes()
    start = choose.randrange(len(content))
    path.write_bytes((content[:start] + choose.randbytes(choose.randint(1, 50)))[: len(content)])


def empty(path, choose):
    path.write_bytes(b"")


def delete(path, choose):
    path.unlink()


def turn_into_a_folder(path, choose):
    path.unlink()
    path.mkdir()


def turn_into_a_pipe(path, choose):
    path.unlink()
    os.mkfifo(path)


def turn_into_a_loop(path, choose):
    path.unlink()
    path.symlink_to(path.name)


def swap(path, choose):
    other = choose.choice([p for p in path.parent.iterdir() if p != path])
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


def take_from_another_step(path, choose):
    shutil.copy(path.parent.with_name("step_000000010") / path.name, path)


def exchange_with_the_step_before(path, choose):
    other = path.parent.with_name("step_000000020") / path.name
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


def delete_the_manifest(path, choose):
    (path.parent / "manifest.json").unlink()


def edit_the_manifest(path, choose):
    manifest = path.parent / "manifest.json"
    facts = json.loads(manifest.read_text())
    facts[choose.choice(["epoch", "step", "format", "more"])] = choose.randint(2, 9)
    manifest.write_text(json.dumps(facts, indent=1) + "\n")


def rename_the_manifest_s_step(path, choose):
    manifest = path.parent / "manifest.json"
    # Whole in itself, digest and all, but of another step than the folder.
    manifest.write_text(render({**json.loads(manifest.read_text()), "step": choose.randint(0, 29)}))


def delete_the_contents(path, choose):
    shutil.rmtree(path.parent)
    path.parent.mkdir()


def turn_the_checkpoint_into_a_file(path, choose):
    folder = path.parent
    content = path.read_bytes()
    shutil.rmtree(folder)
    folder.write_bytes(content)


def name_it_later(path, choose):
    path.parent.rename(path.parent.with_name(f"step_{choose.randint(31, 10**9 - 1):09d}"))


DAMAGES = (
    *(flip, flip, flip, truncate, truncate, append, zero, zero, overwrite, empty, delete),
    *(turn_into_a_folder, turn_into_a_pipe, turn_into_a_loop, swap, take_from_another_step),
    *(exchange_with_the_step_before, delete_the_manifest, edit_the_manifest),
    *(rename_the_manifest_s_step, delete_the_contents, turn_the_checkpoint_into_a_file),
    name_it_later,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Return a folder with three whole checkpoints."""
    return filled(tmp_path_factory.mktemp("base") / "run", keep=3, steps=STEPS).folder


def damage_and_find(base, folder, seed, caplog):
    """Damage the newest checkpoint once, look for the newest whole one; return what was done."""
    choose = random.Random(seed)
    damage = DAMAGES[seed % len(DAMAGES)]
    before = copy_bytes(base)
    while True:
        shutil.copytree(base, folder)
        damage(choose.choice(sorted((folder / "step_000000030").iterdir())), choose)
        # Zeros over zeros are no damage.
        if set(os.listdir(folder)) != set(os.listdir(base)) or kinds(folder) != kinds(base):
            break
        if copy_bytes(folder) != before:
            break
        shutil.rmtree(folder)
    caplog.clear()
    store = CheckpointStore(folder, keep=3)
    found = store.newest()
    wanted = 10 if damage is exchange_with_the_step_before else 20
    assert found.step == wanted, damage.__name__
    assert run_of(found) == 0
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (2 if wanted == 10 else 1)
    assert all(line.endswith(f"; using step_0000000{wanted}") for line in lines), lines
    # A folder of one such checkpoint alone has none that can be used.
    for step in STEPS[:2]:
        shutil.rmtree(store.path(step))
    with pytest.raises(CheckpointError, match=r"no usable checkpoint in .* \(1 damaged\)"):
        store.newest()
    assert whole_steps(store) == []
    shutil.rmtree(folder)
    return damage.__name__


def kinds(folder):
    return {str(p.relative_to(folder)): (p.is_dir(), p.is_file()) for p in Path(folder).rglob("*")}


def test_any_damage_to_the_newest_is_noticed(base, tmp_path, caplog):
    seeds = range(10 * len(DAMAGES))
    done = {damage_and_find(base, tmp_path / "run", seed, caplog) for seed in seeds}
    assert done == {damage.__name__ for damage in DAMAGES}


@pytest.mark.torture
def test_ten_thousand_damages(base, tmp_path, caplog):
    for case in pending("corruption", range(1000, 11_000)):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        with recorded("corruption", case) as figures:
            figures["damage"] = damage_and_find(base, tmp_path / "run", case, caplog)
