"""What a study file may say; what it may not is told with its file and line."""

from __future__ import annotations

import pytest

from ppema.errors import ConfigError
from ppema.study import read_study

GOOD = """\
base: ../base.yml
set: [epoch=3, validation=0.1]
axes:
  noise: {clean: {}, 40 %: {label_noise: 0.4}}
  rate:
    cosine: {LearningRate.schedulers: [{name: CosineAnnealingDecay, T_max: 100 %}]}
seeds: [0, 2]
reference: {rate: cosine, weights: ema}
metric: loss
reach: [0.98, 0.9]
posthoc: [0.05, 0.1]
"""


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Return a function that reads a study of some text, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yml").write_text("")
    (tmp_path / "studies").mkdir()

    def write_and_read(text):
        (tmp_path / "studies/some.yml").write_text(text)
        return read_study("studies/some.yml")

    return write_and_read


def test_it_is_read_with_its_overrides_as_an_option_takes_them(read):
    study = read(GOOD)
    assert (study.name, study.base, study.text) == ("some", "base.yml", GOOD)
    assert list(map(str, study.overrides)) == ["epoch=3", "validation=0.1"]
    assert {axis: list(labels) for axis, labels in study.axes.items()} == {
        "noise": ["clean", "40 %"],
        "rate": ["cosine"],
    }
    assert list(map(str, study.axes["noise"]["40 %"])) == ["label_noise=0.4"]
    (rate,) = map(str, study.axes["rate"]["cosine"])
    assert rate == 'LearningRate.schedulers=[{name: CosineAnnealingDecay, T_max: "100 %"}]'
    assert (study.reference.labels, study.reference.weights) == ({"rate": "cosine"}, "ema")
    assert (study.metric, study.checkpoint, study.reach) == ("loss", "last", [0.98, 0.9])
    assert (study.seeds, study.posthoc) == ([0, 2], [0.05, 0.1])


def test_what_is_left_out_has_its_default(read):
    study = read("base: ../base.yml\nseeds: [3]\n")
    assert (study.overrides, study.axes, study.posthoc, study.reach) == ([], {}, [], [])
    assert (study.reference.labels, study.reference.weights) == ({}, "raw")
    assert (study.metric, study.checkpoint) == ("top1", "last")


def test_a_mapping_of_overrides_is_the_same_as_a_list(read):
    listed = read("base: ../base.yml\nseeds: [0]\nset: [epoch=3, save=x]\n")
    mapped = read("base: ../base.yml\nseeds: [0]\nset: {epoch: 3, save: x}\n")
    assert list(map(str, listed.overrides)) == list(map(str, mapped.overrides))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("metric: loss", "metrik: loss", ":9: unknown key 'metrik'; did you mean 'metric'?"),
        ("metric: loss", "use_ema: true", ":9: unknown key 'use_ema'; known are base, "),
        ("metric: loss", "metric: top2", ":9: metric must be one of top1, loss, ece, got 'top2'"),
        ("seeds: [0, 2]\n", "", ": 'seeds' is missing"),
        ("[0, 2]", "[]", ":7: seeds must be different whole numbers from 0 to 4294967295, got []"),
        (
            "[0, 2]",
            "[1, 1]",
            ":7: seeds must be different whole numbers from 0 to 4294967295, got [1, 1]",
        ),
        (
            "[0, 2]",
            "[-1]",
            ":7: seeds must be different whole numbers from 0 to 4294967295, got [-1]",
        ),
        ("[0, 2]", "[4294967296]", ":7: seeds must be different whole numbers from 0 to 429496729"),
        ("[0, 2]", "5", ":7: seeds must be a list, got 5"),
        (
            "0.98",
            "98",
            ":10: reach must be different shares in (0, 1], such as 0.985, got [98.0, 0.9]",
        ),
        (
            "0.98",
            "0.9",
            ":10: reach must be different shares in (0, 1], such as 0.985, got [0.9, 0.9]",
        ),
        ("[0.05, 0.1]", "[0.1, 0.1]", ":11: posthoc must be different widths above 0, got "),
        ("[0.05, 0.1]", "[0]", ":11: posthoc must be different widths above 0, got [0.0]"),
        ("../base", "base", ":1: base names 'studies/base.yml', and there is no such file"),
        ("epoch=3", "epoch", ":2: set.0 must be KEY=VALUE, such as epoch=3, got 'epoch'"),
        ("[epoch=3, validation=0.1]", "3", ":2: set must be a mapping of config keys to values, "),
        ("epoch=3", "seed=3", ":2: set sets 'seed', which the study gives each run"),
        ("label_noise: 0.4", "save_dir: x", ":4: axes.noise.40 % sets 'save_dir', which the "),
        ("clean: {}", "clean: 1", ":4: axes.noise.clean must be a mapping, got 1"),
        ("  noise: {clean: {}, 40 %: {label_noise: 0.4}}", "  noise: {}", ":4: axes.noise has no"),
        ("  noise:", "  weights:", ":4: an axis cannot be named 'weights'"),
        ("rate: cosine,", "rat: cosine,", ":8: reference: there is no axis 'rat'; did you mean "),
        ("rate: cosine,", "rate: sine,", ":8: reference: axis rate has no label 'sine'; did you "),
        ("clean: {}", "clean: {}, clean: {}", ":4: 'clean' is given twice (first on line 4)"),
        ("metric: loss", "metric: &a loss", ":9: anchors and aliases (&, *, <<) are not allowed"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(read, old, new, message):
    assert GOOD.count(old) == 1
    with pytest.raises(ConfigError) as caught:
        read(GOOD.replace(old, new))
    assert str(caught.value).startswith(f"studies/some.yml{message}")
