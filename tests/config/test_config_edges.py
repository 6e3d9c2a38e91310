"""What reaches the config from odd files, odd command lines and odd classes of a user's own."""

from __future__ import annotations

import json
import sys
from typing import Literal, Optional, Tuple

import jsonschema
import pytest
from config_catalog import CATALOG, GOOD

from ppema.config import Choices, ConfigError, json_schema, load_config, render
from ppema.config.strict_yaml import MAX_KEY


class Untyped:
    def __init__(self, hidden=64, rate=0.5):
        pass


class ProseHint:
    def __init__(self, shape: "N by C" = None):  # noqa: F722
        pass


class ListHint:
    def __init__(self, shape: [int] = None):
        pass


class NewUnion:
    def __init__(self, width: int | None = None):
        pass


class Pairs:
    def __init__(self, size: Tuple[int, str] = (1, "a"), sizes: Tuple[int, ...] = ()):
        pass


class Level:
    def __init__(self, level: Literal[1, 2] = 1):
        pass


class OwnName:
    def __init__(self, name: Optional[str] = None, width: int = 1):
        pass


class OddDefault:
    def __init__(self, width: int = 1, key=object(), **others):  # noqa: B008
        pass


CLASSES = (Untyped, ProseHint, ListHint, NewUnion, Pairs, Level, OwnName, OddDefault)
MODELS = {**CATALOG, "Model": Choices({cls.__name__: cls for cls in CLASSES})}


@pytest.fixture
def load(tmp_path):
    """Return a function that loads GOOD with another Model section, and overrides."""

    def load_model(model, *overrides, catalog=MODELS):
        content = GOOD.replace("{name: LeNet, num_classes: 10}", model)
        (tmp_path / "main.yml").write_text(content, encoding="utf-8")
        return load_config(str(tmp_path / "main.yml"), overrides, catalog)

    return load_model


@pytest.fixture
def refusal(load, tmp_path):
    """Return a function like `load` that gives the message of the refusal."""

    def message_of(model, *overrides, catalog=MODELS):
        with pytest.raises(ConfigError) as caught:
            load(model, *overrides, catalog=catalog)
        text = str(caught.value)
        assert "\n" not in text
        return text.replace(f"{tmp_path}/", "")

    return message_of


def test_a_number_for_an_untyped_argument_keeps_its_type(load):
    arguments = load("{name: Untyped, hidden: 128, rate: 1}").Model.arguments
    assert [type(value) for value in arguments.values()] == [int, int]
    assert type(load("{name: Untyped, hidden: 1e2}").Model.arguments["hidden"]) is float


@pytest.mark.parametrize("name", ["ProseHint", "ListHint"])
def test_a_hint_that_is_no_type_checks_nothing(load, name):
    assert load(f"{{name: {name}, shape: [1, 2]}}").Model.arguments == {"shape": [1, 2]}


@pytest.mark.skipif(sys.version_info < (3, 10), reason="Python 3.9 cannot evaluate int | None")
def test_a_union_written_with_a_bar_is_checked(load, refusal):
    assert load("{name: NewUnion, width: null}").Model.arguments == {"width": None}
    text = refusal("{name: NewUnion, width: wide}")
    assert text == "main.yml:6: Model.width must be a whole number, got 'wide'"
    schema = json_schema(MODELS)["properties"]["Model"]["then"]["anyOf"]
    width = next(s["properties"]["width"] for s in schema if "width" in s["properties"])
    assert width["anyOf"] == [{"type": "integer"}, {"type": "null"}]


def test_tuples_are_tuples_of_the_right_length(load, refusal):
    assert load("{name: Pairs, size: [3, x], sizes: [1, 2, 3]}").Model.arguments == {
        "size": (3, "x"),
        "sizes": (1, 2, 3),
    }
    text = refusal("{name: Pairs, size: [3]}")
    assert text == "main.yml:6: Model.size must be a list of 2, got a list"
    assert "Model.size.1 must be text, got 3" in refusal("{name: Pairs, size: [3, 3]}")


@pytest.mark.parametrize("value", ["true", "1.0"])
def test_a_choice_of_numbers_takes_no_other_type(refusal, value):
    assert "Model.level must be one of 1, 2" in refusal(f"{{name: Level, level: {value}}}")


