"""metrics.jsonl is the record of truth, VisualDL a view that can be made from it."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from faulty_disk import FaultyDisk
from power_loss import states_after, write_tree
from terminal import Terminal
from trainers import make_reader, make_trainer
from visualdl_records import read_shown

from ppema.engine.hooks import EvaluateHook, LogHook
from ppema.engine.record import Recorder, read_records
from ppema.engine.visualdl_view import BY_AVERAGE
from ppema.errors import StorageError
from ppema.progress import ProgressLine


def train(folder, vdl=None, log_iter=2, line=None, num_epochs=2):
    recorder = Recorder(folder, vdl)
    evaluate = EvaluateHook(make_reader(16), recorder, "best")
    trainer = make_trainer(
        make_reader(), [LogHook(recorder, log_iter, line), evaluate], num_epochs=num_epochs
    )
    trainer.train()
    return trainer


def test_records_come_every_log_iter_and_at_each_evaluation(tmp_path):
    trainer = train(tmp_path)
    records = list(read_records(tmp_path / "metrics.jsonl"))
    training = [r for r in records if r["split"] == "train"]
    assert [r["step"] for r in training] == [2, 4, 5, 7, 9, 10]
    assert set(training[0]) >= {"epoch", "loss", "top1", "lr", "ips", "decay", "distance"}
    now = trainer.averages["ema"].diagnostics()
    assert training[-1]["window"]["ema"] == pytest.approx(now.effective_window)
    assert training[-1]["initial_share"]["ema"] == pytest.approx(now.initial_share)
    assert training[-1]["never_moved"]["ema"] == 0.0
    assert training[-1]["decay"]["ema"] == trainer.decays["ema"]
    assert training[-1]["distance"]["ema"] == pytest.approx(trainer.averages["ema"].distance())
    evaluations = [(r["step"], r["average"]) for r in records if r["split"] == "eval"]
    assert evaluations == [
        (s, name) for s in (5, 10) for name in ("raw", "ema", "wide", "recomputed", "latest", "swa")
    ]


def test_the_mean_loss_is_of_all_images_since_the_last_line(tmp_path):
    train(tmp_path, log_iter=1, num_epochs=1)
    train(tmp_path, log_iter=1, num_epochs=1)
    each = [r["loss"] for r in read_records(tmp_path / "metrics.jsonl") if r["split"] == "train"]
    train(tmp_path, log_iter=5, num_epochs=1)
    whole = [r["loss"] for r in read_records(tmp_path / "metrics.jsonl") if r["split"] == "train"]
    assert whole == [pytest.approx(sum(each) / 5, rel=1e-6)]


def test_starting_at_a_step_drops_later_records_and_a_torn_line(tmp_path):
    train(tmp_path)
    path = tmp_path / "metrics.jsonl"
    with open(path, "a") as file:
        file.write('{"step": 1, "spl')
    Recorder(tmp_path, None).start(5)
    lines = path.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, *[5] * 7]


def test_an_open_step_keeps_its_training_record_alone(tmp_path):
    train(tmp_path)
    recorder = Recorder(tmp_path, None)
    recorder.start(5, is_open=True)
    found = [(r["step"], r["split"]) for r in read_records(tmp_path / "metrics.jsonl")]
    assert found == [(2, "train"), (4, "train"), (5, "train")]


EVALUATION = {"step": 4, "epoch": 1, "split": "eval", "average": "ema"}
EVALUATION.update({"top1": 0.5, "top2": 0.75, "loss": 1.0})
TRAINING = {"step": 4, "epoch": 1, "split": "train", "loss": 1.0, "lr": 0.1, "ips": 1.0}
TRAINING.update({kind: {"ema": 0.5} for kind in BY_AVERAGE})
# No run writes these; pictures and VisualDL's files would be made of them.
MADE_UP = [
    {**EVALUATION, "average": "../../elsewhere"},
    {**EVALUATION, "average": ["ema"]},
    {**EVALUATION, "average": "\ud800"},
    {**EVALUATION, "top1": None},
    {**EVALUATION, "top1": float("inf")},
    {**EVALUATION, "loss": "x"},
    {**EVALUATION, "epoch": None},
    {**TRAINING, "decay": [1]},
    {**TRAINING, "window": {"ema": "x"}},
    {**TRAINING, "distance": {"../../elsewhere": 1.0}},
    {**TRAINING, "lr": "x"},
]


@pytest.mark.parametrize(
    "line",
    [
        *[b"\xff\xfe", b'{"a": 1}', b"3", b'{"step": 4, "split": "eval"}'],
        *[json.dumps(record).encode() for record in MADE_UP],
    ],
)
def test_a_damaged_line_ends_the_record_with_a_warning(tmp_path, line, caplog):
    train(tmp_path)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:3], line, *lines[3:]]))
    Recorder(tmp_path, None).start(5)
    assert path.read_bytes().splitlines() == lines[:3]
    assert "metrics.jsonl:4: is no record" in caplog.text


def test_records_of_whole_figures_and_of_none_are_records(tmp_path):
    records = [EVALUATION, {**EVALUATION, "loss": None}, TRAINING, {**TRAINING, "loss": None}]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "metrics.jsonl").write_text(text)
    assert list(read_records(tmp_path / "metrics.jsonl")) == records


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.truncate(path, 1 << 40)])
def test_what_never_ends_is_no_record(tmp_path, make, caplog):
    path = tmp_path / "metrics.jsonl"
    if make is not os.mkfifo:
        path.write_text(json.dumps(TRAINING) + "\n")
    make(path)
    assert len(list(read_records(path))) == (make is not os.mkfifo)


def test_a_figure_that_is_no_number_is_null(tmp_path):
    recorder = Recorder(tmp_path, tmp_path / "vdl")
    record = {"step": 1, "split": "train", "loss": float("nan"), "lr": 0.1, "ips": 1.0}
    by_average = {kind: {} for kind in ("decay", "window", "initial_share", "never_moved")}
    recorder.write({**record, **by_average, "distance": {"ema": float("inf")}})
    recorder.close()
    (found,) = read_records(tmp_path / "metrics.jsonl")
    assert (found["loss"], found["distance"]["ema"], found["lr"]) == (None, None, 0.1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_is_said_with_the_file(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    record = {"step": 1, "split": "eval", "average": "raw", "top1": 1, "top2": 1, "loss": 0}
    with pytest.raises(StorageError, match=r"metrics\.jsonl: no space left"):
        Recorder(tmp_path, None).write(record)


def read_scalars(folder, tag):
    return [(record.id, record.value) for record in read_shown(folder, "scalar", tag)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_visualdl_shows_one_tag_for_raw_and_every_average(tmp_path):
    train(tmp_path, vdl=tmp_path / "vdl")
    records = [r for r in read_records(tmp_path / "metrics.jsonl") if r["split"] == "eval"]
    for name in ("raw", "ema", "wide", "recomputed", "latest", "swa"):
        for kind in ("top1", "top2", "loss", "ece"):
            expected = [(r["step"], r[kind]) for r in records if r["average"] == name]
            found = read_scalars(tmp_path / "vdl" / name, f"eval/{kind}")
            assert found == [(step, pytest.approx(value)) for step, value in expected]
    for kind in ("loss", "lr", "ips"):
        found = read_scalars(tmp_path / "vdl/train", f"train/{kind}")
        assert [step for step, _ in found] == [2, 4, 5, 7, 9, 10]
    records = [r for r in read_records(tmp_path / "metrics.jsonl") if r["split"] == "train"]
    for kind in ("decay", "distance", "window", "initial_share", "never_moved"):
        expected = [(r["step"], pytest.approx(r[kind]["ema"])) for r in records]
        assert read_scalars(tmp_path / "vdl/ema", f"train/{kind}") == expected


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_view_is_made_anew_from_the_record_when_a_run_goes_on(tmp_path):
    train(tmp_path, vdl=tmp_path / "vdl")
    recorder = Recorder(tmp_path, tmp_path / "vdl")
    recorder.start(5)
    recorder.close()
    assert [s for s, _ in read_scalars(tmp_path / "vdl/raw", "eval/top1")] == [5]
    assert [s for s, _ in read_scalars(tmp_path / "vdl/train", "train/loss")] == [2, 4, 5]


def test_the_log_line_has_the_fields_users_know(tmp_path, caplog):
    with caplog.at_level("INFO", "ppema"):
        train(tmp_path)
    line = next(r.message for r in caplog.records if r.message.startswith("Epoch: "))
    assert line.startswith("Epoch: [1/2] [2/5] learning_rate: 0.010000 loss: ")
    fields = ("acc:", "eta: 0:", "batch_cost:", "data_cost:", "ips:", " images/s")
    assert all(field in line for field in fields)


def test_the_line_shows_the_share_done_and_goes_away_at_the_end(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("ppema.progress._REDRAW_S", 0.0)
    train(tmp_path, line=ProgressLine("training", terminal, wait_s=0), num_epochs=1)
    frames = [frame for frame in terminal.frames() if frame.startswith("epoch")]
    assert [frame[:33] for frame in frames[-2:]] == [
        "epoch 1/1 [################....] ",
        "epoch 1/1 [####################] ",
    ]
    assert "%  loss " in frames[-1]
    assert "eta 0:00:00" in frames[-1]
    assert all(len(frame) < 80 for frame in frames)
    assert terminal.frames()[-1] == ""


def test_the_record_has_its_name_on_the_disk_before_a_step_is_saved(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with FaultyDisk(folder) as disk:
        recorder = Recorder(folder, None)
        recorder.start(0)
        recorder.write(
            {
                "step": 20,
                "epoch": 1,
                "split": "eval",
                "average": "raw",
                "top1": 1,
                "top2": 1,
                "loss": 0,
            }
        )
        recorder.sync()
    states = states_after(folder, dict, disk.changes, len(disk.changes), random.Random(0), 40)
    for number, tree in enumerate(states):
        write_tree(tree, tmp_path / str(number), "none")
        assert [r["step"] for r in read_records(tmp_path / str(number) / "metrics.jsonl")] == [20]
