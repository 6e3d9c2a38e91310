"""tools/average.py as a user runs it: post-hoc averages and soups of short runs on the digits."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
from in_process import REPOSITORY, run_in

from ppema.checkpoint import read_weight_file

CONFIG = REPOSITORY / "configs/lenet_mnist_posthoc.yml"
# Two epochs of 29 steps; a snapshot every 3.
SHORT = ("epoch=2", "TrainReader.batch_size=256", "use_vdl=false", "posthoc_every=3")
RUN = Path("output/lenet_mnist_posthoc")


def train_once(folder, *keys):
    run_in(folder, "train", "-c", CONFIG, "--eval", "-o", *SHORT, *keys)
    return folder / "output"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_once(tmp_path_factory.mktemp("lenet"))


@pytest.fixture(scope="module")
def trained_bn(tmp_path_factory):
    return train_once(tmp_path_factory.mktemp("bn"), "Model={name: LeNetBN, num_classes: 10}")


@pytest.fixture
def average(run_tool, trained, tmp_path):
    """Return a function that runs the tool beside a finished run of its own."""
    shutil.copytree(trained, tmp_path / "output", symlinks=True)
    return lambda command, *arguments: run_tool("average", command, *arguments)


@pytest.fixture
def posthoc(average):
    return lambda *arguments, keys=(): average(
        "posthoc", "-c", CONFIG, *arguments, "-o", *SHORT, *keys
    )


def test_a_width_makes_weights_that_evaluate_as_it_says(posthoc, run_tool):
    result = posthoc("--sigma_rel", "0.13")
    assert result.code == 0, result.err
    (line,) = re.findall(r"sigma_rel 0\.13: (top1 .* %  top2 .* %  loss \S+)", result.out)
    assert "coefficients sum to 1.000000000" in result.out
    assert "(on the embedded UCI digits, not MNIST)" in result.out
    path = RUN / "posthoc/sigma_rel_0.13_step_000000058.pdparams"
    assert f"written: {path}, {path.with_suffix('.json')}" in result.out
    facts = json.loads(path.with_suffix(".json").read_text())["best"]
    assert facts["sigma_rel"] == 0.13
    assert sum(facts["coefficients"].values()) == pytest.approx(1.0, abs=1e-12)
    evaluated = run_tool("eval", "-c", CONFIG, "-o", f"weights={path}")
    assert line in evaluated.out
    model = paddle.vision.models.LeNet()
    assert model.set_state_dict(paddle.load(str(path))) == ([], [])


def test_the_weights_are_the_sum_that_the_record_says(posthoc):
    assert posthoc("--half_life", "12").code == 0
    path = RUN / "posthoc/half_life_12_step_000000058.pdparams"
    coefficients = json.loads(path.with_suffix(".json").read_text())["best"]["coefficients"]
    total = 0.0
    for name, coefficient in coefficients.items():
        snapshot = paddle.load(str(RUN / "snapshots" / name))
        total = total + coefficient * snapshot["fc.0.weight"].numpy().astype("float64")
    made = paddle.load(str(path))["fc.0.weight"].numpy()
    np.testing.assert_allclose(made, total, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("text", "updates"), [("5 %", 2.9), ("1 epochs", 29), ("2560 images", 10)])
def test_a_half_life_may_be_in_any_unit_of_the_run_whatever_the_config_says_now(
    posthoc, text, updates
):
    keys = ("epoch=20", "TrainReader.batch_size=512")
    assert f"half_life {updates:g}: top1" in posthoc("--half_life", text, keys=keys).out


def test_a_tracked_average_is_met_within_one_percent(posthoc):
    result = posthoc("--verify", "power_15")
    assert result.code == 0, result.err
    (percent,) = re.findall(r"differs by (\S+) % from the tracked one", result.out)
    assert 0.0 < float(percent) < 1.0
    assert "42 snapshots of power_05 (0.05), power_10 (0.1);" in result.out
    assert not (RUN / "posthoc").exists()


def test_a_sweep_makes_a_table_a_picture_and_the_best(posthoc):
    result = posthoc("--sweep")
    rows = re.findall(r"^sigma_rel (\S+): top1 (\S+) %  top2 \S+ %  loss (\S+)", result.out, re.M)
    assert len(rows) == 12
    best = max(rows, key=lambda row: (float(row[1]), -float(row[2])))
    assert f"best: sigma_rel {best[0]}: top1 {best[1]} %" in result.out
    folder = RUN / "posthoc"
    assert {path.name for path in folder.iterdir()} == {
        f"sigma_rel_{best[0]}_step_000000058.pdparams",
        "sweep_step_000000058.json",
        "sweep_step_000000058.png",
    }
    assert (folder / "sweep_step_000000058.png").read_bytes().startswith(b"\x89PNG")
    facts = json.loads((folder / "sweep_step_000000058.json").read_text())
    assert [str(row["sigma_rel"]) for row in facts["tries"]] == [row[0] for row in rows]


def test_widths_of_a_sweep_may_be_chosen_and_go_to_a_file_of_ones_own(posthoc):
    result = posthoc("--sweep", "0.2", "0.05", "--output", "mine.pdparams")
    assert re.findall(r"^sigma_rel (\S+):", result.out, re.M) == ["0.05", "0.2"]
    assert {path.name for path in Path().glob("mine.*")} == {
        "mine.pdparams",
        "mine.json",
        "mine.png",
    }
    again = posthoc("--sigma_rel", "0.1", "--output", "mine.pdparams")
    assert (again.code, again.err) == (
        2,
        "mine.pdparams is there already; name another --output, or --overwrite\n",
    )
    before = Path("mine.pdparams").read_bytes()
    assert posthoc("--sigma_rel", "0.1", "--output", "mine.pdparams", "--overwrite").code == 0
    assert Path("mine.pdparams").read_bytes() != before


def test_any_step_of_the_run_can_be_asked_for(posthoc):
    result = posthoc("--sigma_rel", "0.05", "--step", "30")
    path = RUN / "posthoc/sigma_rel_0.05_step_000000030.pdparams"
    made, tracked = paddle.load(str(path)), RUN / "snapshots/power_05_000000030.pdparams"
    # Asked for at a snapshot, with its very width: it is that snapshot.
    for name, tensor in read_weight_file(tracked).items():
        np.testing.assert_allclose(made[name].numpy(), tensor.numpy(), rtol=0, atol=1e-6)
    assert "as of step 30, update 30" in result.out
    between = posthoc("--sigma_rel", "0.05", "--step", "31")
    assert "is not met (residual" in between.out
    assert "(30, 33)" in between.out


def test_an_average_can_be_left_out(posthoc):
    result = posthoc("--leave_out", "power_05", "--sigma_rel", "0.1")
    assert "42 snapshots of power_10 (0.1), power_15 (0.15);" in result.out
    two = ("--leave_out", "power_05", "--leave_out", "power_15")
    assert "21 snapshots of power_10 (0.1);" in posthoc(*two, "--sigma_rel", "0.1").out
    path = RUN / "posthoc/sigma_rel_0.1_step_000000058_without_power_05.json"
    assert json.loads(path.read_text())["left_out"] == ["power_05"]
    both = posthoc("--verify", "power_15", "--leave_out", "power_05")
    assert "21 snapshots of power_10 (0.1);" in both.out


def test_batch_norm_statistics_are_computed_anew(run_tool, trained_bn, tmp_path):
    shutil.copytree(trained_bn, tmp_path / "output", symlinks=True)
    keys = (*SHORT, "Model={name: LeNetBN, num_classes: 10}")
    found = {}
    for batches in (1, 2):
        result = run_tool(
            *("average", "posthoc", "-c", CONFIG, "--sigma_rel", "0.05"),
            *("-o", *keys, f"recompute_batches={batches}"),
        )
        assert result.code == 0, result.err
        found[batches] = read_weight_file(RUN / "posthoc/sigma_rel_0.05_step_000000058.pdparams")
    tracked = read_weight_file(RUN / "snapshots/power_05_000000058.pdparams")
    for name, tensor in tracked.items():
        is_statistic = name.endswith(("_mean", "_variance"))
        differs = (found[1][name] - tensor).abs().max().item() > 1e-5
        assert differs == is_statistic, name
    assert (found[1]["features.1._mean"] != found[2]["features.1._mean"]).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sigma_rel", "0.3"), "--sigma_rel must be between 0 and 0.2887, got 0.3"),
        (("--sweep", "0.1", "0"), "--sigma_rel must be between 0 and 0.2887, got 0.0"),
        (("--half_life", "0"), "--half_life must be a finite duration above 0, got 0.0"),
        (
            ("--half_life", "soon"),
            "--half_life must be a number of steps, or such as 5 %, 2 epochs, 64000 images, "
            "got 'soon'",
        ),
        (("--sigma_rel", "0.1", "--step", "59"), "--step 59: the last snapshot is of step 58"),
        (("--sigma_rel", "0.1", "--step", "0"), "--step 0: the averages have no update there"),
        (
            ("--sigma_rel", "0.1", "--leave_out", "typo"),
            "there are no snapshots of 'typo'; there are of power_05, power_10, power_15",
        ),
        (("--sigma_rel", "1e-200"), "--sigma_rel must be between 0 and 0.2887, got 1e-200"),
        (("--sigma_rel", "0.1", "--output", "."), "--output .: is a directory; a file is needed"),
        (
            ("--verify", "power_15", "--output", "x.pdparams"),
            "--verify writes nothing, so --output has no meaning with it",
        ),
        (("--sigma_rel", "0.1", "--overwrite"), "--overwrite is about the file of --output"),
        (
            ("--verify", "ema"),
            "there are no snapshots of 'ema'; there are of power_05, power_10, power_15",
        ),
        (("--sigma_rel", "x"), "argument --sigma_rel: invalid float value: 'x' (see --help)"),
        ((), "one of the arguments --sigma_rel --half_life --sweep --verify is required"),
        (
            ("--sigma_rel", "0.1", "--half_life", "3"),
            "argument --half_life: not allowed with argument --sigma_rel (see --help)",
        ),
    ],
)
def test_wrong_arguments_get_one_line(posthoc, arguments, message):
    result = posthoc(*arguments)
    assert result.code == 2
    assert result.err.startswith(message)
    assert len(result.err.splitlines()) == 1
    assert not (RUN / "posthoc").exists()


def test_a_run_without_snapshots_says_how_to_have_some(posthoc, run_tool):
    keys = (*SHORT[:3], "save_dir=other")
    digits = REPOSITORY / "configs/lenet_digits.yml"
    assert run_tool("train", "-c", digits, "-o", *keys).code == 0
    result = run_tool("average", "posthoc", "-c", digits, "--sweep", "-o", *keys)
    assert result.code == 2
    assert "lists no snapshots; train with two PowerFunctionEMA" in result.err
    missing = run_tool("average", "posthoc", "-c", digits, "--sweep")
    assert (missing.code, "no such run folder or checkpoint" in missing.err) == (3, True)


def test_a_damaged_snapshot_is_noticed(posthoc):
    path = RUN / "snapshots/power_10_000000030.pdparams"
    path.write_bytes(path.read_bytes()[:-1])
    (RUN / "snapshots/power_05_000000033.pdparams").unlink()
    result = posthoc("--sigma_rel", "0.1")
    assert (result.code, result.err) == (0, "")
    assert f"{path}: checksum differs; made without it" in result.out
    assert "power_05_000000033.pdparams: is missing; made without it" in result.out
    assert "61 snapshots" in result.out
    for path in (RUN / "snapshots").iterdir():
        path.write_bytes(b"")
    result = posthoc("--sigma_rel", "0.1")
    assert (result.code, result.err) == (
        3,
        f"{RUN}/snapshots: all 63 snapshots are damaged or missing\n",
    )


def test_an_average_that_began_later_is_refused_until_it_is_left_out(run_tool, average):
    late = "Averages.late={name: PowerFunctionEMA, sigma_rel: 0.2}"
    keys = (*SHORT[1:], "epoch=3", late)
    assert run_tool("train", "-c", CONFIG, "-r", "auto", "-o", *keys).code == 0
    result = average("posthoc", "-c", CONFIG, "--sigma_rel", "0.1", "-o", *keys)
    assert result.code == 3
    assert "late and power_05 did not begin together" in result.err
    assert "--leave_out" in result.err
    left = average(
        "posthoc", "-c", CONFIG, "--sigma_rel", "0.1", "--leave_out", "late", "-o", *keys
    )
    assert left.code == 0


def test_posthoc_every_without_an_average_to_take_is_an_error(run_tool, config):
    result = run_tool("train", "-c", config("lenet_digits"), "--check", "-o", "posthoc_every=5 %")
    assert result.code == 2
    expected = "-o posthoc_every: posthoc_every needs a PowerFunctionEMA among the Averages\n"
    assert result.err == expected
    result = run_tool("train", "-c", CONFIG, "--check", "-o", "posthoc_every=often")
    assert result.code == 2
    assert result.err.startswith("-o posthoc_every: posthoc_every must be a number of steps, or")


FILES = [str(RUN / f"snapshots/power_{w}_0000000{s}.pdparams") for w, s in (("05", 30), ("15", 57))]


def test_a_uniform_soup_needs_no_config(average):
    result = average("soup", *FILES)
    assert (result.code, result.out) == (
        0,
        "uniform soup of 2\nwritten: soup.pdparams, soup.json\n",
    )
    soup, parts = paddle.load("soup.pdparams"), [paddle.load(file) for file in FILES]
    mean = sum(part["fc.0.weight"].numpy().astype("float64") for part in parts) / 2
    np.testing.assert_array_equal(soup["fc.0.weight"].numpy(), mean.astype("float32"))
    again = average("soup", *FILES)
    assert (again.code, "soup.pdparams is there already" in again.err) == (2, True)
    assert average("soup", *FILES, "--overwrite").code == 0


def test_with_a_config_the_soup_and_its_parts_are_evaluated(average, run_tool):
    result = average("soup", *FILES, "-c", CONFIG, "--output", "both.pdparams")
    (line,) = re.findall(r"^soup: (.*)$", result.out, re.M)
    assert line in run_tool("eval", "-c", CONFIG, "-o", "weights=both.pdparams").out
    for file in FILES:
        (line,) = re.findall(rf"^{re.escape(file)}: (.*)$", result.out, re.M)
        assert line in run_tool("eval", "-c", CONFIG, "-o", f"weights={file}").out


def test_a_greedy_soup_leaves_out_what_does_not_help(average):
    bad = {name: -tensor for name, tensor in read_weight_file(Path(FILES[0])).items()}
    paddle.save(bad, "bad.pdparams")
    result = average("soup", "bad.pdparams", *FILES, "-c", CONFIG, "--greedy")
    assert result.code == 0, result.err
    taken = re.findall(r"^in the soup: (.*)$", result.out, re.M)
    # The later one is better alone; the early one does not help, and the negated one ruins it.
    assert taken == [FILES[1]]
    assert Path("soup.pdparams").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((*FILES, "--greedy"), 2, "--greedy needs a config (-c)"),
        ((*FILES, "-o", "seed=1"), 2, "-o needs a config (-c)"),
        ((), 2, "the following arguments are required: FILE (see --help)"),
        ((FILES[0], "nowhere.pdparams"), 3, "nowhere.pdparams: No such file or directory"),
        ((str(RUN / "model_final/state.pdstates"),), 3, "not weights (holds "),
        ((str(CONFIG),), 3, "is not a Paddle weight file"),
        ((str(RUN / "model_final/optimizer.pdopt"),), 3, "not weights (holds features.0."),
        ((FILES[0], "--output", "."), 2, "--output .: is a directory; a file is needed"),
    ],
)
def test_a_soup_that_cannot_be_gets_one_line(average, arguments, code, message):
    result = average("soup", *arguments)
    assert (result.code, message in result.err) == (code, True), result.err
    assert len(result.err.splitlines()) == 1
    assert not Path("soup.pdparams").exists()


def test_a_soup_of_what_does_not_fit_names_file_tensor_and_shape(average):
    state = read_weight_file(Path(FILES[0]))
    state["fc.2.bias"] = paddle.zeros([11])
    state["extra"] = state.pop("fc.0.bias")
    paddle.save(state, "other.pdparams")
    result = average("soup", FILES[0], "other.pdparams")
    assert result.code == 3
    assert result.err == (
        f"other.pdparams does not fit {FILES[0]}: 8 of 10 fit; fc.2.bias: file [11], model [10]; "
        "missing: fc.0.bias; unexpected: extra\n"
    )
    result = average("soup", "other.pdparams", "-c", CONFIG)
    assert (result.code, "other.pdparams: 8 of 10 fit" in result.err) == (3, True), result.err


def test_the_first_word_must_be_a_command(run_tool):
    for arguments, found in (((), "nothing"), (("stew",), "'stew'")):
        result = run_tool("average", *arguments)
        assert (result.code, result.err) == (
            2,
            f"the first argument must be posthoc or soup, got {found}\n",
        )
    assert "posthoc|soup" in run_tool("average", "--help").out


def test_weights_that_are_not_finite_make_no_soup(average):
    state = read_weight_file(Path(FILES[0]))
    state["fc.2.bias"][3] = float("nan")
    paddle.save(state, "nan.pdparams")
    result = average("soup", FILES[0], "nan.pdparams")
    expected = "nan.pdparams: fc.2.bias holds NaN; refusing to average\n"
    assert (result.code, result.err) == (4, expected)
    assert not Path("soup.pdparams").exists()


@pytest.mark.parametrize(
    "place",
    [
        "model_final/ema.pdparams",
        "model_final/new.pdparams",
        "snapshots/power_10_000000030.pdparams",
    ],
)
def test_nothing_is_written_into_a_checkpoint_or_among_snapshots(average, posthoc, place):
    before = {path: path.read_bytes() for path in RUN.rglob("*.pdparams")}
    output = str(RUN / place)
    for result in (
        posthoc("--sigma_rel", "0.1", "--output", output, "--overwrite"),
        average("soup", *FILES, "--output", output, "--overwrite"),
    ):
        assert (result.code, f"{output} is a file of a run" in result.err) == (2, True)
    assert {path: path.read_bytes() for path in RUN.rglob("*.pdparams")} == before


def test_a_soup_does_not_replace_what_it_is_made_of(average):
    for file in FILES:
        shutil.copy(file, Path(file).name)
    names = [Path(file).name for file in FILES]
    result = average("soup", *names, "--output", names[1], "--overwrite")
    assert (result.code, result.err) == (
        2,
        f"{names[1]} goes into the soup; name another --output\n",
    )
    assert average("soup", *names, "--output", "new.pdparams").code == 0
    record = json.loads(Path("new.json").read_text())
    assert record["ingredients"] == names


def test_a_soup_of_batch_norm_says_what_its_statistics_are(run_tool, trained_bn, tmp_path):
    shutil.copytree(trained_bn, tmp_path / "output", symlinks=True)
    plain = run_tool("average", "soup", *FILES)
    assert "the BatchNorm statistics are means too; with -c they are computed" in plain.out
    keys = ("Model={name: LeNetBN, num_classes: 10}", "recompute_batches=3")
    anew = run_tool("average", "soup", *FILES, "-c", CONFIG, "--overwrite", "-o", *keys)
    assert "BatchNorm statistics are computed anew for each on 3 training batches" in anew.out
    assert "(on the embedded UCI digits, not MNIST)" in anew.out


def test_recomputed_statistics_are_no_part_of_the_check(run_tool, tmp_path):
    recompute = [f"Averages.power_{w}.buffers=recompute" for w in ("05", "10", "15")]
    train_once(tmp_path, "Model={name: LeNetBN, num_classes: 10}", *recompute)
    result = run_tool("average", "posthoc", "-c", CONFIG, "--verify", "power_15")
    (percent,) = re.findall(r"differs by (\S+) % from the tracked one", result.out)
    assert float(percent) < 0.1


def test_averages_that_fold_at_other_steps_are_compared_as_of_one_update(run_tool, tmp_path):
    train_once(tmp_path, "Averages.power_10.update_every=10")
    for name in ("power_05", "power_10"):
        result = run_tool("average", "posthoc", "-c", CONFIG, "--verify", name)
        (percent,) = re.findall(r"differs by (\S+) % from the tracked one", result.out)
        assert float(percent) < 1.0, name
        assert "as of step 58, update 58" in result.out


def test_a_step_among_ones_that_were_left_out_is_refused(run_tool, tmp_path):
    train_once(tmp_path, "max_loss=2.25")
    lines = (tmp_path / "output/lenet_mnist_posthoc/train.log").read_text()
    left_out = [int(step) for step in re.findall(r"step (\d+): loss", lines)]
    # The first loss is high; some later step is left out between snapshots.
    assert left_out
    assert left_out[0] == 1
    assert len(left_out) < 10
    last = left_out[-1] - left_out[-1] % 3
    command = ("average", "posthoc", "-c", CONFIG, "--sigma_rel", "0.2", "--step")
    refused = run_tool(*command, str(last + 1))
    assert (refused.code, "steps were left out" in refused.err) == (2, True), refused
    taken = run_tool(*command, str(last + 3))
    assert f"as of step {last + 3}, update {last + 3 - len(left_out)}" in taken.out


def test_an_average_that_comes_back_begins_its_snapshots_anew(run_tool, average):
    keys = (*SHORT[1:], "log_iter=100")
    without = ("Averages={ema: {name: ExponentialMovingAverage}}", "posthoc_every=null", "epoch=3")
    for more in (without, ("epoch=4",)):
        command = ("train", "-c", CONFIG, "-r", "auto", "-o", *keys, *more)
        result = run_tool(*command)
        assert result.code == 0, result.err
    manifest = json.loads((RUN / "model_final/manifest.json").read_text())
    assert {entry["step"] for entry in manifest["snapshots"]} == {*range(90, 117, 3), 116}
    assert [e["num_updates"] for e in manifest["snapshots"]] == [
        entry["step"] - 87 for entry in manifest["snapshots"]
    ]
    assert {path.name for path in (RUN / "snapshots").iterdir()} == {
        f"{entry['average']}_{entry['step']:09d}.pdparams" for entry in manifest["snapshots"]
    }