def test_name_is_the_class_even_where_it_is_a_parameter(load):
    assert load("{name: OwnName, width: 2}").Model.arguments == {"width": 2}
    good = {"Model": {"name": "OwnName", "width": 2}}
    validator = jsonschema.Draft202012Validator(json_schema({**MODELS, "Model": _only(OwnName)}))
    assert list(validator.iter_errors(good)) == []
    assert list(validator.iter_errors({"Model": {"name": "OwnNam", "width": 2}}))


def test_the_json_schema_can_be_written_whatever_the_defaults(load):
    schema = json.loads(json.dumps(json_schema({**MODELS, "Model": _only(OddDefault)})))
    validator = jsonschema.Draft202012Validator(schema)
    assert list(validator.iter_errors({"Model": {"name": "OddDefault", "more": 3}})) == []
    assert list(validator.iter_errors({"Model": {"name": "OddDefault", "width": "x"}}))


def test_the_json_schema_knows_how_averages_may_be_named():
    validator = jsonschema.Draft202012Validator(json_schema(CATALOG))
    assert list(validator.iter_errors({"Averages": {"ema_2": {"name": "Average"}}})) == []
    assert list(validator.iter_errors({"Averages": {"../x": {"name": "Average"}}}))


def _only(cls):
    return Choices({cls.__name__: cls})


def test_a_module_that_ends_the_process_is_an_import_that_failed(refusal, tmp_path, monkeypatch):
    (tmp_path / "script_without_guard.py").write_text("raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = refusal("{name: script_without_guard.Net}")
    assert text == "main.yml:6: Model.name: cannot import 'script_without_guard.Net': 0"


def test_a_name_that_a_module_lacks_is_answered_with_the_nearest(refusal, tmp_path, monkeypatch):
    (tmp_path / "nets_of_mine.py").write_text("import os\nclass SmallNet: pass\ndef sum(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = refusal("{name: nets_of_mine.SmalNet}")
    assert text.endswith("has no attribute 'SmalNet'; did you mean 'SmallNet'?")
    text = refusal("{name: nets_of_mine.Zoo}")
    assert text.endswith("has no attribute 'Zoo'; known are SmallNet, sum")


def test_naming_the_class_keeps_arguments_that_had_none(load):
    config = load("{num_classes: 7}", "Model.name=LeNet", catalog=CATALOG)
    assert config.Model.arguments == {"num_classes": 7}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1: x", "a key must be text, got 1; put it in quotes"),
        ("null: x", "a key must be text, got null; put it in quotes"),
        ('"": x', f"a key must be 1 to {MAX_KEY} printable characters"),
        ('"a\\nb": x', f"a key must be 1 to {MAX_KEY} printable characters"),
        (f"? {'k' * (MAX_KEY + 1)}\n : x", f"a key must be 1 to {MAX_KEY} printable characters"),
        ("a: *.bias", "anchors and aliases (&, *, <<) are not allowed"),
        ("a: &.bias", "anchors and aliases (&, *, <<) are not allowed"),
        ('a: "\\0"', "NUL and lone surrogates are not allowed in text"),
        ("a: b\x07", "control character '\\x07' is not allowed"),
        ("a: b\ufeff", "control character '\\ufeff' is not allowed"),
    ],
)
def test_what_yaml_would_take_and_a_config_does_not(refusal, text, message):
    assert refusal(f"{{name: LeNet, {text}}}", catalog=CATALOG) == f"main.yml:6: {message}"


def test_a_tab_that_yaml_takes_within_brackets_is_refused(refusal):
    text = refusal("{name: LeNet,\n\ta: 1}", catalog=CATALOG)
    assert text == "main.yml:7: indented with a tab; use spaces"


def test_a_tab_within_a_line_is_only_space(load):
    assert load("{name: LeNet, a: 1} #\tnote", catalog=CATALOG).Model.arguments == {"a": 1}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a\nb", "-o a\\nb: must be KEY=VALUE, such as Averages.ema.decay=0.999"),
        ("a\nb=1", "-o a\\nb=1: must be KEY=VALUE, such as Averages.ema.decay=0.999"),
        ("x" * 500, f"-o {'x' * 60}…: must be KEY=VALUE, such as Averages.ema.decay=0.999"),
        ("Model.a=\udcff", "-o Model.a: NUL and lone surrogates are not allowed in text"),
        ("Model.a=[\udcff]", "-o Model.a: control character '\\udcff' is not allowed"),
        ("Model.a=" + "[" * 19 + "]" * 19, "-o Model.a: nested deeper than 20 levels"),
    ],
)
def test_an_override_no_file_could_hold_is_refused(refusal, override, message):
    assert refusal("{name: LeNet}", override, catalog=CATALOG) == message


