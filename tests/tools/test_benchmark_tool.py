"""tools/benchmark.py runs and says what it measured; how fast anything is, no test asks."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import paddle
import pytest
from in_process import REPOSITORY

TOOLS = REPOSITORY / "tools"
sys.path.insert(0, str(TOOLS))

import benchmark as benchmark_tool  # noqa: E402
from benchmarks import allocated, limit, picture, report, resident, rivals, shapes, timing  # noqa: E402
from benchmarks.data import open_archives  # noqa: E402
from benchmarks.paths import by_kernels  # noqa: E402
from benchmarks.rank_group import RankGroup  # noqa: E402
from benchmarks.remote import Remote, RemoteError  # noqa: E402
from benchmarks.rows import Findings, Reach, Row, ratios_of  # noqa: E402
from benchmarks.settings import Settings  # noqa: E402
from benchmarks.subjects import processes, step  # noqa: E402

from ppema.averaging import kernels  # noqa: E402

SUBJECTS = (
    *("update", "growth", "step", "train", "eval", "swap", "checkpoint", "memory", "processes"),
)
# What must stand in the table of each subject, where Linux and numba are there.
ROWS = {
    "update": [
        "limit, 1 thread",
        "ppema",
        "ppema, finite check",
        "ppema, without numba",
        "the copied NumPy class",
        "PaddleDetection's arithmetic",
        "Tensor.lerp_, each tensor",
        "ppema, 4 averages",
    ],
    "growth": ["ppema: 100 tensors", "limit: 100,000 weights", "ppema: 2 averages"],
    "step": ["ppema, fast_cpu", "weights that differ after all steps", "ppema overlapped"],
    "train": ["the usual loop and copied class", "hapi Model.fit", "ppema, fast_cpu off"],
    "eval": ["hapi Model.evaluate", "ppema", "ppema, fast_cpu off"],
    "swap": ["the copied NumPy class", "ppema"],
    "checkpoint": ["paddle.save of the same, not synced", "the finite check in it"],
    "memory": ["ppema's shadows", "apply and restore", "saving a checkpoint"],
    "processes": [
        "1 process of 64",
        "2 processes of 64",
        "2 processes, each its part",
        "gathering the spread average",
    ],
}
NUMBERS = {"type": "array", "items": {"type": "number"}}
ROW = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "group": {"type": "string"},
        "name": {"type": "string"},
        "unit": {"type": "string"},
        "median": {"type": "number"},
        "quartiles": {**NUMBERS, "minItems": 2, "maxItems": 2},
        "base": {"type": ["string", "null"]},
        "ratio": {"type": ["number", "null"]},
        "ratio_range": {"anyOf": [{"type": "null"}, {**NUMBERS, "minItems": 2, "maxItems": 2}]},
        "reach": {
            "type": ["object", "null"],
            "properties": {
                "limit": {"type": "number"},
                "of": {"enum": ["ratio", "median"]},
                "at_least": {"type": "boolean"},
            },
            "required": ["limit", "of", "at_least"],
        },
        "is_met": {"type": ["boolean", "null"]},
        "x": {"type": ["number", "null"]},
        "samples": {**NUMBERS, "minItems": 1},
        "ratios": NUMBERS,
    },
}
ROW["required"] = list(ROW["properties"])
SCHEMA = {
    "type": "object",
    "properties": {
        "facts": {"type": "object", "additionalProperties": {"type": "string", "minLength": 1}},
        "subjects": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "properties": {
                    "notes": {"type": "array", "items": {"type": "string"}},
                    "rows": {"type": "array", "items": ROW, "minItems": 1},
                },
                "required": ["notes", "rows"],
            },
        },
    },
    "required": ["facts", "subjects"],
}
# As much of torch as an average takes, so that the way to it is tried without it.
FAKE_TORCH = {
    "__init__.py": """
import numpy as np
from . import nn
__version__ = "0.fake"
threads = 2
def randn(*shape): return nn.Parameter(np.ones(shape))
def get_num_threads(): return threads
def set_num_threads(number):
    global threads
    threads = number
