"""A config that is changed before a run goes on: what is taken over, what is said, what is refused.

All go on from one run of two epochs of six steps, stopped after step 9.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from resumable import (
    AVERAGES,
    FOLDER,
    contents,
    copy_tree,
    counters,
    final,
    records,
    tensors,
    write,
)

from ppema.checkpoint import Checkpoint

pytestmark = pytest.mark.reliability


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Return the folder of the module's runs, each made once."""
    folder = tmp_path_factory.mktemp("kept")
    write(folder)
    return folder


@pytest.fixture
def train(run_tool, kept, tmp_path, monkeypatch):
    """Return a function that trains here with the options given."""
    monkeypatch.syspath_prepend(str(kept))
    write(tmp_path)
    return lambda *options: run_tool("train", "-c", "run.yml", "--eval", *options)


@pytest.fixture
def go_on(train, kept, monkeypatch):
    """Return a function that goes on from step 9, in a copy of the stopped run."""
    if not (kept / "stopped").exists():
        monkeypatch.setenv("STOP_AFTER", "9")
        assert train().code == 143
        monkeypatch.delenv("STOP_AFTER")
        FOLDER.rename(kept / "stopped")
    copy_tree(kept / "stopped", FOLDER)
    return lambda *options: train("-r", "auto", *options)


@pytest.fixture
def straight(train, kept):
    """Return what the run ends with that is not stopped."""
    if not (kept / "straight").exists():
        assert train("-o", "save_dir=straight").code == 0
        Path("straight/run").rename(kept / "straight")
    return kept / "straight"


def done(result):
    assert result.code == 0, result.err
    return result.out


def refused(result, code=3):
    """Return the one line of a refusal; the folder is what it was."""
    assert result.code == code, result.out
    (line,) = result.err.splitlines()
    return line


def test_what_does_not_bear_on_the_weights_changes_no_bit(go_on, straight):
    old = contents(FOLDER)
    out = done(
        go_on(
            *("-r", str(FOLDER), "-o", "save_dir=other", "log_iter=1", "keep_checkpoint_max=1"),
            *("snapshot_iter=2", "TrainReader.num_workers=2", "EvalReader.num_workers=2"),
        )
    )
    assert "changed since then: save_dir was output, is other" in out
    assert "changed since then: TrainReader.num_workers was 0, is 2" in out
    assert contents(FOLDER) == old
    other = Path("other/run")
    assert tensors(other) == tensors(straight)
    assert records(other, "eval") == records(straight, "eval")[-4:]
    assert {p.name for p in other.glob("step_*")} == {"step_000000012"}


def test_the_log_line_around_a_stop_is_of_all_its_steps(go_on, straight):
    done(go_on())
    assert tensors(FOLDER) == tensors(straight)
    for split in ("train", "eval"):
        assert records(FOLDER, split) == records(straight, split)


