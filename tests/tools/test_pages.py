"""The pages of docs/ about the library and its surroundings: what they show runs and is so."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
from pathlib import Path

import paddle
import pytest
import yaml
from in_process import REPOSITORY

import ppema
from ppema import builder
from ppema.integrations import paddleclas, paddledetection

NAMES = ("gpu", "integrations", "library", "which_average", "troubleshooting")
PAGES = {name: (REPOSITORY / f"docs/{name}.md").read_text(encoding="utf-8") for name in NAMES}
PLACEHOLDER = "…"


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.S)


def test_every_block_is_of_a_kind_that_is_tested_here():
    kinds = {kind for page in PAGES.values() for kind in re.findall(r"```(\w+)\n", page)}
    assert kinds == {"bash", "diff", "python", "yaml"}


@pytest.mark.parametrize("page", ["gpu", "integrations", "library", "which_average"])
def test_each_python_block_works_beside_the_ones_before_it(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    paddle.seed(1)
    norm = paddle.nn.BatchNorm1D(8)
    namespace = {
        "model": paddle.nn.Sequential(paddle.nn.Linear(4, 8), norm),
        "loader": [paddle.randn([4, 4]) for _ in range(3)],
    }
    found = blocks(page, "python")
    assert found
    for text in found:
        exec(text, namespace)  # noqa: S102
    if page == "library":
        # What it shows beside a print is what is printed.
        shown = re.search(r"print\(error\)  # (.*?)…", PAGES[page])[1]
        assert shown in capsys.readouterr().out
        assert namespace["swa"].num_points == 3


def test_the_library_page_shows_every_public_name_and_its_signature():
    page = PAGES["library"]
    make = runpy.run_path(str(REPOSITORY / "tools/make_schema.py"))["library_text"]
    assert page == make(), "run python tools/make_schema.py"
    code = "\n".join(blocks("library", "python"))
    for name in set(ppema.__all__) - {"__version__"}:
        assert f"ppema.{name}" in code
        assert f"| `{name}` |" in page
    assert "ppema.__version__" in page


def test_the_library_page_has_every_method_of_an_average():
    table = PAGES["library"].partition("| method | what it does |")[2].partition("\n\n")[0]
    shown = set(re.findall(r"`(\w+)[(`]", table))
    public = {name for name in dir(ppema.WeightAverage) if not name.startswith("_")}
    # Of the toolkit, and the model itself.
    assert public - shown == {
        "checks_finite",
        "first_step",
        "is_attached_to",
        "model",
        "recomputes",
    }
    assert shown - public == set()


@pytest.mark.parametrize("page", ["gpu", "which_average"])
def test_each_yaml_block_is_a_config(page, tmp_path):
    base = yaml.safe_load((REPOSITORY / "configs/lenet_mnist.yml").read_text())
    base.update(yaml.safe_load((REPOSITORY / "configs/lenet_digits.yml").read_text()))
    base["_BASE_"] = [str(REPOSITORY / f"configs/_base_/{n}.yml") for n in ("runtime", "mnist")]
    del base["Averages"]
    (tmp_path / "base.yml").write_text(yaml.safe_dump(base))
    found = blocks(page, "yaml")
    assert found
    for text in found:
        (tmp_path / "run.yml").write_text(f"_BASE_: base.yml\n{text}")
        config = builder.read_config(str(tmp_path / "run.yml"), [])
        builder.check(config)


@pytest.mark.parametrize("page", NAMES)
def test_each_command_works_in_the_order_given(page, run_tool, monkeypatch, tmp_path):
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    for line in "".join(blocks(page, "bash")).splitlines():
        words = shlex.split(line)
        while "=" in words[0]:
            monkeypatch.setenv(*words.pop(0).split("=", 1))
        assert words[0] == ".venv/bin/python"
        short = ["TrainReader.batch_size=512", "use_vdl=false", "epoch=1"] if "-o" in words else []
        result = run_tool(Path(words[1]).stem, *words[2:], *short)
        assert (result.code, result.err) == (0, ""), line


@pytest.mark.parametrize(
    ("old", "module", "name"),
    [
        ("ppdet.optimizer", paddledetection, "ModelEMA"),
        ("ppcls.utils.ema", paddleclas, "ExponentialMovingAverage"),
    ],
)
def test_the_changed_import_is_one_line_and_what_it_imports_is_there(old, module, name):
    (block,) = [b for b in blocks("integrations", "diff") if old in b]
    assert block == f"-from {old} import {name}\n+from {module.__name__} import {name}\n"
    assert callable(getattr(module, name))


@pytest.mark.parametrize("page", NAMES)
def test_the_files_it_names_are_there(page):
    for path in re.findall(r"`((?:tests|tools|configs|examples|docs)/[\w/.]+)`", PAGES[page]):
        assert (REPOSITORY / path).exists(), path


# Messages. A name or figure in one is a placeholder, in the code and on the page.


def message_of(node):
    """Return the text of an expression, with a placeholder for what is filled in; None for none."""
    if isinstance(node, ast.Constant):
        # What logging fills in.
        return (
            re.sub(r"%[.\d]*[sdrfg]", PLACEHOLDER, node.value)
            if isinstance(node.value, str)
            else None
        )
    if isinstance(node, ast.JoinedStr):
        return "".join(message_of(part) or PLACEHOLDER for part in node.values)
    if isinstance(node, ast.BinOp):
        sides = message_of(node.left), message_of(node.right)
        return "".join(side or PLACEHOLDER for side in sides) if any(sides) else None
    return None


def messages():
    """Return every text in the code, and each message that an ArgumentError makes."""
    found = set()
    for path in [*(REPOSITORY / "ppema").rglob("*.py"), *(REPOSITORY / "tools").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found.add(message_of(node) or "")
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ArgumentError":
                argument, requirement = (message_of(part) or PLACEHOLDER for part in node.args[:2])
                found.add(f"{argument} must be {requirement}, got {PLACEHOLDER}")
    return {normal(text) for text in found}


def normal(text):
    return re.sub(f"{PLACEHOLDER}+", PLACEHOLDER, text.replace("%%", "%"))


def quoted(page):
    rows = re.findall(r"^\| (`[^|]+`) \|", PAGES[page], re.M)
    return [row.strip("`") for row in rows]


@pytest.fixture(scope="module")
def known_messages():
    return messages()


@pytest.mark.parametrize("message", quoted("troubleshooting"))
def test_each_quoted_message_is_one_that_the_code_says(message, known_messages):
    parts = [re.escape(part.strip()) for part in normal(message).split(PLACEHOLDER)]
    # What stands for a name on the page may be spelt out in the code, such as an argument.
    pattern = re.compile(".{0,40}?".join(parts), re.S)
    assert max(len(part) for part in message.split(PLACEHOLDER)) >= 6
    assert [text for text in known_messages if pattern.search(text)], message


def test_a_message_that_nothing_says_would_be_found(known_messages):
    assert len(quoted("troubleshooting")) >= 50
    assert not [text for text in known_messages if "the average is gone for good" in text]


def test_the_message_of_paddle_is_what_it_says():
    model = paddle.nn.Sequential(paddle.nn.Linear(2, 2), paddle.nn.Linear(2, 2))
    average = ppema.ExponentialMovingAverage(model)
    loss = model(paddle.ones([1, 2])).sum()
    (message,) = re.findall(r"Paddle's own `([^`]+)`", PAGES["troubleshooting"])
    with average.average_parameters(), pytest.raises(RuntimeError, match=re.escape(message)):
        loss.backward()
