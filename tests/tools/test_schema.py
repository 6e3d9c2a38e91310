"""The committed JSON Schema is the one that the classes give, and the shipped configs fit it."""

from __future__ import annotations

import json
import runpy

import jsonschema
import pytest
import yaml
from in_process import REPOSITORY

# Studies have keys of their own.
CONFIGS = sorted(
    path for path in REPOSITORY.glob("configs/**/*.yml") if path.parent.name != "studies"
)


def test_the_committed_schema_is_current():
    generated = runpy.run_path(str(REPOSITORY / "tools/make_schema.py"))["schema_text"]()
    assert (REPOSITORY / "configs/schema.json").read_text() == generated


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_shipped_configs_fit_the_schema(path):
    schema = json.loads((REPOSITORY / "configs/schema.json").read_text())
    config = yaml.safe_load(path.read_text())
    assert list(jsonschema.Draft202012Validator(schema).iter_errors(config)) == []


@pytest.mark.parametrize("name", [path.stem for path in CONFIGS if path.parent.name == "configs"])
def test_the_shipped_configs_pass_their_check(run_tool, config, name):
    result = run_tool("train", "-c", config(name), "--check")
    assert result.code == 0, result.err