def _foreach_lerp_(averages, lives, weight): assert len(averages) == len(lives)
""",
    "nn.py": """
class Parameter:
    def __init__(self, value): self.value = value
    def detach(self): return self
    def clone(self): return self
ParameterList = list
""",
    "optim/__init__.py": "",
    "optim/swa_utils.py": """
def get_ema_multi_avg_fn(decay): return decay
class AveragedModel:
    def __init__(self, model, multi_avg_fn): self.model = model
    def update_parameters(self, model): assert model is self.model
""",
}


def benchmark(*arguments, cwd, **environment):
    command = [sys.executable, str(TOOLS / "benchmark.py"), *map(str, arguments)]
    result = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "Traceback" not in result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Return what a quick run over all subjects printed, and its folder."""
    folder = tmp_path_factory.mktemp("quick")
    files = ("--json", "all.json", "--picture", "all.png")
    result = benchmark("all", "--quick", *files, cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout, folder


@pytest.fixture(scope="module")
def facts(quick):
    return json.loads((quick[1] / "all.json").read_text(encoding="utf-8"))


def lines_of(subject, out):
    """Return the lines of one subject's tables."""
    after = out[out.index(f"== {subject}:") + 3 :]
    return after.partition("\n== ")[0].splitlines()


@pytest.mark.parametrize("subject", SUBJECTS)
def test_each_subject_prints_its_rows(quick, subject):
    lines = lines_of(subject, quick[0])
    for name in ROWS[subject]:
        assert any(line.startswith(f"{name}  ") for line in lines), name
    assert any(line.startswith("what  ") and "to reach" in line for line in lines)


def test_the_first_lines_say_machine_versions_and_command(quick):
    head = quick[0].partition("\n==")[0]
    for line in ("machine", "python", "paddlepaddle", "numpy", "numba", "torch", "threads"):
        assert f"\n{line} " in f"\n{head}"
    assert "python tools/benchmark.py all --quick --json all.json --picture all.png" in head
    assert paddle.__version__ in head


def test_the_json_holds_everything(facts):
    jsonschema.validate(facts, SCHEMA)
    assert tuple(facts["subjects"]) == SUBJECTS
    assert facts["facts"]["command"].endswith("--picture all.png")
    met = {row["is_met"] for found in facts["subjects"].values() for row in found["rows"]}
    assert None in met
    assert met & {True, False}


def test_the_figures_follow_from_the_samples(facts):
    for found in facts["subjects"].values():
        for row in found["rows"]:
            assert row["median"] == statistics.median(row["samples"])
            if not row["ratios"]:
                continue
            assert len(row["ratios"]) == len(row["samples"])
            base = next(
                other
                for other in found["rows"]
                if (other["group"], other["name"]) == (row["group"], row["base"])
            )
            expected = [a / b for a, b in zip(row["samples"], base["samples"])]
            assert row["ratios"] == pytest.approx(expected)
            assert row["ratio"] == statistics.median(row["ratios"])


def test_fast_layers_gave_the_same_bits(facts):
    (row,) = (row for row in facts["subjects"]["step"]["rows"] if row["unit"] == "weights")
    assert row["samples"] == [0.0]


def test_a_spread_average_is_smaller_by_what_others_have(facts):
    rows = {
        row["name"]: row["median"]
        for row in facts["subjects"]["processes"]["rows"]
        if row["group"].startswith("bytes of the average")
    }
    # All of LeNet; of two processes, the fullest has the weights of its largest layer.
    assert rows["2 processes, each the whole"] == pytest.approx(4 * 61_610 / 1e6, rel=0.01)
    assert rows["2 processes, each its part"] == pytest.approx(4 * 48_000 / 1e6, rel=0.01)


def test_the_picture_is_a_png_of_some_size(quick):
    from matplotlib.image import imread

    height, width, _ = imread(quick[1] / "all.png").shape
    assert height > width > 500


def test_without_torch_a_line_says_so(quick):
    if importlib.util.find_spec("torch") is None:
        assert "note: torch is not installed here (see --torch); its rows are left out" in quick[0]
        assert "torch _foreach_lerp_" not in quick[0]
    else:
        assert "torch _foreach_lerp_, 1 thread" in quick[0]


def test_data_that_is_not_mnist_is_said_to_be_so(quick):
    for subject in ("train", "eval"):
        assert any("NOT MNIST" in line for line in lines_of(subject, quick[0]))


def test_without_gcc_numpy_is_the_limit(tmp_path):
    result = benchmark("update", "--quick", "--rounds", "1", cwd=tmp_path, PATH=str(tmp_path))
    # What it says on stderr is of other programs that Paddle looks for.
    assert result.returncode == 0
    assert "note: the limit is NumPy in place, as there is no gcc" in result.stdout
    assert "limit on Paddle's tensors" not in result.stdout


def test_torch_is_measured_where_an_interpreter_has_it(tmp_path):
    for name, text in FAKE_TORCH.items():
        path = tmp_path / "torch" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    # Beside ppema, not in its place: only the other process is to find it.
    starter = tmp_path / "python"
    starter.write_text(
        f'#!/bin/sh\nPYTHONPATH="{tmp_path}:$PYTHONPATH" exec {sys.executable} "$@"\n'
    )
    starter.chmod(0o755)
    result = benchmark("update", "--quick", "--torch", starter, "--rounds", "2", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "0.fake" in result.stdout
    assert "torch _foreach_lerp_, 1 thread" in result.stdout
    assert "torch AveragedModel, 1 thread" in result.stdout
    assert "torch is not installed" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed"], "argument SUBJECT: invalid choice: 'speed'"),
        ([], "the following arguments are required: SUBJECT"),
        (["update", "--rounds", "0"], "argument --rounds: must be a whole number, at least 1"),
        (["update", "--rounds", "few"], "argument --rounds: must be a whole number, at least 1"),
        (["update", "--json", "no/such/a.json"], "no/such/a.json: its folder does not exist"),
        (["update", "--torch", "/no/python"], "--torch /no/python: "),
    ],
)
def test_wrong_arguments_are_one_line(run_tool, arguments, message):
    result = run_tool("benchmark", *arguments)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith(message)
    assert result.err.count("\n") == 1


