"""The power is cut at any moment of a run: it goes on to the very bits of the uninterrupted one."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import paddle
import pytest
from faulty_disk import FaultyDisk
from power_loss import TEARS, states_after, write_tree
from torture_record import pending, recorded
from trainers import all_bits, make_reader, make_trainer

from ppema import PowerFunctionEMA
from ppema.checkpoint import CheckpointStore
from ppema.engine.hooks import CheckpointHook, EvaluateHook, LogHook
from ppema.engine.record import Recorder, read_records
from ppema.engine.resume import find_start, is_finished, prepare_folder
from ppema.engine.run_state import restore
from ppema.engine.snapshots import SnapshotHook

pytestmark = pytest.mark.reliability

EPOCHS = 2


def make(folder):
    """Return a trainer that logs, evaluates, takes snapshots and saves each step; and its store."""
    folder.mkdir(exist_ok=True)
    store, recorder = CheckpointStore(folder, 2), Recorder(folder, None)
    evaluate = EvaluateHook(make_reader(20), recorder, "best")
    snapshots = SnapshotHook(folder / "snapshots", 2)
    save = CheckpointHook(store, 1, 1, {}, evaluate, snapshots)
    log = LogHook(recorder, 1, None)
    hooks = [log, evaluate, snapshots, save]
    # As the builder does: a weight file holds Paddle's automatic names too.
    with paddle.utils.unique_name.guard():
        trainer = make_trainer(make_reader(), hooks, num_epochs=EPOCHS)
    trainer.averages["power"] = PowerFunctionEMA(trainer.model, sigma_rel=0.1)
    return trainer, store


def go_on(folder):
    """Go on as tools/train.py -r auto does; return the step gone on from, and how it ends."""
    trainer, store = make(folder)
    start = find_start(store, "auto", False)
    if start is not None and is_finished(start, EPOCHS):
        trainer.step = start.step
        restore(trainer, start)
        prepare_folder(store, start, is_done=True)
    else:
        if start is not None:
            restore(trainer, start)
        prepare_folder(store, start, is_done=False)
        trainer.train()
    records = [(r["step"], r.get("average")) for r in read_records(folder / "metrics.jsonl")]
    final = store.linked("model_final")
    final.verify()
    best = store.linked("best_model").manifest["best"]
    taken = [(entry["step"], entry["sha256"]) for entry in final.manifest["snapshots"]]
    for entry in trainer.hooks[2].taken:
        assert entry.is_whole(folder / "snapshots" / entry.file_name)
    return start.step if start else 0, (all_bits(trainer), records, best, taken)


class Recording:
    """All that a run changes in its folder, and the change with which each step is saved."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        with FaultyDisk(folder) as disk:
            _, self.end = go_on(folder)
        self.changes = disk.changes
        self.saved_at = {}
        for number, change in enumerate(disk.changes):
            if change.kind == "rename" and Path(str(change.other)).name.startswith("step_"):
                # The folder is opened, then waited for.
                self.saved_at[int(change.other[-9:])] = number + 3

    def cut(self, seed, folder):
        """Cut the power at a moment that the seed draws, go on, and compare the ends."""
        choose = random.Random(seed)
        num_done = choose.randrange(len(self.changes) + 1)
        states = states_after(self.folder, dict, self.changes, num_done, choose, limit=40)
        tree = choose.choice(list(states))
        shutil.rmtree(folder, ignore_errors=True)
        write_tree(tree, folder, choose.choice(list(TEARS)))
        saved = max((s for s, number in self.saved_at.items() if number <= num_done), default=0)
        paddle.seed(seed)
        step, end = go_on(folder)
        assert step >= saved
        assert end == self.end
        return step


def test_a_run_goes_on_to_the_same_bits_after_a_power_cut(tmp_path):
    recording = Recording(tmp_path / "run")
    assert len(recording.saved_at) == 10
    starts = {recording.cut(seed, tmp_path / "found") for seed in range(12)}
    assert len(starts) > 3


@pytest.mark.torture
def test_a_run_goes_on_to_the_same_bits_after_a_thousand_power_cuts(tmp_path):
    recording = Recording(tmp_path / "run")
    for case in pending("power loss of a run", range(100, 1100)):
        with recorded("power loss of a run", case) as figures:
            figures["from_step"] = recording.cut(case, tmp_path / "found")
