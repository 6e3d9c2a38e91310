"""What a config may not be, each said in one line with file and line."""

from __future__ import annotations

import pytest
from config_catalog import CATALOG, GOOD

from ppema.config import ConfigError, load_config

OPTIMIZER = "Optimizer:\n  name: Adam\n  beta1: 0.9\n"


def message_of(folder, content, overrides=()):
    path = folder / "lenet.yml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        load_config(str(path), overrides, CATALOG)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{folder}/", "")


def changed(old, new):
    assert old in GOOD
    return GOOD.replace(old, new)


CASES = {
    "lenet.yml:8: LearningRate.base_lr must be a number, got '1e-3x'": changed("0.001", "1e-3x"),
    "lenet.yml:14: 'epoch' is given twice (first on line 1)": GOOD + "epoch: 6\n",
    "lenet.yml:13: unknown key 'Averages.ema.decey'; did you mean 'decay'?": changed(
        "decay: 0.999", "decey: 0.999"
    ),
    "lenet.yml:14: unknown key 'Epoch'; did you mean 'epoch'?": GOOD + "Epoch: 5\n",
    "lenet.yml:4: unknown key 'TrainReader.batchsize'; did you mean 'batch_size'?": changed(
        "{batch_size: 64}", "{batchsize: 64}"
    ),
    "lenet.yml:14: 'use_ema' is written as a section here: "
    "Averages: {ema: {name: ExponentialMovingAverage, decay: 0.9998}}": GOOD + "use_ema: true\n",
    "lenet.yml:10: indented with a tab; use spaces": changed("  name: Adam", "\tname: Adam"),
    "lenet.yml: not UTF-8 (byte 12)": b"epoch: 5\n# \xe9\xff\n"[:11] + b" \xff",
    "lenet.yml: config is empty": "# nothing here\n",
    "lenet.yml:2: anchors and aliases (&, *, <<) are not allowed": "a: 1\nb: &x 2\n",
    "lenet.yml:3: anchors and aliases (&, *, <<) are not allowed": "a: 1\nb: 2\nc: *x\n",
    "lenet.yml:1: anchors and aliases (&, *, <<) are not allowed": "<<: {a: 1}\n",
    "lenet.yml:2: tags (!…) are not allowed": "a: 1\nb: !!python/object/apply:os.system [ls]\n",
    "lenet.yml:2: a second document (---) is not allowed": "a: 1\n---\nb: 2\n",
    "lenet.yml:1: a key must be a word, not a list or a mapping": "[a, b]: 1\n",
    "lenet.yml:1: a config is a mapping of keys to values": "- a\n- b\n",
    "lenet.yml:1: nested deeper than 20 levels": "a: " + "[" * 30,
    "lenet.yml: 'epoch' is missing": changed("epoch: 5\n", ""),
    "lenet.yml:4: 'TrainReader.batch_size' is missing": changed("{batch_size: 64}", "{}"),
    "lenet.yml:3: 'EvalDataset.mode' is missing": changed(", mode: test", ""),
    "lenet.yml:6: 'Model.name' is missing": changed("name: LeNet, ", ""),
    "lenet.yml:1: epoch must be 1 or more, got 0": changed("epoch: 5", "epoch: 0"),
    "lenet.yml:14: seed must be 4294967295 or less, got 4294967296": GOOD + "seed: 4294967296\n",
    "lenet.yml:1: epoch must be a whole number, got 5.0": changed("epoch: 5", "epoch: 5.0"),
    "lenet.yml:1: epoch must be a whole number, got True": changed("epoch: 5", "epoch: true"),
    "lenet.yml:1: epoch must be a whole number, got nothing": changed("epoch: 5", "epoch:"),
    "lenet.yml:1: epoch must be a whole number, got a list": changed("epoch: 5", "epoch: [5]"),
    "lenet.yml:8: LearningRate.base_lr must be a finite number above 0, got nan": changed(
        "0.001", ".nan"
    ),
    "lenet.yml:8: LearningRate.base_lr must be a finite number above 0, got inf": changed(
        "0.001", "1e999"
    ),
    "lenet.yml:8: LearningRate must be a mapping, got 0.1": changed(
        "{base_lr: 0.001, schedulers: []}", "0.1"
    ),
    "lenet.yml:2: TrainDataset.mode must be one of train, test, got 'tran'; "
    "did you mean 'train'?": changed("mode: train", "mode: tran"),
    "lenet.yml:14: use_gpu must be true or false or auto, got 'yes'": GOOD + "use_gpu: yes\n",
    "lenet.yml:6: Model.name: there is no 'LeNett'; did you mean 'LeNet'?": changed(
        "name: LeNet", "name: LeNett"
    ),
    "lenet.yml:6: Model.name: cannot import 'nowhere.Net': No module named 'nowhere'": changed(
        "name: LeNet", "name: nowhere.Net"
    ),
    "lenet.yml:13: Averages.ema.name: 'collections.OrderedDict' is not derived from "
    "config_catalog.Base": changed("name: Average", "name: collections.OrderedDict"),
    "lenet.yml:13: 'Averages.ema.model' is set by ppema; leave it out": changed(
        "decay: 0.999", "model: 3"
    ),
    "lenet.yml:11: Optimizer.beta1 must be a number, got 'high'": changed("0.9\n", "high\n"),
    "lenet.yml:12: unknown key 'Optimizer.learn'; known are beta1, nesterov, steps": changed(
        OPTIMIZER, OPTIMIZER + "  learn: 1\n"
    ),
    "lenet.yml:13: Averages.ema.exclude must be a list, got 'fc'": changed(
        "decay: 0.999", "exclude: fc"
    ),
    "lenet.yml:13: Averages.ema must be a mapping with a name, such as {name: …}, got 0.9": changed(
        "{name: Average, decay: 0.999}", "0.9"
    ),
    "lenet.yml:14: select must be one of raw, best, ema, got 'emma'; did you mean 'ema'?": GOOD
    + "select: emma\n",
    "lenet.yml:14: Rounding must be a mapping with a name, such as {name: …}, got 8": GOOD
    + "Rounding: 8\n",
    "lenet.yml:14: unknown key 'Rounding.bit'; did you mean 'bits'?": GOOD
    + "Rounding: {name: Rounding, bit: 8}\n",
    "lenet.yml:14: 'Rounding.name' is missing": GOOD + "Rounding: {bits: 8}\n",
    "lenet.yml:14: switch must be one of ema, got 'best'": GOOD + "switch: best\n",
}