def test_an_interpreter_without_torch_is_an_error_where_it_was_named(run_tool):
    if importlib.util.find_spec("torch") is None:
        result = run_tool("benchmark", "update", "--torch", sys.executable)
        assert result.code == 2
        assert "No module named 'torch'" in result.err


def test_a_folder_that_lacks_an_archive_is_one_line(run_tool, tmp_path):
    result = run_tool("benchmark", "eval", "--quick", "--dataset_dir", tmp_path)
    assert result.code == 3
    assert result.err == f"dataset_dir {tmp_path}: lacks train-images-idx3-ubyte.gz\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is full")
def test_a_full_disk_is_one_line(tmp_path):
    result = benchmark("swap", "--quick", "--json", "/dev/full", cwd=tmp_path)
    assert result.returncode == 6
    assert result.stderr == "No space left on device\n"


def test_a_row_takes_medians_and_ratios_round_by_round():
    base = (1.0, 2.0, 4.0)
    samples = (2.0, 2.0, 2.0)
    row = Row("g", "n", "ms", samples, "b", ratios_of(samples, base), Reach(1.0, "ratio"))
    assert row.ratios == (2.0, 1.0, 0.5)
    assert (row.median, row.ratio, row.range) == (2.0, 1.0, (0.5, 2.0))
    assert row.is_met is True


def test_quartiles_are_between_the_samples():
    assert Row("g", "n", "%", (5.0, 1.0, 3.0, 2.0, 4.0)).quartiles == (2.0, 4.0)
    assert Row("g", "n", "%", (7.0,)).quartiles == (7.0, 7.0)


