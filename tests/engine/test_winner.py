"""Checkpoint, log, manifest, record and the files themselves agree on the winner, also resumed."""

from __future__ import annotations

import json
import logging
import re

import pytest
from test_resume import saving_trainer
from trainers import bits, make_reader

from ppema.checkpoint import BEST, read_weight_file
from ppema.engine.evaluate import evaluate
from ppema.engine.run_state import restore
from ppema.engine.weights import find_weights
from ppema.errors import CheckpointError


def rank(figures):
    return (figures["top1"], -figures["loss"])


def best_of_record(folder):
    """Return what is best by the record alone: first of the highest."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    evaluations = [record for record in records if record["split"] == "eval"]
    best = max(evaluations, key=rank)
    return {key: best[key] for key in ("step", "average", "top1", "top2", "loss", "ece")}


@pytest.mark.parametrize("stop", [None, 3, 5, 8, 10, 13])
def test_all_agree_on_the_winner(tmp_path, caplog, stop):
    num_epochs = 4
    caplog.set_level(logging.INFO, logger="ppema")
    trainer, store = saving_trainer(tmp_path, stop=stop, num_epochs=num_epochs)
    if stop is not None:
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        trainer, _ = saving_trainer(tmp_path, num_epochs=num_epochs)
        restore(trainer, store.newest())
    trainer.train()
    expected = best_of_record(tmp_path)
    # The trainer's own memory, the newest manifest, and the checkpoint that is linked as best.
    assert trainer.hooks[0].best == expected
    assert store.newest().manifest["best"] == expected
    linked = store.linked(BEST)
    assert linked.step == expected["step"]
    assert linked.manifest["winner"] == expected["average"]
    assert linked.manifest["metrics"][expected["average"]]["top1"] == expected["top1"]
    # The log: the line marked in the table of that step.
    (table,) = [r.getMessage() for r in caplog.records if f"step {linked.step}\n" in r.getMessage()]
    assert re.findall(r"^(\S+) .*<- best", table, re.M) == [expected["average"]]
    # What a tool takes by itself, and the file it reads, give those very figures.
    weights = find_weights(None, tmp_path, "all")
    assert (weights.winner, weights.checkpoint.step) == (expected["average"], linked.step)
    model = trainer.model
    weights.load(weights.winner, model)
    found = evaluate(model, trainer.loss_fn, make_reader(20))
    assert found.as_dict() == {key: expected[key] for key in ("top1", "top2", "loss", "ece")}
    file = read_weight_file(linked.path / f"{weights.winner}.pdparams".replace("raw", "model"))
    assert bits(file) == bits(model.state_dict())


def test_an_average_without_statistics_of_its_own_is_no_weights_to_use(tmp_path, caplog):
    trainer, store = saving_trainer(tmp_path, stop=2, snapshot_iter=0)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    # As a signal has it saved.
    trainer.hooks[2].save(trainer)
    path = store.path(2)
    text = r"step_000000002/recomputed\.pdparams: its BatchNorm statistics are of earlier weights"
    for weights, average in ((path, "recomputed"), (path / "recomputed.pdparams", "all")):
        with pytest.raises(CheckpointError, match=text):
            find_weights(str(weights), tmp_path, average)
    assert find_weights(None, tmp_path, "all").names == ("raw", "ema", "wide", "latest", "swa")
    assert re.search(f"{text}.*; it is left out", caplog.text)
    assert find_weights(None, tmp_path, "ema").names == ("ema",)
