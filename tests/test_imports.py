"""Imports run downwards only: tools, builder, engine, checkpoint and averaging, Paddle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "ppema"

# What each part of the package may import of ppema, beside itself.
ALLOWED = {
    "averaging": set(),
    "errors": set(),
    "fast_cpu": set(),
    "models": set(),
    "optim": {"averaging"},
    "metrics": set(),
    "plots": {"checkpoint", "errors"},
    "console": {"errors"},
    "config": {"errors"},
    "data": {"errors"},
    "checkpoint": {"errors", "averaging"},
    "engine": {"errors", "averaging", "checkpoint", "fast_cpu", "metrics", "plots"},
    "hapi": {"errors", "averaging", "checkpoint"},
    "builder": {
        *("errors", "averaging", "checkpoint", "config", "data", "engine", "models", "optim"),
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