@pytest.mark.parametrize(
    ("reach", "is_met"),
    [
        (Reach(3.0, "median"), True),
        (Reach(2.9, "median"), False),
        (Reach(3.0, "median", at_least=True), True),
        (Reach(3.1, "median", at_least=True), False),
        (Reach(1.5, "ratio"), True),
        (Reach(1.4, "ratio"), False),
        (None, None),
    ],
)
def test_a_row_is_met_by_what_its_figure_is_of(reach, is_met):
    assert Row("g", "n", "ms", (3.0, 3.0, 9.0), "b", (1.5, 1.5, 1.0), reach).is_met is is_met


def test_every_contender_comes_once_a_round_in_an_order_that_changes():
    called = []

    def contender(name):
        return lambda: called.append(name) or float(len(called))

    samples = timing.interleave({name: contender(name) for name in "abc"}, rounds=6)
    rounds = ["".join(called[start : start + 3]) for start in range(0, 18, 3)]
    assert rounds == ["abc", "cba", "bca", "acb", "cab", "bac"]
    assert samples["a"] == [1.0, 6.0, 9.0, 10.0, 14.0, 17.0]


def test_a_group_has_a_row_for_each_entry():
    entries = [
        timing.Entry("slow", lambda: 0.5),
        timing.Entry("fast", lambda: 0.1, "slow", Reach(5.0, "ratio", at_least=True)),
    ]
    unit = timing.Unit("images/s", 64, is_rate=True)
    slow, fast = timing.measure_group("g", entries, 2, unit)
    assert slow.samples == (128.0, 128.0)
    assert fast.samples == pytest.approx((640.0, 640.0))
    assert fast.ratio == pytest.approx(5.0)
    assert (slow.ratio, slow.is_met) == (None, None)


def test_a_short_piece_is_repeated_until_it_fills_a_sample():
    assert timing.num_repeats(0.003, 0.02) == 7
    assert timing.num_repeats(0.5, 0.02) == 1
    assert timing.num_repeats(0.0, 0.02) == 10_000
    calls = []
    contend = timing.repeated(lambda: calls.append(1), least_s=0.0)
    before = len(calls)
    assert contend() >= 0.0
    assert len(calls) == before + 1


