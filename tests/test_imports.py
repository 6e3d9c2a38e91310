"""Imports run downwards only: tools, builder, engine, checkpoint and averaging, Paddle."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ppema"

# Each takes from a thirtieth to a third of a second to import, and not every run needs it.
SLOW = {"matplotlib", "numba", "pandas", "requests", "scipy", "sklearn", "visualdl"}

# What each part of the package may import of ppema, beside itself.
ALLOWED = {
    "averaging": set(),
    "errors": set(),
    "fast_cpu": set(),
    "models": {"averaging", "signatures"},
    "optim": {"averaging"},
    "schedules": {"averaging", "signatures"},
    "signatures": set(),
    "calibration": set(),
    "machine": {"__version__"},
    "metrics": {"calibration"},
    "plots": {"calibration", "checkpoint", "errors"},
    "progress": set(),
    "console": {"errors", "launch", "progress", "stop_signals"},
    "run_lock": {"errors"},
    "launch": set(),
    "nearby": set(),
    "config": {"errors", "nearby"},
    "stop_signals": set(),
    "data": {"errors", "nearby", "progress", "stop_signals"},
    "checkpoint": {"errors", "averaging"},
    "engine": {
        *("errors", "averaging", "checkpoint", "fast_cpu", "metrics", "plots", "progress"),
        *("calibration", "nearby", "ranking", "run_lock", "stop_signals"),
    },
    "hapi": {"errors", "averaging", "checkpoint"},
    "integrations": {"averaging"},
    "ranking": {"errors"},
    "annotate": {"checkpoint", "data", "ranking"},
    "export": {"__version__", "errors", "checkpoint", "config", "data", "ranking"},
    "builder": {
        *("errors", "averaging", "checkpoint", "config", "data", "engine", "models", "optim"),
        *("launch", "metrics", "plots", "progress", "ranking", "schedules", "stop_signals"),
    },
    "study": {
        *("__version__", "builder", "calibration", "checkpoint", "config", "console", "data"),
        *(
            "engine",
            "errors",
            "fast_cpu",
            "machine",
            "metrics",
            "plots",
            "progress",
            "run_lock",
            "stop_signals",
        ),
    },
    "__init__": {"averaging"},
}


def imported_parts(path):
    """Return the parts of ppema that a module imports, by relative or absolute name."""
    package = ["ppema", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            module = node.module.split(".") if node.module else []
            names = [[*base, *(module or [alias.name])] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module.split(".")]
        else:
            continue
        yield from (name[1] for name in names if name[0] == "ppema" and len(name) > 1)


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_run_downwards_only(part):
    paths = [*PACKAGE.glob(f"{part}.py"), *PACKAGE.glob(f"{part}/**/*.py")]
    assert paths
    found = {name for path in paths for name in imported_parts(path)}
    assert found <= ALLOWED[part] | {part}


def test_every_part_has_its_rule():
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert parts - {"__pycache__"} == set(ALLOWED)


@pytest.mark.parametrize("call", ["paddle.load(", "pickle.load(", "pickle.loads(", "yaml.load("])
def test_only_the_strict_readers_read_files(call):
    offenders = [path for path in PACKAGE.rglob("*.py") if call in path.read_text()]
    assert offenders == []


def modules_of(*arguments):
    """Return what a fresh process imports, in order."""
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-X", "importtime", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    return re.findall(r"^import time:.*\| +(\S+)$", found.stderr, re.MULTILINE)


@pytest.fixture(scope="module")
def by_paddle():
    """Return what Paddle imports itself."""
    found = set(modules_of("-c", "import paddle"))
    assert "numpy" in found
    return found


def test_the_averages_need_paddle_and_numpy_and_nothing_else_that_is_slow(by_paddle):
    added = set(modules_of("-c", "import paddle, ppema.averaging")) - by_paddle
    assert "ppema.averaging.shadow" in added
    assert {name for name in added if name.startswith("ppema.")} == {
        name for name in added if re.match(r"ppema\.averaging(\.|$)", name)
    }
    assert not {name.split(".")[0] for name in added} & {*SLOW, "yaml", "PIL", "paddle"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", "import ppema"],
        ["tools/train.py", "-c", "any.yml", "--nonsense"],
        ["tools/eval.py"],
        ["tools/infer.py", "-c", "any.yml"],
        ["tools/export_model.py", "-c", "any.yml", "--nonsense"],
        ["tools/average.py", "soup", "a.pdparams", "--greedy"],
    ],
)
def test_what_can_be_said_without_paddle_does_not_wait_for_it(arguments):
    loaded = {name.split(".")[0] for name in modules_of(*arguments)}
    assert "ppema" in loaded
    assert not loaded & {*SLOW, "paddle", "numpy", "yaml"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["tools/train.py", "-c", "configs/lenet_mnist.yml", "--check"],
        ["-c", "import ppema.builder, ppema.engine.evaluate, ppema.engine.weights"],
    ],
)
def test_a_tool_imports_what_is_slow_only_where_it_is_used(arguments, by_paddle):
    loaded = set(modules_of(*arguments))
    assert {"ppema", "paddle", "yaml"} <= loaded
    assert not {name.split(".")[0] for name in loaded - by_paddle} & SLOW
