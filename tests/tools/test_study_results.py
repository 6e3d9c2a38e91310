"""What a study reads from its finished runs: the right data, the right epoch, nothing of others."""

from __future__ import annotations

import dataclasses
import json
import os
import runpy
import shutil
import threading
from pathlib import Path

import pytest
from in_process import REPOSITORY, enter, run_in

from ppema.checkpoint import Checkpoint
from ppema.checkpoint.manifest import render
from ppema.data.digits import load_digits
from ppema.errors import CheckpointError, ConfigError
from ppema.run_lock import RunLock, in_turn
from ppema.study import (
    Report,
    Runner,
    Tools,
    is_trained,
    make_plan,
    measure,
    read_result,
    read_study,
    report,
)
from ppema.study.measure import rank, read_measured
from ppema.study.summary import read_results, summarise_variants

# A hundred images: two steps an epoch, of 64 and of 36.
STUDY = f"""\
base: {REPOSITORY}/configs/lenet_digits.yml
set:
  {{epoch: 3, validation: 0.3, train_samples: 100, TrainReader.batch_size: 64, log_iter: 1,
    posthoc_every: 1}}
axes:
  averages:
    two: {{Averages.power: {{name: PowerFunctionEMA, sigma_rel: 0.1}}}}
    one: {{Averages: {{power: {{name: PowerFunctionEMA, sigma_rel: 0.1}}}}}}
seeds: [1, 0]
reference: {{averages: two, weights: ema}}
reach: [0.01]
posthoc: [0.1]
"""


def plan_here(text=STUDY):
    Path("some.yml").write_text(text)
    return make_plan(read_study("some.yml"), [])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return a folder with the four runs of the study, trained and measured in this process."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, folder)
        plan = plan_here()
        for run in plan.runs:
            run_in(folder, "train", *run.arguments)
            measure(plan.study, run.folder)
    return folder


@pytest.fixture
def plan(finished, tmp_path, monkeypatch):
    """Return the plan of the study, in a folder with a copy of its runs."""
    shutil.copytree(finished, tmp_path, symlinks=True, dirs_exist_ok=True)
    enter(monkeypatch, tmp_path)
    return plan_here()


def change_measured(run, change):
    path = run.folder / "test.json"
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))


def change_records(run, change):
    path = run.folder / "metrics.jsonl"
    records = list(map(json.loads, path.read_text().splitlines()))
    kept = [record for record in records if change(record) is not False]
    path.write_text("".join(f"{json.dumps(record)}\n" for record in kept))
    return kept


def test_figures_are_of_the_test_data_and_those_to_choose_by_of_validation(plan):
    run = plan.runs[0]
    found = read_measured(plan.study, run.folder)
    assert list(found["weights"]) == ["raw", "ema", "power", "posthoc_0.1"]
    labels = load_digits("test").labels
    for weights in found["weights"].values():
        top1 = (labels == weights["classes"]).mean()
        assert weights["test"]["top1"] == pytest.approx(top1, abs=1e-12)
        assert sum(weights["reliability"]["counts"]) == len(labels)
    records = change_records(run, lambda record: None)
    for record in records[-3:]:
        wanted = {key: record[key] for key in ("top1", "top2", "loss", "ece")}
        assert found["weights"][record["average"]]["validation"] == wanted
    manifest = Checkpoint((run.folder / "model_final").resolve()).manifest
    digests = {"train": "train", "validation": "validation", "test": "eval"}
    assert found["data"] == {
        "kind": "digits",
        **{name: manifest["data"][part]["digest"] for name, part in digests.items()},
    }
    # The width of the run's own average, so that both are the same weights.
    posthoc, power = found["weights"]["posthoc_0.1"], found["weights"]["power"]
    assert posthoc["validation"]["loss"] == pytest.approx(power["validation"]["loss"], rel=1e-4)


