"""What is to be seen of a run: plots of an evaluation, runs compared, quiet tools, a dashboard."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from conftest import REPOSITORY
from PIL import Image

FOLDER = Path("output/lenet_digits")
SHORT = ("epoch=2", "TrainReader.batch_size=256")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Return a folder in which a short run on the digits is done, with all that is shown of it."""
    folder = tmp_path_factory.mktemp("home")
    command = [sys.executable, str(REPOSITORY / "tools/train.py"), "--eval", "--quiet"]
    result = subprocess.run(
        [*command, "-c", str(REPOSITORY / "configs/lenet_digits.yml"), "-o", *SHORT],
        cwd=folder,
        env={**os.environ, "HOME": str(folder), "PPEMA_MIRRORS": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (result.returncode, result.stderr) == (0, "")
    (folder / "said.txt").write_text(result.stdout)
    return folder


@pytest.fixture
def run_there(home, run_tool, monkeypatch):
    """Return `run_tool`, in the folder of the run."""
    monkeypatch.chdir(home)
    return run_tool


def test_a_quiet_run_says_what_was_best_and_its_log_has_all(home):
    said = (home / "said.txt").read_text().splitlines()
    assert len(said) == 1
    assert re.search(
        r"output/lenet_digits: best: \w+ of step \d+, top1 [\d.]+ %  loss [\d.]+ "
        r"\(on the embedded UCI digits, not MNIST\)$",
        said[0],
    )
    assert "INFO: Epoch: [1/2]" in (home / FOLDER / "train.log").read_text()


def test_quiet_evaluation_prints_the_table_only(run_there, config):
    result = run_there("eval", "-c", config("lenet_digits"), "--quiet")
    assert re.fullmatch(r"raw +top1 .*\nema +top1 .*\n", result.out), result.out
    # A tool that runs after it in the same process is not quiet.
    assert run_there("eval", "-c", config("lenet_digits")).out.startswith("weights: ")


def test_plots_are_of_the_run_s_winner_and_named(run_there, config):
    result = run_there("eval", "-c", config("lenet_digits"), "--plots")
    assert result.code == 0, result.err
    winner = json.loads((FOLDER / "best_model/manifest.json").read_text())["winner"]
    kinds = ("confusion", "reliability", "mistakes")
    files = [FOLDER / "plots" / f"{winner}_{kind}.png" for kind in kinds]
    assert result.out.splitlines()[-1] == f"{winner} drawn: {', '.join(map(str, files))}"
    for file in files:
        with Image.open(file) as image:
            assert min(image.size) > 300


def test_plots_are_of_the_average_and_in_the_folder_that_were_named(run_there, config):
    arguments = ("--average", "raw", "--plots", "elsewhere")
    assert run_there("eval", "-c", config("lenet_digits"), *arguments).code == 0
    assert {file.name for file in Path("elsewhere").iterdir()} == {
        *("raw_confusion.png", "raw_mistakes.png", "raw_reliability.png"),
    }


def test_a_file_where_plots_should_go_is_refused_before_anything_is_evaluated(run_there, config):
    Path("taken").write_text("")
    result = run_there("eval", "-c", config("lenet_digits"), "--plots", "taken")
    assert (result.code, result.out) == (2, "")
    assert result.err == "--plots taken: is a file; name a folder\n"


def test_runs_are_compared_best_first_and_drawn(run_there):
    worse = Path("output/worse")
    worse.mkdir()
    lines = [json.loads(line) for line in (FOLDER / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line["top1"] = (line["top1"] or 0) / 2
    (worse / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = run_there("compare", worse, FOLDER, "--picture", "compared.png")
    assert result.code == 0, result.err
    head, *rows, last = result.out.splitlines()
    assert head.split() == ["run", "best", "top1", "loss", "epoch", "step", "last", "raw", "top1"]
    assert [row.split()[0] for row in rows] == ["lenet_digits", "worse"]
    best = max(line["top1"] for line in lines if line["split"] == "eval")
    assert f"{100 * best:.2f} %" in rows[1]
    assert last == "drawn: compared.png"
    with Image.open("compared.png") as image:
        assert image.size[0] > 300


def test_an_evaluation_whose_loss_was_nan_is_compared(run_there):
    record = {"step": 1, "epoch": 1, "split": "eval", "average": "raw"}
    record.update({"top1": 0.5, "top2": 0.75, "loss": None})
    Path("nan").mkdir()
    Path("nan/metrics.jsonl").write_text(json.dumps(record) + "\n")
    result = run_there("compare", "nan")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[-1].split() == [
        "nan",
        "raw",
        "50.00",
        "%",
        "nan",
        "1",
        "1",
        "50.00",
        "%",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere"], 3, "nowhere: no run's folder (it has no metrics.jsonl)"),
        (["output/lenet_digits", "output/lenet_digits/"], 2, "the same run is named twice"),
        (["output/lenet_digits", "--picture", "output"], 2, "--picture output: is a directory"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(run_there, arguments, code, said):
    result = run_there("compare", *arguments)
    assert result.code == code
    assert result.err.startswith(said)
    assert result.err.count("\n") == 1


def test_a_dashboard_of_no_folder_or_at_a_taken_port_is_refused(run_there):
    result = run_there("dashboard", "--logdir", "nowhere")
    assert result.code == 2
    assert result.err == "--logdir nowhere: no such folder; train first, or name another\n"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run_there("dashboard", "--port", port)
    assert result.code == 2
    found = re.fullmatch(
        rf"--port {port}: another program listens there; (\d+) is free\n", result.err
    )
    with socket.create_server(("127.0.0.1", int(found[1]))):
        pass


@pytest.mark.parametrize("port", ["0", "65536", "x"])
def test_what_is_no_port_is_refused(run_there, port):
    result = run_there("dashboard", "--port", port)
    assert result.code == 2
    assert f"must be a port, 1 to 65535, got {port!r}" in result.err


class Dashboard:
    """The dashboard of a run, in a process of its own."""

    def __init__(self, home):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen(
            [sys.executable, str(REPOSITORY / "tools/dashboard.py"), "--port", str(self.port)],
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A test runner in the background may have it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.said = self.process.stdout.readline()

    def get(self, path, host="127.0.0.1"):
        url = f"http://127.0.0.1:{self.port}/app/{path}"
        request = urllib.request.Request(url, headers={"Host": host})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()


@pytest.fixture(scope="module")
def dashboard(home):
    found = Dashboard(home)
    yield found
    if found.process.poll() is None:
        os.killpg(found.process.pid, signal.SIGKILL)
    found.process.communicate()


def test_the_dashboard_says_where_it_is_and_has_every_kind_of_record(dashboard):
    assert dashboard.said == f"http://127.0.0.1:{dashboard.port}/app/index  (Ctrl-C ends it)\n"
    tabs = json.loads(dashboard.get("api/component_tabs"))["data"]
    assert {"scalar", "histogram", "pr_curve", "hyper_parameters", "image"} <= set(tabs)


def test_the_dashboard_is_in_english_and_reports_to_nobody(dashboard):
    assert "VisualDL" in dashboard.get("index")
    # Where VisualDL puts the address that its pages report to, and the language they take.
    settings = dashboard.get("__snowpack__/env.local.js")
    assert re.search(r"TELEMETRY_ID\W+''|TELEMETRY_ID\W+\"\"", settings), settings


def test_the_dashboard_answers_to_no_other_name(dashboard):
    with pytest.raises(urllib.error.HTTPError) as caught:
        dashboard.get("index", host="example.org")
    with caught.value as answer:
        assert answer.code == 403


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def browse(arguments):
    """Run Chromium without a window, and return what it prints."""
    for _ in range(3):
        process = subprocess.Popen(
            [CHROMIUM, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        try:
            return process.communicate(timeout=15)[0]
        except subprocess.TimeoutExpired:
            # On a busy machine its clock for pages stands still now and then.
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    pytest.fail("Chromium hung three times")


def colors_of_charts(picture):
    with Image.open(picture) as image:
        charts = image.convert("RGB").crop((40, 200, 880, 900))
    return {color for count, color in charts.getcolors(maxcolors=1 << 24) if count > 20}


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")
def test_a_browser_finds_raw_and_averaged_curves_on_the_page(dashboard, tmp_path):
    picture, page = tmp_path / "page.png", f"http://127.0.0.1:{dashboard.port}/app/scalar"
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"),
        # Nothing from outside may be needed.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        *("--virtual-time-budget=8000", "--window-size=1280,900"),
    ]

    dom = browse([*options, "--dump-dom", page])
    runs = re.findall(
        r'<i style="background-color: rgb\((\d+), (\d+), (\d+)\);"></i>(\w+) output/lenet_digits',
        dom,
    )
    colors = {name: tuple(map(int, color)) for *color, name in runs}
    assert set(colors) == {"raw", "ema", "train"}, dom[-4000:]
    assert re.search(r"<h3>eval</h3>", dom)
    assert dom.count("<canvas") >= 3
    # The charts are drawn by a script; that each curve is there is seen by its colour. On a busy
    # machine the picture may be taken before.
    for _ in range(3):
        browse([*options, f"--screenshot={picture}", page])
        drawn = colors_of_charts(picture)
        if {colors["raw"], colors["ema"]} <= drawn:
            break
    assert {colors["raw"], colors["ema"]} <= drawn
    # Only curves of training are in the other group, which is folded.
    assert colors["train"] not in drawn


def test_ctrl_c_ends_the_dashboard_with_130_and_leaves_nothing(dashboard):
    dashboard.process.send_signal(signal.SIGINT)
    out, err = dashboard.process.communicate(timeout=20)
    assert (dashboard.process.returncode, out, err) == (130, "", "")
    for _ in range(50):
        try:
            os.killpg(dashboard.process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("a process of the dashboard is left")


PAGE = (REPOSITORY / "docs/dashboards.md").read_text()
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) for line in block.splitlines()
]


def test_the_commands_on_the_page_work_in_its_order(run_tool, tmp_path):
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    done = []
    for command in COMMANDS:
        program, *arguments = command.split()
        tool = Path(arguments[0]).stem
        done.append(tool if program == ".venv/bin/python" else program)
        # These two are what the tests above do.
        if done[-1] in ("dashboard", "chromium"):
            continue
        short = ["-o", "epoch=1", "TrainReader.batch_size=256"] if tool == "train" else []
        result = run_tool(tool, *arguments[1:], *short)
        assert (result.code, result.err) == (0, ""), command
    assert done == ["train", "eval", "dashboard", "chromium", "train", "compare"]
    assert Path("output/lenet_mnist/curves.png").is_file()
    drawn = [path.stem.split("_")[1] for path in Path("output/lenet_mnist/plots").iterdir()]
    assert sorted(drawn) == ["confusion", "mistakes"]


def test_the_pictures_of_the_page_are_there():
    found = re.findall(r"\]\((images/[^)]+)\)", PAGE)
    assert len(found) == 4
    for picture in found:
        assert (REPOSITORY / "docs" / picture).is_file(), picture
