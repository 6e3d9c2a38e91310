"""What a config becomes: merged, typed, with the origin of each value, and written back."""

from __future__ import annotations

import json

import jsonschema
import pytest
from config_catalog import CATALOG, GOOD, Average, Digits, Rounding

from ppema.config import ConfigError, json_schema, load_config, render
from ppema.config.strict_yaml import parse_yaml, resolve_scalar


@pytest.fixture
def load(tmp_path):
    """Return a function that loads GOOD, or files given by name, with overrides."""

    def load_files(*overrides, **files):
        for name, content in ({"main": GOOD} | files).items():
            (tmp_path / f"{name}.yml").write_text(content)
        return load_config(str(tmp_path / "main.yml"), overrides, CATALOG)

    return load_files


def test_values_are_typed_and_defaults_filled_in(load):
    config = load()
    assert (config.epoch, config.name) == (5, "main")
    assert config.TrainReader.batch_size == 64
    assert config.TrainReader.shuffle is True
    assert config.Averages["ema"].cls is Average
    assert config.Averages["ema"].arguments == {"decay": 0.999}
    assert config.TrainDataset.cls is Digits
    assert config.LearningRate.base_lr == 0.001
    assert (config.use_gpu, config.keep_checkpoint_max, config.amp) == ("auto", 3, "off")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1e-3", 1e-3), ("010", 10), ("0o17", 15), ("0x1F", 31), ("-5", -5), (".5", 0.5)),
        *(("yes", "yes"), ("off", "off"), ("1_000", "1_000"), ("1:30", "1:30"), ("~", None)),
        *(("true", True), ("NULL", None), (".inf", float("inf")), ("5.", 5.0), ("+1E2", 100.0)),
    ],
)
def test_plain_scalars_mean_what_yaml_1_2_says(text, value):
    found = resolve_scalar(text)
    assert (found, type(found)) == (value, type(value))


def test_quoted_scalars_are_text():
    assert parse_yaml("'1e-3'", "x").value == "1e-3"


def test_children_merge_over_bases_and_lists_replace(load):
    config = load(
        main="_BASE_: [low, high.yml]\nAverages: {b: {name: Average, exclude: [z]}}\n".replace(
            "low", "low.yml"
        ),
        low=GOOD.replace("decay: 0.999", "decay: 0.9, exclude: [x, y]"),
        high="epoch: 7\nAverages: {ema: {exclude: [w]}}\n",
    )
    assert config.epoch == 7
    assert config.Averages["ema"].arguments == {"decay": 0.9, "exclude": ["w"]}
    assert config.Averages["b"].arguments == {"exclude": ["z"]}
    assert str(config.origin("epoch")).endswith("high.yml:1")
    assert str(config.origin("Averages.ema.decay")).endswith("low.yml:13")


def test_another_class_drops_the_arguments_of_the_first(load):
    config = load(main="_BASE_: low.yml\nModel: {name: Other}\n", low=GOOD)
    assert (config.Model.name, config.Model.arguments) == ("Other", {})
    config = load("Model.depth=3", "Model.name=Other")
    assert config.Model.arguments == {"depth": 3}
    assert load("Model.name=LeNet").Model.arguments == {"num_classes": 10}


def test_overrides_are_typed_by_the_schema(load):
    config = load(
        "epoch=2",
        "LearningRate.base_lr=1e-3",
        "TrainDataset.dataset_dir=2024",
        "Averages.slow={name: Average, decay: 0.9999}",
        "LearningRate.schedulers=[{name: StepDecay, gamma: 0.1}]",
        "LearningRate.schedulers.0.gamma=0.5",
        "save_dir='a = b'",
    )
    assert config.epoch == 2
    assert config.LearningRate.base_lr == 1e-3
    assert config.TrainDataset.arguments["dataset_dir"] == "2024"
    assert config.Averages["slow"].arguments == {"decay": 0.9999}
    assert config.LearningRate.schedulers[0].arguments == {"gamma": 0.5}
    assert config.save_dir == "a = b"


def test_a_user_s_own_class_is_named_by_import_path(load):
    config = load("TrainDataset={name: config_catalog.Digits, mode: train}")
    assert config.TrainDataset.cls is Digits


def test_errors_of_constructors_get_the_line_of_their_key(load, tmp_path):
    config = load("epoch=2")
    place = f"{tmp_path}/main.yml"
    assert str(config.error("Averages.ema.decay", "m")) == f"{place}:13: m"
    assert str(config.error("Averages.ema.buffers", "m")) == f"{place}:13: m"
    assert str(config.error("epoch", "m")) == "-o epoch: m"
    assert str(config.error("use_gpu", "m")) == f"{place}: m"


AWKWARD = (
    "save_dir='a b: #1'",
    "Model.text='1e-3'",
    "Model.list=[1, 'x', {a: .inf}]",
    "Model.empty={}",
    "Model.words=['yes', 'null', '']",
    "Model.unicode='学习\\n\"'",
)


def test_a_section_that_may_be_left_out_is_set_changed_and_taken_away(load):
    assert load().Rounding is None
    assert load().values()["Rounding"] is None
    of_four = load("Rounding={name: Rounding}", "Rounding.bits=4")
    assert (of_four.Rounding.cls, of_four.Rounding.arguments) == (Rounding, {"bits": 4})
    assert of_four.values()["Rounding"] == {"name": "Rounding", "bits": 4}
    assert load("Rounding={name: Rounding}", "Rounding=null").Rounding is None


def test_a_dump_reads_back_as_the_same_config(load, tmp_path):
    config = load(*AWKWARD, "Rounding={name: Rounding, bits: 4}")
    (tmp_path / "main.yml").unlink()
    again = load(main=config.dump())
    assert again == config
    assert again.dump() == config.dump()
    assert again.digest() == config.digest()
    assert load("epoch=6").digest() != config.digest()


def test_check_shows_where_each_value_came_from(load, tmp_path):
    text = render(load("epoch=2"))
    lines = {line.split(":")[0].strip(): line for line in text.splitlines()}
    assert lines["epoch"].endswith("# -o epoch")
    assert lines["beta1"].endswith("main.yml:11")
    assert lines["seed"].endswith("# default")


def test_the_json_schema_takes_good_configs_and_refuses_bad_ones(load):
    schema = json_schema(CATALOG)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(json.loads(json.dumps(schema)))
    good = load().values()
    assert list(validator.iter_errors(good)) == []
    assert list(validator.iter_errors({"_BASE_": ["a.yml"], "epoch": 3})) == []
    for value in (None, {"name": "Rounding", "bits": 4}, {"bits": 4}):
        assert list(validator.iter_errors({**good, "Rounding": value})) == []
    own = {**good, "Averages": {"ema": {"name": "my.nets.Mean", "any": 1}}}
    assert list(validator.iter_errors(own)) == []
    for key, value in [
        ("epoch", 0),
        ("epoch", "5"),
        ("Epoch", 5),
        ("LearningRate", {"base_lr": 0}),
        ("Optimizer", {"name": "Adamm"}),
        ("Averages", {"ema": {"name": "Average", "decey": 0.9}}),
        ("Averages", {"ema": {"name": "Average", "decay": "high"}}),
        ("Rounding", {"name": "Rounding", "bit": 4}),
        ("Rounding", 8),
        ("TrainDataset", {"name": "Digits", "mode": "tran"}),
    ]:
        assert list(validator.iter_errors({**good, key: value})), (key, value)


def test_loading_leaves_no_half_made_config(load):
    with pytest.raises(ConfigError):
        load("epoch=-1")