def test_of_equal_figures_the_lower_loss_is_better():
    good, bad = {"top1": 0.5, "ece": 0.1, "loss": 1.0}, {"top1": 0.5, "ece": 0.1, "loss": 2.0}
    for metric in ("top1", "loss", "ece"):
        assert rank(good, metric) > rank(bad, metric)


def test_with_checkpoint_best_each_set_of_weights_is_that_of_its_own_best_epoch(plan):
    run, study = plan.runs[0], dataclasses.replace(plan.study, checkpoint="best", posthoc=[])

    def praise(record):
        if record["split"] == "eval" and (record["average"], record["step"]) == ("raw", 2):
            record["top1"] = 1.0

    change_records(run, praise)
    facts = json.loads(measure(study, run.folder).read_text())
    steps = {name: weights["step"] for name, weights in facts["weights"].items()}
    assert steps["raw"] == 2
    assert set(steps.values()) != {2}
    assert facts["weights"]["raw"]["validation"]["top1"] == 1.0
    assert facts["weights"]["raw"]["test"]["top1"] < 1.0


def test_figures_on_test_data_choose_no_epoch(plan):
    run, study = plan.runs[0], dataclasses.replace(plan.study, checkpoint="best", posthoc=[])

    def praise(record):
        if record["split"] == "eval" and record["step"] == 2:
            assert record["on"] == "validation"
            record.update(on="test", top1=1.0)

    change_records(run, praise)
    facts = json.loads(measure(study, run.folder).read_text())
    assert 2 not in {weights["step"] for weights in facts["weights"].values()}


@pytest.mark.parametrize("steps", [(6,), (2, 4, 6)])
def test_a_run_that_was_not_evaluated_at_its_end_is_refused(plan, steps):
    run = plan.runs[0]
    change_records(
        run, lambda r: not (r["split"] == "eval" and r["average"] == "ema" and r["step"] in steps)
    )
    with pytest.raises(CheckpointError, match="has no evaluation of ema at the end"):
        measure(plan.study, run.folder)


@pytest.mark.parametrize("changes", [{"checkpoint": "best"}, {"posthoc": []}, {"posthoc": [0.2]}])
def test_what_was_measured_counts_for_the_question_that_was_asked(plan, changes):
    assert read_measured(plan.study, plan.runs[0].folder) is not None
    other = dataclasses.replace(plan.study, **changes)
    assert read_measured(other, plan.runs[0].folder) is None


def test_the_metric_asks_another_question_only_where_it_chooses_the_epoch(plan):
    by_loss = dataclasses.replace(plan.study, metric="loss")
    assert read_measured(by_loss, plan.runs[0].folder) is not None
    best = dataclasses.replace(plan.study, checkpoint="best", posthoc=[])
    measure(best, plan.runs[0].folder)
    assert read_measured(best, plan.runs[0].folder) is not None
    by_loss = dataclasses.replace(best, metric="loss")
    assert read_measured(by_loss, plan.runs[0].folder) is None


def test_what_was_measured_counts_for_the_weights_that_are_there_now(plan):
    change_measured(plan.runs[0], lambda facts: facts.update(final="0" * 64))
    assert read_result(plan.study, plan.runs[0]) is None
    (plan.runs[1].folder / "test.json").write_text("[]")
    assert read_result(plan.study, plan.runs[1]) is None


def test_results_come_by_variant_and_each_says_what_its_own_validation_selects(plan):
    def prefer(facts):
        for name, weights in facts["weights"].items():
            weights["validation"]["top1"] = float(name == "ema")
            weights["test"]["top1"] = float(name == "raw")

    change_measured(plan.runs[0], prefer)
    results = read_results(plan)
    names = [(result.run.variant.labels["averages"], result.run.seed) for result in results]
    assert names == [("two", 1), ("two", 0), ("one", 1), ("one", 0)]
    assert results[0].selected == "ema"
    assert results[0].weights["selected"]["test"]["top1"] == 0
    figures = results[0].as_dict()
    assert list(figures["weights"]) == ["raw", "ema", "power", "posthoc_0.1"]
    assert not {"classes", "reliability"} & set(figures["weights"]["raw"])