@pytest.mark.skipif(not timing.can_hold_to_one_core(), reason="needs sched_setaffinity")
def test_one_core_is_one_core_and_only_inside():
    before = os.sched_getaffinity(0)
    with timing.one_core():
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("has_gcc", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_limit_does_the_work_of_an_update(monkeypatch, tmp_path, has_gcc, threads):
    if not has_gcc:
        monkeypatch.setenv("PATH", str(tmp_path))
    limit.compiled_library.cache_clear()
    try:
        yardstick = limit.Limit(100_001)
        for _ in range(2):
            yardstick.move(threads)
        assert yardstick.describe().startswith("C" if limit.compiled_library() else "NumPy")
    finally:
        limit.compiled_library.cache_clear()
    share = 1.0 - (1.0 - limit.WEIGHT) ** 2
    np.testing.assert_allclose(yardstick.average, share * yardstick.live, rtol=1e-5)


def test_every_rival_keeps_an_average_of_the_weights():
    paddle.seed(1)
    model = paddle.nn.Linear(3, 2)
    copied = rivals.CopiedAverage(model, 0.9, thres_steps=False)
    copied.register()
    detection, lerp = rivals.StateDictAverage(model, 0.9), rivals.LerpAverage(model, 0.9)
    expected = model.weight.numpy().astype("float64")
    for _ in range(3):
        model.weight.set_value(paddle.randn([3, 2]))
        for rival in (copied, detection, lerp):
            rival.update()
        expected = 0.9 * expected + 0.1 * model.weight.numpy()
    raw = model.weight.numpy()
    found = [copied._shadow["weight"], detection._average["weight"], lerp._pairs[0][1]]
    for average in found:
        np.testing.assert_allclose(np.asarray(average), expected, rtol=1e-5)
    copied.apply()
    np.testing.assert_allclose(model.weight.numpy(), expected, rtol=1e-5)
    copied.restore()
    np.testing.assert_array_equal(model.weight.numpy(), raw)


def test_the_models_have_the_weights_of_those_they_are_named_after():
    assert (shapes.lenet().num_weights, len(shapes.lenet().shapes)) == (61_610, 10)
    assert (shapes.resnet50().num_weights, len(shapes.resnet50().shapes)) == (25_610_152, 267)
    # timm's vit_base_patch16_224.
    assert (shapes.vit_b16().num_weights, len(shapes.vit_b16().shapes)) == (86_567_656, 152)
    tensors = shapes.Tensors(shapes.equal_tensors(3, 5))
    assert [p.shape for p in tensors.parameters()] == [[5], [5], [5]]


def test_each_weight_that_differs_in_a_bit_is_counted():
    first, second = step.make_lenet_step(False).model, step.make_lenet_step(True).model
    assert step.num_differing(first, second) == 0
    weight = second.fc[0].bias.numpy()
    weight.view("i4")[3:5] ^= 1
    second.fc[0].bias.set_value(weight)
    assert step.num_differing(first, second) == 2


def test_kernels_are_as_before_whatever_happens():
    before = kernels._State.is_decided, kernels._State.kernels
    mark = object()
    with by_kernels(mark):
        assert kernels.compiled_kernels() is mark
    with pytest.raises(ZeroDivisionError), by_kernels(mark):
        1 / 0  # noqa: B018
    assert (kernels._State.is_decided, kernels._State.kernels) == before


def test_memory_that_is_held_for_a_moment_is_seen():
    def hold():
        array = np.ones(4_000_000)
        tensor = paddle.ones([2_000_000])
        return float(array[0] + tensor[0])

    assert 40e6 <= allocated.peak_bytes(hold) < 41e6
    if resident.can_measure():
        assert 39e6 <= resident.resident_peak_bytes(hold) < 60e6


def test_polling_does_not_add_up_what_is_not_held_at_once():
    def hold_one_after_the_other():
        for make in (lambda: np.ones(4_000_000), lambda: paddle.ones([4_000_000])):
            held = make()
            for _ in range(50):
                float(held[0])
            del held

    assert allocated.peak_bytes(hold_one_after_the_other) > 63e6
    assert 31e6 < allocated.polled_peak_bytes(hold_one_after_the_other) < 40e6


def test_a_process_that_fails_is_an_error_that_says_why():
    remote = Remote("train_process", "seed", "/no/such/folder", "x")
    try:
        with pytest.raises(RemoteError, match="No such file or directory: '/no/such/folder"):
            remote.ask("block", steps=1)
    finally:
        remote.close()


@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="needs Linux")
def test_each_rank_is_told_its_number_and_held_to_a_core():
    cores = sorted(os.sched_getaffinity(0))
    # It is ended before it has imported anything.
    group = RankGroup("train_process", "ranks", "/no/such/folder", "x", "64", num_ranks=3)
    try:
        found = []
        for remote in group._remotes:
            pid = remote._process.pid
            assert os.sched_getaffinity(pid) == {cores[len(found) % len(cores)]}
            pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            found.append(dict(pair.decode().split("=", 1) for pair in pairs if pair))
    finally:
        group.close()
    assert [each["PADDLE_TRAINER_ID"] for each in found] == ["0", "1", "2"]
    assert {each["PADDLE_TRAINERS_NUM"] for each in found} == {"3"}
    assert {each["OMP_NUM_THREADS"] for each in found} == {"1"}
    (endpoints,) = {each["PADDLE_TRAINER_ENDPOINTS"] for each in found}
    assert endpoints.split(",") == [each["PADDLE_CURRENT_ENDPOINT"] for each in found]
    (store,) = {each["PADDLE_MASTER"] for each in found}
    assert len({store, *endpoints.split(",")}) == 4


def test_images_a_second_are_those_of_the_slowest_of_all_processes():
    class Group:
        def ask(self, do, steps):
            return [1.5, 2.0]

    training = processes._Training(num_ranks=2, batch_size=96)
    # Ten steps of 192 images in two seconds: of 64 images, a fifteenth.
    assert processes._block(Group(), training, 10)() == pytest.approx(1 / 15)