def test_an_index_of_a_list_is_written_as_one_writes_it(refusal):
    schedulers = "LearningRate.schedulers=[{name: StepDecay}]"
    for index in ("1", "-1", "00", "²", "9" * 70):
        text = refusal("{name: LeNet}", schedulers, f"LearningRate.schedulers.{index}.gamma=1")
        assert "is a list of 1" in text


def test_long_values_are_cut_in_messages(refusal):
    text = refusal("{name: LeNet}", f"epoch={'x' * 5000}", catalog=CATALOG)
    assert text == f"-o epoch: epoch must be a whole number, got '{'x' * 59}…"


def test_bases_that_double_at_each_level_are_refused(tmp_path):
    for level in range(15):
        text = f"_BASE_: [{level + 1}.yml, {level + 1}.yml]\n"
        (tmp_path / f"{level}.yml").write_text(text)
    (tmp_path / "15.yml").write_text("epoch: 1\n")
    with pytest.raises(ConfigError, match=r"0\.yml: based on more than 100 files$"):
        load_config(str(tmp_path / "0.yml"), [], CATALOG)


@pytest.mark.parametrize(
    "text", ["😀", "-", "--", "a\x85b\u2028c\x1f", "\\ud83d", 'q"\\', "...", ""]
)
def test_any_text_survives_a_dump(load, tmp_path, text):
    config = load("{name: LeNet}", catalog=CATALOG)
    config.Model.arguments.update({"text": text, "texts": [text]})
    (tmp_path / "again.yml").write_text(config.dump(), encoding="utf-8")
    assert load_config(str(tmp_path / "again.yml"), [], CATALOG).Model == config.Model


def test_a_dump_under_another_file_name_is_an_equal_config(load, tmp_path):
    config = load("{name: LeNet}", catalog=CATALOG)
    (tmp_path / "config.yml").write_text(config.dump())
    assert load_config(str(tmp_path / "config.yml"), [], CATALOG) == config


def test_check_shows_the_origin_of_each_value_in_a_list_of_sections(load):
    config = load(
        "{name: LeNet}",
        "LearningRate.schedulers=[{name: StepDecay, gamma: 0.1}]",
        "LearningRate.schedulers.0.gamma=0.5",
        catalog=CATALOG,
    )
    lines = [line.split(" #") for line in render(config).splitlines()]
    comments = {text.strip(): comment.strip() for text, comment in lines}
    assert comments["- name: StepDecay"] == "-o LearningRate.schedulers"
    assert comments["gamma: 0.5"] == "-o LearningRate.schedulers.0.gamma"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("worker_num", "'worker_num' is written in the readers here: TrainReader: "),
        ("TestReader", "'TestReader' is written as a section here: EvalReader: "),
        ("num_classes", "'num_classes' is an argument of the model here: Model: "),
        ("cycle_epoch", "'cycle_epoch' has no counterpart here: "),
        ("ema_decay_type", "'ema_decay_type' is written as a section here: Averages: "),
        ("ema_filter_no_grad", "'ema_filter_no_grad' is not needed here: "),
        ("AMP", "'AMP' is one key here: amp: O1"),
        ("Arch", "'Arch' is written as a section here: Model: "),
        ("DataLoader", "'DataLoader' is four sections here: TrainDataset, "),
        ("Metric", "'Metric' is not needed here: "),
    ],
)
def test_a_key_of_paddle_detection_or_paddle_clas_is_told_how_it_is_said_here(
    refusal, key, message
):
    text = refusal("{name: LeNet}", f"{key}=1", catalog=CATALOG)
    assert text.startswith(f"-o {key}: {message}")


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 1_000_000, "- " * 500_000, "? " * 500_000, "!" * 1_000_000, "\n" * 1_000_000),
        *("\t" * 1_000_000, "# c\n" * 250_000, "a: [" + "1," * 500_000, '"' + "\n" * 1_000_000),
        *("a: x\n" * 200_000, "a: '" + "''" * 500_000 + "'", "a: |\n" + " x\n" * 300_000),
        *("\n".join(f"k{i}: 1" for i in range(24_000)), "epoch: " + "1" * 1_000_000),
    ],
    ids=range(14),
)
def test_no_dense_file_is_more_than_a_refusal(tmp_path, text):
    path = tmp_path / "dense.yml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(str(path), [], CATALOG)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 500