def test_runs_of_other_data_are_refused(plan):
    change_measured(plan.runs[3], lambda facts: facts["data"].update(kind="mnist"))
    with pytest.raises(CheckpointError, match="are of different data: digits"):
        read_results(plan)


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_runs_of_one_variant_are_of_the_same_images(plan, part):
    change_measured(plan.runs[2], lambda facts: facts["data"].update({part: "0" * 64}))
    with pytest.raises(CheckpointError) as caught:
        read_results(plan)
    folders = [str(plan.runs[index].folder) for index in (0, 2)]
    assert str(caught.value).startswith(f"{folders[0]} and {folders[1]} are of one variant, and ")


def test_runs_of_another_config_are_not_told_as_those_of_this_one(plan):
    other = plan_here(STUDY.replace("epoch: 3", "epoch: 2"))
    with pytest.raises(ConfigError, match=r"was trained by another config \(other: epoch\)"):
        Report(other)


def test_a_key_that_came_later_meant_its_default(plan):
    for run in plan.runs:
        for path in run.folder.glob("step_*/manifest.json"):
            manifest = json.loads(path.read_text())
            assert manifest["config_values"].pop("eval_iter") == 0
            assert manifest["config_values"].pop("pretrain_weights") is None
            path.write_text(render(manifest))
    assert all(map(is_trained, plan.runs))
    other = plan_here(STUDY.replace("log_iter: 1", "eval_iter: 2"))
    with pytest.raises(ConfigError, match=r"\(other: log_iter, eval_iter\)"):
        is_trained(other.runs[0])


def test_seconds_are_of_the_images_that_there_were(plan):
    run = plan.runs[0]
    speeds = iter([64.0, 12.0, 32.0, 36.0, 64.0, 18.0])
    change_records(run, lambda r: r.update(ips=next(speeds)) if r["split"] == "train" else None)
    found = read_result(plan.study, run)
    # 64 and 36 images in turn.
    assert (found.steps, found.seconds) == (6, pytest.approx(1 + 3 + 2 + 1 + 1 + 2))
    # Evaluated first after two steps.
    assert found.weights["raw"]["reached"] == {"0.01": {"steps": 2, "seconds": pytest.approx(4)}}


def test_two_batches_a_step_are_the_images_of_both():
    from ppema.study.reached import images_until

    # Of ten images in steps of four, the last of two.
    assert [images_until(s, 4, 3, 10) for s in range(8)] == [0, 4, 8, 10, 14, 18, 20, 24]


def test_an_average_made_after_a_run_was_at_no_step_of_it(plan):
    (two, _) = summarise_variants(plan, read_results(plan))
    has = {name: "reached" in summary for name, summary in two["weights"].items()}
    assert has == {"raw": True, "ema": True, "power": True, "posthoc_0.1": False, "selected": False}
    raw, ema = (two["weights"][name]["reached"]["0.01"] for name in ("raw", "ema"))
    assert (raw["n"], raw["steps"]["mean"], raw["steps_difference"]["mean"]) == (2, 2, 0)
    # It is the reference itself.
    assert ema["steps_difference"] is None
    other = dataclasses.replace(plan.study.reference, weights="posthoc_0.1")
    study = dataclasses.replace(plan.study, reference=other)
    (two, _) = summarise_variants(dataclasses.replace(plan, study=study), read_results(plan))
    assert two["weights"]["raw"]["reached"]["0.01"]["steps_difference"] is None