def test_the_digits_are_written_as_paddle_and_ppema_read_them():
    from ppema.data import MNIST, load_dataset
    from ppema.data.digits import load_digits

    with open_archives(Settings(is_quick=True)) as archives:
        images, labels = archives.paths("test")
        theirs = paddle.vision.datasets.MNIST(images, labels, "test", download=False)
        ours = load_dataset(MNIST("test", str(archives.folder)), "error")
    assert len(theirs) == len(ours) == 300
    digits = load_digits("test")
    np.testing.assert_array_equal(ours.images, digits.images[:300])
    np.testing.assert_array_equal(ours.labels, digits.labels[:300])
    np.testing.assert_array_equal(np.asarray(theirs[7][0]), digits.images[7, 0])
    assert int(theirs[7][1][0]) == digits.labels[7]


def test_the_table_marks_what_is_not_met():
    rows = [
        Row("a group", "base", "ms", (1.0, 3.0, 2.0)),
        Row("a group", "other", "ms", (4.0, 9.0, 8.0), "base", (4.0, 3.0, 4.0), Reach(2, "ratio")),
    ]
    lines = report.table(Findings(rows, ["a word"])).splitlines()
    assert lines[1] == "a group"
    assert lines[3].split() == ["base", "2", "ms", "[1.50", "to", "2.50]"]
    assert lines[4].endswith("8 ms    4 x base  3 to 4          ≤ 2 x     NOT MET")
    assert lines[5] == "note: a word"


def test_the_mark_in_a_picture_is_where_the_figure_would_be_reached():
    base = Row("g", "base", "ms", (4.0, 4.0))
    by_ratio = Row("g", "a", "ms", (1.0,), "base", (0.25,), Reach(0.5, "ratio"))
    by_median = Row("g", "b", "ms", (1.0,), "base", (0.25,), Reach(0.5, "median"))
    rows = [base, by_ratio, by_median]
    assert [picture._reach_in_unit(row, rows) for row in rows] == [None, 2.0, 0.5]


def test_a_block_of_steps_has_an_update_after_each():
    calls = []

    @contextlib.contextmanager
    def way():
        calls.append("in")
        yield lambda: calls.append("update")
        calls.append("out")

    assert step._block_s(lambda: calls.append("step"), way) >= 0.0
    assert calls == ["in", *["step", "update"] * 3, "out"]


@pytest.mark.parametrize("name", ["ppema in line", "ppema overlapped"])
def test_an_average_follows_the_steps_of_its_blocks_only(name):
    lenet = step.make_lenet_step(False)
    before = vars(lenet.optimizer).get("step")
    way = step.ways_of(lenet)[name]
    step._block_s(lenet, way)
    assert vars(lenet.optimizer).get("step") is before
    with way() as after_step:
        is_attached = vars(lenet.optimizer).get("step") is not before
        average = getattr(after_step, "__self__", None)
    assert is_attached is (name == "ppema overlapped")
    assert (average.num_updates if average else 3) == 3


def test_the_commands_and_pictures_of_the_page_are_there():
    page = (REPOSITORY / "docs/performance.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\.venv/bin/python tools/benchmark\.py (.+)$", page, re.M)
    parsed = [benchmark_tool.parse_arguments(shlex.split(command)) for command in commands]
    assert [arguments.subject for arguments in parsed] == [*SUBJECTS, "all"]
    pictures = re.findall(r"\]\((images/[^)]+)\)", page)
    assert len(pictures) == len(SUBJECTS)
    assert all((REPOSITORY / "docs" / path).is_file() for path in pictures)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.00012, "1.2e-04"),
        (0.0033, "0.0033"),
        (0.123, "0.12"),
        (12.34, "12.3"),
        (1234.5, "1,234"),
    ],
)
def test_numbers_have_two_or_three_digits(value, text):
    assert report.number(value) == text
