"""A path that is not there is answered with the one that is."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppema.config.strict_yaml import read_yaml
from ppema.data.picture_lists import pictures_of_folder, pictures_of_list
from ppema.engine.resume import find_checkpoint
from ppema.engine.weights import find_weights
from ppema.errors import CheckpointError, ConfigError, DataError
from ppema.nearby import near_path


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output/lenet").mkdir(parents=True)
    (tmp_path / "output/old.pdparams").write_bytes(b"")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures.txt").write_text("a.png\n")
    (tmp_path / "run.yml").write_text("epoch: 1\n")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("output/lnet", "output/lenet"),
        ("ouput/lenet", "output/lenet"),
        ("ouput/lenet/nothing/such", "output"),
        ("output/odl.pdparams", "output/old.pdparams"),
        ("Run.yml", "run.yml"),
    ],
)
def test_the_nearest_path_is_said(typed, meant):
    assert near_path(typed) == f"; did you mean {meant}?"


@pytest.mark.parametrize("typed", ["", "zzz", "run.yml/x", "\0", "runn.yml/epoch"])
def test_nothing_is_said_where_nothing_is_near(typed):
    assert near_path(typed) == ""


def test_a_folder_is_not_answered_with_a_file():
    assert near_path("pictures.tx", only_folders=True) == "; did you mean pictures?"
    assert near_path("run.ym", only_folders=True) == ""


def test_a_name_that_is_no_line_is_not_said(tmp_path):
    (tmp_path / "weig\nhts").mkdir()
    assert near_path("weights") == ""


@pytest.mark.parametrize(
    ("look", "error", "meant"),
    [
        (lambda: read_yaml("runn.yml"), ConfigError, "run.yml"),
        (lambda: pictures_of_folder("pictrues"), DataError, "pictures"),
        (lambda: pictures_of_list("pictrues.txt"), DataError, "pictures.txt"),
        (lambda: find_weights("output/lent", None, "all"), CheckpointError, "output/lenet"),
        (lambda: find_checkpoint(Path("output/lent")), CheckpointError, "output/lenet"),
    ],
)
def test_each_place_that_takes_a_path_says_it(look, error, meant):
    with pytest.raises(error, match=rf"; did you mean {meant}\?$"):
        look()