def test_pictures_and_table_come_out_where_a_variant_has_not_what_is_compared_with(plan):
    shutil.rmtree(plan.runs[2].folder)
    told = Report(plan)
    written = {path.name for path in told.write()}
    assert {"result.json", "result.md", "means.png", "averages_two-ema.png"} <= written
    assert "averages_one-ema.png" not in written
    found = json.loads((plan.folder / "result.json").read_text())
    assert found["missing"] == ["averages two, seed 0"]
    (_, one) = found["variants"]
    # One run of the reference, two of these: of the pair alone.
    assert (one["n"], one["weights"]["raw"]["difference"]["top1"]["n"]) == (2, 1)
    pair = [run["weights"] for run in found["runs"] if run["seed"] == 1]
    lead = pair[1]["raw"]["test"]["top1"] - pair[0]["ema"]["test"]["top1"]
    assert one["weights"]["raw"]["difference"]["top1"]["mean"] == pytest.approx(lead)
    assert [row[-1] for row in told.rows if row[1].startswith("posthoc")] == ["-", "-"]


def give_seed(run, other):
    """Make a finished run of what another run left."""
    shutil.copytree(other.folder, run.folder, symlinks=True)
    for path in run.folder.glob("step_*/manifest.json"):
        manifest = json.loads(path.read_text())
        manifest["config_values"]["seed"] = run.seed
        path.write_text(render(manifest))
    final = Checkpoint((run.folder / "model_final").resolve()).manifest["digest"]
    change_measured(run, lambda facts: facts.update(final=final))


def test_bars_are_of_five_seeds_or_more_and_begin_at_the_mean_of_the_reference(plan, monkeypatch):
    panels = []
    monkeypatch.setattr(report, "plot_means", lambda drawn, *_: panels.extend(drawn))
    for name in ("plot_mean_curves", "plot_reliability"):
        monkeypatch.setattr(report, name, lambda *_: None)
    Report(plan).write()
    assert [row.low for panel in panels for row in panel.rows] == [None] * 9
    five = plan_here(STUDY.replace("[1, 0]", "[1, 0, 2, 3, 4]"))
    for number, run in enumerate(five.runs):
        if not run.folder.exists():
            give_seed(run, plan.runs[number % 4])
    panels.clear()
    Report(five).write()
    found = json.loads((plan.folder / "result.json").read_text())
    base = found["variants"][0]["weights"]["ema"]["test"]["top1"]["mean"]
    for panel, variant in zip(panels, found["variants"]):
        assert panel.reference == pytest.approx(100 * base)
        for row in panel.rows:
            difference = variant["weights"][row.name].get("difference")
            assert (row.low is None) == (difference is None)
            if difference is not None:
                low, high = (base + difference["top1"][end] for end in ("low", "high"))
                assert (row.low, row.high) == pytest.approx((100 * low, 100 * high))


def test_a_report_waits_until_another_is_written_and_reads_what_is_there_then(plan, capsys):
    tool = runpy.run_path(str(REPOSITORY / "tools/compare.py"))
    # Fewer pictures are drawn for it.
    for run in plan.runs[1:3]:
        shutil.rmtree(run.folder)
    result = plan.folder / "result.json"
    with in_turn(plan.folder):
        thread = threading.Thread(target=tool["_report"], args=(plan, "are not done yet"))
        thread.start()
        # Enough for what would not wait to read the runs.
        thread.join(0.5)
        shutil.rmtree(plan.runs[3].folder)
        assert not result.exists()
    thread.join()
    assert [run["seed"] for run in json.loads(result.read_text())["runs"]] == [1]
    assert "; 3 of 4 runs are not done yet and are left out" in capsys.readouterr().out
    assert "Left out, not done yet: " in (plan.folder / "result.md").read_text()


@pytest.mark.parametrize(
    ("on", "said"),
    [
        ("test", "figures on other images are not to be compared: on validation images: lenet_"),
        ("validation", None),
        # Of an earlier version.
        (None, None),
    ],
)
def test_figures_on_validation_and_on_test_images_are_not_compared_in_silence(plan, on, said):
    record = {"step": 1, "epoch": 1, "split": "eval", "average": "raw", "top1": 0.1, "top2": 0.2}
    Path("other").mkdir()
    line = {**record, "loss": 1.0, **({"on": on} if on else {})}
    Path("other/metrics.jsonl").write_text(f"{json.dumps(line)}\n")
    shutil.copytree(plan.runs[0].folder, "lenet_digits", symlinks=True)
    out = run_in(Path.cwd(), "compare", "lenet_digits", "other")
    *_, last = out.splitlines()
    if said is None:
        assert "not to be compared" not in out
    else:
        assert last == f"{said}digits; on test images: other"


