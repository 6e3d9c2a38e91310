"""The runs that a study makes: which, where, of which config, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ppema import builder
from ppema.builder import run_folder
from ppema.errors import ConfigError
from ppema.study import count_steps, make_plan, read_study
from ppema.study.plan import fingerprint

REPOSITORY = Path(__file__).resolve().parents[2]
SWAP = f"""\
base: {REPOSITORY}/configs/lenet_digits.yml
set: {{validation: 0.1, epoch: 3, TrainReader.batch_size: 64}}
axes:
  method:
    plain: {{}}
    swap: {{Swap: {{until_accuracy: 1, workers: 2, alone: {{epoch: 2, accumulate_steps: 2}}}}}}
seeds: [4]
"""
STUDY = f"""\
base: {REPOSITORY}/configs/lenet_digits.yml
set: [epoch=2, validation=0.1]
axes:
  noise: {{clean: {{}}, 40 %: {{label_noise: 0.4}}}}
  batch:
    small: {{TrainReader.batch_size: 32}}
    large: {{TrainReader.batch_size: 64, accumulate_steps: 2}}
seeds: [0, 5]
"""


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Return a function that plans a study of some text."""
    monkeypatch.chdir(tmp_path)

    def read_and_plan(text, *options):
        (tmp_path / "some.yml").write_text(text)
        return make_plan(read_study("some.yml"), options)

    return read_and_plan


def trained_by(run):
    """Return the config that tools/train.py reads from the arguments of a run."""
    at = run.arguments.index("-o")
    return builder.read_config(run.arguments[at - 4], run.arguments[at + 1 :])


def test_a_run_is_trained_by_the_config_that_is_planned(plan):
    # What is typed counts before what the study sets for all, and an axis before that.
    for run in plan(STUDY, "epoch=1", "log_iter=3").runs[:4]:
        assert (run.config.epoch, run.config.log_iter) == (1, 3)
        assert trained_by(run).values() == run.config.values()


def test_axes_are_crossed_and_the_runs_of_one_seed_stand_together(plan):
    found = plan(STUDY)
    assert [variant.name for variant in found.variants] == [
        "noise_clean-batch_small",
        "noise_clean-batch_large",
        "noise_40-batch_small",
        "noise_40-batch_large",
    ]
    assert [run.seed for run in found.runs] == [0, 0, 0, 0, 5, 5, 5, 5]
    run = found.runs[6]
    assert run.title == "noise 40 %, batch small, seed 5"
    assert str(run.folder) == "output/some/runs/noise_40-batch_small/seed_5/lenet_digits"
    config = run.config
    assert (config.seed, config.epoch, config.label_noise) == (5, 2, 0.4)
    assert (config.TrainReader.batch_size, config.use_vdl) == (32, False)
    assert run.command == (
        f"python tools/train.py -c {REPOSITORY}/configs/lenet_digits.yml --eval -r auto -o "
        "use_vdl=false epoch=2 validation=0.1 label_noise=0.4 TrainReader.batch_size=32 seed=5 "
        "save_dir=output/some/runs/noise_40-batch_small/seed_5"
    )


def test_without_axes_there_is_one_variant(plan):
    found = plan(f"base: {REPOSITORY}/configs/lenet_digits.yml\nset: [validation=9]\nseeds: [7]\n")
    assert [(variant.name, variant.title) for variant in found.variants] == [("base", "base")]


def test_options_change_the_base_and_move_the_whole_study(plan):
    found = plan(STUDY, "epoch=1", "save_dir=else")
    assert str(found.folder) == "else/some"
    assert str(found.runs[0].folder).startswith("else/some/runs/")
    assert found.runs[0].config.epoch == 1


def test_a_fingerprint_is_of_all_but_the_folder(plan):
    here, there, other = plan(STUDY), plan(STUDY, "save_dir=else"), plan(STUDY, "epoch=1")
    assert here.runs[0].fingerprint == there.runs[0].fingerprint
    fingerprints = {run.fingerprint for run in here.runs}
    assert len(fingerprints) == 8
    assert not fingerprints & {run.fingerprint for run in other.runs}


def test_a_fingerprint_does_not_change_with_a_key_that_is_left_at_its_default(plan):
    values = plan(STUDY).runs[0].config.values()
    assert (values["eval_iter"], values["max_loss"]) == (0, None)
    before = {name: v for name, v in values.items() if name not in ("eval_iter", "max_loss")}
    assert fingerprint(before) == fingerprint(values)
    assert fingerprint({**values, "eval_iter": 1}) != fingerprint(values)


def test_steps_are_those_of_each_variant(plan):
    # 6,490 images are trained on: 203 batches of 32; 102 of 64, two a step.
    assert list(count_steps(plan(STUDY)).values()) == [406, 102, 406, 102]
    # 203 batches, four a step: the last of an epoch has fewer.
    four = STUDY.replace("batch_size: 32}", "batch_size: 32, accumulate_steps: 4}")
    assert list(count_steps(plan(four)).values()) == [2 * 51, 102] * 2


def test_steps_are_counted_for_each_number_of_images(plan):
    images = "small: {train_samples: 64}\n    large: {train_samples: 320}"
    text = re.sub(r"small: .*\n.*large: .*", images, STUDY)
    assert list(count_steps(plan(text)).values()) == [2 * 1, 2 * 5] * 2