@pytest.mark.parametrize("message", CASES)
def test_the_line_says_where_what_and_what_is_allowed(tmp_path, message):
    assert message_of(tmp_path, CASES[message]) == message


@pytest.mark.parametrize("name", ["raw", "best", "model", "EMA", "1st", "a-b", "../x"])
def test_an_average_s_name_must_be_fit_for_a_file(tmp_path, name):
    content = changed("  ema:", f"  {name}:")
    assert "an average must be named by small letters" in message_of(tmp_path, content)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("Averages.ema.decay=high", "-o Averages.ema.decay: Averages.ema.decay must be a number, "),
        ("epoch", "-o epoch: must be KEY=VALUE, such as Averages.ema.decay=0.999"),
        ("=3", "-o =3: must be KEY=VALUE"),
        ("a..b=1", "-o a..b=1: must be KEY=VALUE"),
        ("epoch.x=1", "-o epoch.x: epoch is a value and has no keys"),
        ("LearningRate.schedulers.0=1", "-o LearningRate.schedulers.0: LearningRate.schedulers is"),
        ("Epoch=1", "-o Epoch: unknown key 'Epoch'; did you mean 'epoch'?"),
        ("epoch=[1", "-o epoch: did not find"),
        ("Averages.ema={name: Average, a: &x 1}", "-o Averages.ema: anchors and aliases"),
    ],
)
def test_an_error_in_an_override_names_the_override(tmp_path, override, message):
    assert message_of(tmp_path, GOOD, [override]).startswith(message)


def test_missing_files_folders_and_loops(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yml: No such file"):
        load_config(str(tmp_path / "none.yml"), [], CATALOG)
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(str(tmp_path), [], CATALOG)
    (tmp_path / "a.yml").write_text("_BASE_: b.yml\n")
    (tmp_path / "b.yml").write_text("_BASE_: [a.yml]\n")
    with pytest.raises(ConfigError, match=r"^_BASE_ loop: a\.yml → b\.yml → a\.yml$"):
        load_config(str(tmp_path / "a.yml"), [], CATALOG)
    text = message_of(tmp_path, "x: 1\n_BASE_: typo.yml\n")
    assert text == "lenet.yml:2: _BASE_ names 'typo.yml', and there is no such file"
    assert "must be a file name or a list" in message_of(tmp_path, "_BASE_: {a: 1}\n")


def test_a_file_too_large_or_with_too_many_parts_is_refused(tmp_path):
    assert message_of(tmp_path, "a: " + "x" * (1 << 20)) == "lenet.yml: config is larger than 1 MiB"
    assert "more than 50,000 parts" in message_of(tmp_path, "a: [" + "1," * 60_000 + "]")