# Stands for both tools; the line of what it was called with comes first.
SCRIPT = """\
import os, sys
from pathlib import Path
with open("calls", "a") as file:
    file.write(" ".join([Path(sys.argv[0]).stem, *sys.argv[1:]]) + "\\n")
"""


@pytest.fixture
def run_with(plan, tmp_path):
    """Return a function that runs the study, with what the tool that trains does beside noting."""

    def run(train="", workers=1):
        tools = Tools(tmp_path / "train.py", tmp_path / "compare.py")
        tools.train.write_text(SCRIPT + train)
        tools.compare.write_text(SCRIPT)
        runner = Runner(plan, tools, workers, {variant.name: 6 for variant in plan.variants})
        runner.run()
        calls = Path("calls")
        return runner, calls.read_text().splitlines() if calls.exists() else []

    return run


def training(run):
    return f"train {' '.join(run.arguments)}"


def measuring(run):
    return f"compare -c some.yml --measure {run.folder}"


def test_nothing_is_called_for_runs_that_are_done(run_with):
    runner, calls = run_with()
    assert (runner.failures, calls) == ([], [])


def test_what_is_not_trained_is_trained_and_measured_and_what_is_not_measured_is_measured(
    plan, run_with
):
    shutil.rmtree(plan.runs[0].folder)
    (plan.runs[2].folder / "test.json").unlink()
    (plan.runs[3].folder / "model_final").unlink()
    _, calls = run_with()
    wanted = [training(plan.runs[0]), measuring(plan.runs[0]), measuring(plan.runs[2])]
    assert calls == [*wanted, training(plan.runs[3]), measuring(plan.runs[3])]


@pytest.mark.parametrize(
    ("does", "code", "line"),
    [
        ("print('one\\ntwo', file=sys.stderr); sys.exit(3)", 3, "two"),
        ("os.kill(os.getpid(), 9)", 137, "ended with SIGKILL and said nothing"),
        ("sys.exit(1)", 1, "ended with code 1 and said nothing"),
    ],
)
def test_a_run_that_fails_is_not_measured_and_the_next_is_trained(plan, run_with, does, code, line):
    for run in plan.runs[:2]:
        shutil.rmtree(run.folder)
    runner, calls = run_with(f"if {str(plan.runs[0].arguments[-1])!r} in sys.argv: {does}")
    assert [(f.run, f.code, f.line) for f in runner.failures] == [(plan.runs[0], code, line)]
    assert calls == [training(plan.runs[0]), training(plan.runs[1]), measuring(plan.runs[1])]


def test_so_many_runs_are_trained_at_a_time(plan, run_with):
    for run in plan.runs:
        shutil.rmtree(run.folder)
    # Each notes how many are under way, and waits a moment for others.
    does = """
import time
name = f"here_{os.getpid()}"
Path(name).touch()
ends = time.monotonic() + 1
while time.monotonic() < ends and len(list(Path().glob("here_*"))) < 2:
    time.sleep(0.01)
with open("together", "a") as file:
    file.write(f"{len(list(Path().glob('here_*')))}\\n")
time.sleep(0.2)
Path(name).unlink()
"""
    run_with(does, workers=2)
    assert max(map(int, Path("together").read_text().split())) == 2


def test_the_run_of_a_study_that_was_killed_may_save_first(plan, run_with, caplog):
    caplog.set_level("INFO", logger="ppema")
    lock = RunLock(plan.runs[1].folder)
    threading.Timer(0.5, lock.release).start()
    runner, calls = run_with()
    assert (runner.failures, calls) == ([], [])
    said = f"{plan.runs[1].folder} is in use by process {os.getpid()}; waiting until it has saved"
    assert caplog.messages.count(said) == 1