def test_a_longer_run_has_its_horizons_computed_anew(go_on):
    out = done(go_on("-o", "epoch=4"))
    assert "after step 9 of 24" in out
    assert "changed since then: epoch was 2, is 4" in out
    assert "Averages.swa.start: 50 % is 12 steps now, was 6" in out
    assert "posthoc_every: 25 % is 6 steps now, was 3" in out
    assert final(FOLDER).step == 24
    # Of steps 12 to 24; those taken from step 6 on are before the new start.
    assert counters(FOLDER, "swa")["num_points"] == 13
    # The schedule's class and arguments are what they were.
    assert records(FOLDER, "train")[-1]["lr"] == pytest.approx(0.01 * 0.1 ** (23 // 4))
    taken = final(FOLDER).manifest["snapshots"]
    assert [s["step"] for s in taken] == [3, 6, 9, 12, 18, 24]


LONGER = "LearningRate.schedulers=[{name: CosineAnnealingDecay, T_max: 100 %}]"
IN_EPOCHS = "[{name: MultiStepDecay, milestones: [1 epoch, 3 epochs]}]"


def test_a_finished_cosine_goes_on_with_the_rates_of_the_longer_run(train):
    """Paddle's takes each rate from the one before, and the last of the shorter run is 0."""
    done(train("-o", LONGER))
    out = done(train("-r", "auto", "-o", LONGER, "epoch=3"))
    assert "LearningRate.schedulers.0.T_max: 100 % is 18 steps now, was 12" in out
    rates = [record["lr"] for record in records(FOLDER, "train")]
    assert rates[-1] == pytest.approx(0.005 * (1 + math.cos(math.pi * 17 / 18)), rel=1e-6)
    out = done(train("-r", "auto", "-o", LONGER, "epoch=4", "LearningRate.base_lr=0.02"))
    rates = [record["lr"] for record in records(FOLDER, "train")]
    assert rates[-1] == pytest.approx(0.01 * (1 + math.cos(math.pi * 23 / 24)), rel=1e-6)


def test_each_duration_of_a_list_has_its_line(train):
    schedule = f"LearningRate.schedulers={IN_EPOCHS}"
    done(train("-o", schedule, "epoch=1"))
    out = done(train("-r", "auto", "-o", schedule, "TrainReader.batch_size=10"))
    for index, (said, now, was) in enumerate((("1 epoch", 3, 6), ("3 epochs", 9, 18))):
        path = f"LearningRate.schedulers.0.milestones.{index}"
        assert f"{path}: {said} is {now} steps now, was {was}" in out


def test_the_rate_that_a_plateau_has_come_to_stays_with_a_line_on_its_interval(train):
    schedule = "LearningRate.schedulers=[{name: ReduceOnPlateau, patience: 0, threshold: 1.0}]"
    done(train("-o", schedule, "epoch=3"))
    before = records(FOLDER, "train")[-1]["lr"]
    assert before < 0.01
    out = done(train("-r", "auto", "-o", schedule, "epoch=4", "TrainReader.batch_size=10"))
    assert "LearningRate.schedulers.0.every: 1 epoch is 3 steps now, was 6" in out
    assert records(FOLDER, "train")[-1]["lr"] <= before


def test_a_run_that_is_past_a_smaller_epoch_is_finished(go_on):
    out = done(go_on("-o", "epoch=1"))
    assert "output/run is finished (epoch 2; the config says epoch: 1)" in out
    assert final(FOLDER).step == 9


def test_averages_may_come_go_and_be_renamed(go_on, tmp_path):
    write(
        tmp_path,
        "  slow: {name: ExponentialMovingAverage, decay: 0.9, schedule: constant}\n"
        "  swa: {name: StochasticWeightAverage, start: 50 %}\n"
        "  late: {name: StochasticWeightAverage, start: 50 %, every: 2}\n"
        "  latest: {name: LatestWeightAverage, k: 2, every: 2}\n"
        "  power: {name: PowerFunctionEMA}\n",
    )
    out = done(go_on())
    assert "average ema is not in the config any more; it is dropped" in out
    for name in ("slow", "late", "latest"):
        assert f"average {name} is new; it starts from the weights of this checkpoint" in out
    assert "changed since then: Averages" not in out
    assert counters(FOLDER, "slow")["num_updates"] == 3
    assert counters(FOLDER, "swa")["num_points"] == 7
    # Its points are those of the run: steps 6, 8, 10, 12.
    assert counters(FOLDER, "late")["num_points"] == 2
    assert len(counters(FOLDER, "latest")["snapshots"]) == 2


def test_an_average_goes_on_with_other_arguments_and_a_line_says_so(go_on):
    out = done(go_on("-o", "Averages.ema.decay=0.99", "Averages.ema.update_every=2"))
    assert "changed since then: Averages.ema.decay was 0.9, is 0.99" in out
    assert "changed since then: Averages.ema.update_every was not set, is 2" in out
    assert counters(FOLDER, "ema")["num_updates"] == 12


@pytest.mark.parametrize(
    ("averages", "said"),
    [
        (
            "  ema: {name: StochasticWeightAverage}\n",
            "average ema: the state is of ExponentialMovingAverage, not StochasticWeightAverage",
        ),
        (
            "  ema: {name: ExponentialMovingAverage, shadow_dtype: float64}\n",
            "average ema: 0 of 8 fit; body.1.weight: file float32, model float64",
        ),
        (
            "  power: {name: PowerFunctionEMA, sigma_rel: 0.05}\n",
            "average power: the state is of sigma_rel 0.1, this average of 0.05",
        ),
    ],
)
def test_an_average_that_cannot_go_on_under_its_name_is_refused(go_on, tmp_path, averages, said):
    write(tmp_path, averages)
    before = contents(FOLDER)
    line = refused(go_on("-o", "posthoc_every=null"))
    assert line.startswith(f"step_000000009: {said}")
    assert line.endswith("; under another name it starts anew")
    assert contents(FOLDER) == before


OTHER_PARTS = {
    "optimizer": (
        ["Optimizer.name=Momentum"],
        "the checkpoint was made with Adam, the config says Momentum",
    ),
    "schedule": (
        ["LearningRate.schedulers=[{name: ExponentialDecay, gamma: 0.5}]"],
        "the checkpoint was made with StepDecay, the config says ExponentialDecay",
    ),
    "model": (
        ["Model.name=resumable_parts.SameNet"],
        "the checkpoint was made with resumable_parts.Net, the config says resumable_parts.SameNet",
    ),
    "data": (["TrainDataset.count=31"], "these are not the data of the run"),
}


@pytest.mark.parametrize("part", OTHER_PARTS)
def test_another_part_is_refused_and_the_flag_named(go_on, part):
    options, said = OTHER_PARTS[part]
    before = contents(FOLDER)
    others = [name for name in OTHER_PARTS if name != part]
    line = refused(go_on("-o", *options, "--accept", *others))
    assert said in line
    assert f"; --accept {part} goes on" in line
    assert contents(FOLDER) == before


def test_another_optimizer_that_is_accepted_begins_its_state(go_on):
    out = done(go_on("-o", "Optimizer.name=Momentum", "--accept", "optimizer"))
    assert "the state of the optimizer starts anew" in out
    assert "changed since then: Optimizer.name was Adam, is Momentum" in out
    names = {name.rsplit("/", 1)[1] for name in final(FOLDER).read("optimizer.pdopt")}
    assert names == {"velocity"}
    assert counters(FOLDER, "ema")["num_updates"] == 12
    # From here on it is the run's own, and no flag is needed.
    done(go_on("-o", "epoch=3", "Optimizer.name=Momentum"))


def test_another_schedule_that_is_accepted_stands_as_after_so_many_steps(go_on):
    out = done(go_on("-o", OTHER_PARTS["schedule"][0][0], "--accept", "schedule"))
    assert "the schedule begins, as it stands after 9 steps, with the rate 1.95313e-05" in out
    assert records(FOLDER, "train")[-1]["lr"] == pytest.approx(0.01 * 0.5**11)


def test_no_schedule_in_place_of_one_is_the_rate_of_the_config(go_on):
    done(go_on("-o", "LearningRate.schedulers=[]", "--accept", "schedule"))
    assert records(FOLDER, "train")[-1]["lr"] == 0.01


def test_a_model_of_another_name_goes_on_where_its_weights_fit(go_on, straight):
    before = contents(FOLDER)
    name = "Model.name=resumable_parts.SameNet"
    line = refused(go_on("-o", name, "Model.width=9", "--accept", "model"))
    assert "model.pdparams: 1 of 8 fit; body.1.weight: file [16,8], model [16,9]" in line
    assert contents(FOLDER) == before
    done(go_on("-o", name, "--accept", "model"))
    assert tensors(FOLDER) == tensors(straight)


def test_other_data_that_are_accepted_begin_the_epoch_anew(go_on):
    out = done(go_on("-o", "TrainDataset.count=31", "--accept", "data"))
    assert "epoch 2 begins anew, with the other data" in out
    assert "after step 9 of 16" in out
    assert final(FOLDER).step == 16
    assert final(FOLDER).manifest["epoch"] == 2
    assert counters(FOLDER, "ema")["num_updates"] == 16
    assert "does not count any more" not in out


def test_the_best_on_other_evaluation_data_does_not_count(go_on, straight):
    best = Checkpoint((FOLDER / "best_model").resolve())
    assert best.step == 6
    out = done(go_on("-o", "EvalDataset.count=13", "--accept", "data"))
    assert "the best so far was so on other data; it does not count any more" in out
    assert "begins anew, with the other data" not in out
    assert final(FOLDER).manifest["best"]["step"] == 12
    assert tensors(FOLDER) == tensors(straight)


def test_accepting_what_is_the_same_changes_nothing(go_on, straight):
    out = done(go_on("--accept", "model", "optimizer", "--accept", "schedule", "data"))
    assert "anew" not in out
    assert tensors(FOLDER) == tensors(straight)


def test_accept_is_only_for_a_run_that_goes_on(train):
    assert "give -r too" in refused(train("--accept", "data"), 2)
    assert "--accept" in refused(train("-r", "auto", "--accept", "date"), 2)


@pytest.mark.parametrize("change", ["seed=1", "TrainReader.shuffle=false"])
def test_another_order_in_mid_epoch_is_said(go_on, change):
    out = done(go_on("-o", change))
    said = "epoch 2 goes on in another order: some of its images come twice, others not at all"
    assert said in out


@pytest.mark.parametrize(
    ("change", "last_step", "shown"),
    [
        ("TrainReader.batch_size=10", 11, "[3/3]"),  # 15 images are left
        ("accumulate_steps=2", 11, "[3/3]"),  # three batches are left
        ("accumulate_steps=4", 10, "[2/2]"),
    ],
)
def test_what_is_left_of_the_epoch_is_cut_anew(go_on, change, last_step, shown):
    out = done(go_on("-o", change))
    assert f"after step 9 of {last_step}\n" in out
    assert final(FOLDER).step == last_step
    assert re.findall(r"Epoch: \[2/2\] (\S+)", out)[-1] == shown


def test_a_rest_that_no_batch_fits_is_refused(go_on):
    before = contents(FOLDER)
    line = refused(go_on("-o", "TrainReader.batch_size=16", "TrainReader.drop_last=true"))
    assert "15 samples of epoch 2 are done, and no full batch is left" in line
    assert contents(FOLDER) == before


def test_a_longer_run_moves_a_decay_that_is_given_for_a_batch_size(go_on, tmp_path):
    write(tmp_path, AVERAGES.replace("decay: 0.9,", "decay: 0.9, decay_batch_size: 5,"))
    out = done(go_on("-o", "accumulate_steps=2"))
    assert "Averages.ema.decay_batch_size was not set, is 5" in out
    out = done(go_on("-o", "accumulate_steps=4", "epoch=3"))
    assert "Averages.ema.decay: 0.9 for 5 images is 0.6561 now, was 0.81" in out