def test_the_epoch_that_validates_best_must_still_be_there_at_the_end(plan):
    # Those within epochs would else push out those at their ends.
    options = ("keep_checkpoint_max=1", "snapshot_epoch=2", "eval_iter=10", "snapshot_iter=10")
    run = plan(STUDY + "checkpoint: best\n", *options).runs[0]
    assert (run.config.keep_checkpoint_max, run.config.snapshot_epoch) == (10**9, 1)
    assert trained_by(run).values() == run.config.values()


def test_a_reference_on_one_axis_leaves_the_others_as_they_are(plan):
    found = plan(STUDY + "reference: {noise: clean}\n")
    assert [found.reference_of(variant).name for variant in found.variants] == [
        "noise_clean-batch_small",
        "noise_clean-batch_large",
        "noise_clean-batch_small",
        "noise_clean-batch_large",
    ]
    assert [plan(STUDY).reference_of(variant).name for variant in found.variants] == [
        variant.name for variant in found.variants
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epoch=2", "epoch=0", "some.yml:2: epoch must be 1 or more, got 0"),
        ("label_noise: 0.4", "label_noise: 4", "some.yml:4: label_noise must be 1 or less, got 4"),
        ("label_noise: 0.4", "lable_noise: 4", "some.yml:4: unknown key 'lable_noise'; did you "),
        (
            "TrainReader.batch_size: 32",
            "Optimizer.name: Adan",
            "some.yml:6: Optimizer.name: there is no 'Adan'; did you mean 'Adam'?",
        ),
        # Said by the class itself, once it is made.
        (
            "TrainReader.batch_size: 32",
            "Averages.ema.decay: 2.0",
            "some.yml:6: Averages.ema.decay must be in [0, 1), got 2.0",
        ),
        (
            "validation=0.1",
            "log_iter=5",
            "some.yml:2: a study selects on images kept out of the training data; put validation",
        ),
        ("40 %:", "CLEAN_:", None),
        ("40 %:", "clean_:", "some.yml:3: axes: two variants would have the folder "),
        ("seeds:", "reference: swa\nseeds:", "some.yml:8: reference must be one of raw, ema, got"),
        ("seeds:", "posthoc: [0.1]\nseeds:", "some.yml:8: posthoc needs snapshots; set posthoc_"),
    ],
)
def test_what_is_wrong_is_told_with_the_line_of_the_study(plan, old, new, message):
    assert STUDY.count(old) == 1
    text = STUDY.replace(old, new)
    if message is None:
        assert len(plan(text).variants) == 4
        return
    with pytest.raises(ConfigError) as caught:
        plan(text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("seed=3", "-o seed: the study gives each run its seed"),
        ("label_noise=0.1", "-o label_noise: is what the axis 'noise' varies"),
        ("TrainReader={batch_size: 3}", "-o TrainReader: is what the axis 'batch' varies"),
        ("epoch=0", "-o epoch: epoch must be 1 or more, got 0"),
    ],
)
def test_options_that_cannot_be_are_refused(plan, option, message):
    with pytest.raises(ConfigError) as caught:
        plan(STUDY, option)
    assert str(caught.value) == message


def test_a_run_with_the_section_swap_has_parts_and_ends_with_one_worker_and_the_mean(plan):
    found = plan(SWAP)
    plain, swap = found.variants
    assert found.weights(plain) == ["raw", "ema"]
    assert found.weights(swap) == ["raw", "swap"]
    folder = "output/some/runs/method_swap/seed_4/lenet_digits"
    names = ["phase_1", "worker_0", "worker_1"]
    parts = found.runs[1].parts
    assert [str(run_folder(part)) for part in parts] == [f"{folder}/{name}" for name in names]
    assert found.runs[0].parts == [found.runs[0].config]
    # 102 batches an epoch, or 51 pairs of them.
    steps = 3 * 102
    assert count_steps(found) == {"method_plain": steps, "method_swap": steps + 2 * 2 * 51}


@pytest.mark.parametrize("asked", ["checkpoint: best", "reach: [0.9]", "posthoc: [0.1]"])
def test_what_a_mean_of_workers_has_not_is_refused(plan, asked):
    name = asked.partition(":")[0]
    text = SWAP.replace("    plain: {}\n", "")
    message = f"some.yml:7: {name} is not of runs with the section Swap; leave it out"
    with pytest.raises(ConfigError, match=re.escape(message)):
        plan(f"{text}{asked}\n")


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("Averages.power", "Averages.selected", "selected"),
        ("seeds:", "posthoc: [0.1, 0.10000001]\nseeds:", "posthoc_0.1"),
    ],
)
def test_two_rows_of_a_result_have_two_names(plan, old, new, name):
    more = ', posthoc_every=2, "Averages.power={name: PowerFunctionEMA, sigma_rel: 0.1}"]'
    text = STUDY.replace("validation=0.1]", f"validation=0.1{more}").replace(old, new)
    with pytest.raises(ConfigError) as caught:
        plan(text)
    assert str(caught.value) == (
        f"some.yml: two rows of noise clean, batch small would have the name {name!r}; rename an "
        "average, or change posthoc"
    )
