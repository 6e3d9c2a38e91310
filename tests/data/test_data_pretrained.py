"""A run starts from weights of elsewhere: all of them but a head for other classes, or none."""

from __future__ import annotations

import hashlib
import pickle
import re
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle.vision import models
from trainers import bits

from ppema import builder
from ppema.builder.pretrained import load_pretrained, note_unused
from ppema.checkpoint import BEST, CheckpointStore, load_but_head, replace_weight_file
from ppema.errors import CheckpointError, ConfigError, NonFiniteError
from ppema.models import MODELS

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Return a function from keys to a config of the digits, read in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def read(model="{name: LeNet, num_classes: 10}", *keys):
        (tmp_path / "run.yml").write_text(
            f"_BASE_: {REPOSITORY}/configs/lenet_digits.yml\nModel: {model}\n"
        )
        return builder.read_config("run.yml", list(keys))

    return read


@pytest.fixture(scope="module")
def squeezenet():
    """Return the weights of a SqueezeNet of 1,000 classes."""
    paddle.seed(11)
    return models.squeezenet1_1().state_dict()


def write(path, state):
    replace_weight_file(Path(path), state)
    return Path(path).read_bytes()


def lenet_state(seed=1, **arguments):
    paddle.seed(seed)
    return models.LeNet(**arguments).state_dict()


def load(config):
    """Return the model that a config asks for, its bits before, and what was said."""
    model = builder.make_model(config)
    before = bits(model.state_dict())
    return model, before, load_pretrained(config, model)


def fault_of(config, error=CheckpointError):
    """Return the one line of the error, after seeing that no weight was touched."""
    model = builder.make_model(config)
    before = bits(model.state_dict())
    with pytest.raises(error) as caught:
        load_pretrained(config, model)
    assert bits(model.state_dict()) == before
    (line,) = str(caught.value).splitlines()
    return line


def test_weights_of_the_same_classes_are_loaded_whole_and_averages_start_from_them(read):
    state = lenet_state()
    write("old.pdparams", state)
    config = read("{name: LeNet, num_classes: 10}", "pretrain_weights=old.pdparams")
    trainer = builder.make_trainer(config, builder.load_data(config, None))
    assert bits(trainer.model.state_dict()) == bits(state)
    assert bits(trainer.averages["ema"].averaged_state_dict()) == bits(state)
    assert load(config)[2] == ["pretrain_weights: 10 of 10 tensors from old.pdparams"]


def test_a_head_for_other_classes_stays_as_drawn_and_is_said(read):
    state = lenet_state(num_classes=7)
    write("old.pdparams", state)
    model, before, lines = load(
        read("{name: LeNet, num_classes: 10}", "pretrain_weights=old.pdparams")
    )
    after = bits(model.state_dict())
    head = {"fc.2.weight", "fc.2.bias"}
    assert {name: after[name] for name in head} == {name: before[name] for name in head}
    assert {k: v for k, v in after.items() if k not in head} == {
        k: v for k, v in bits(state).items() if k not in head
    }
    assert lines == [
        "pretrain_weights: 8 of 10 tensors from old.pdparams",
        "pretrain_weights: kept as they were drawn, since the number of classes differs: "
        "fc.2.weight [84,10] (file [84,7]), fc.2.bias [10] (file [7])",
    ]


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("squeezenet1_1", {"_conv9"}),
        ("googlenet", {"_fc_out", "_out1", "_out2"}),
        ("mobilenet_v3_small", {"classifier.3"}),
    ],
)
def test_heads_of_other_kinds_are_found(name, heads):
    state = MODELS[name](num_classes=6).state_dict()
    kept = load_but_head(MODELS[name](num_classes=4), state, "file", 4)
    assert {line.split()[0].rpartition(".")[0] for line in kept} == heads


def test_without_a_number_of_classes_only_the_last_layer_may_differ():
    wide, narrow = (
        paddle.nn.Sequential(paddle.nn.Linear(2, n), paddle.nn.Linear(n, n)) for n in (3, 4)
    )
    with pytest.raises(CheckpointError, match=r"0\.weight: file \[2,3\], model \[2,4\]"):
        load_but_head(narrow, wide.state_dict(), "file", None)
    other = paddle.nn.Sequential(paddle.nn.Linear(2, 4), paddle.nn.Linear(4, 9))
    kept = load_but_head(narrow, other.state_dict(), "file", None)
    assert kept == ["1.weight [4,4] (file [4,9])", "1.bias [4] (file [9])"]


def test_what_does_not_fit_is_listed_and_nothing_is_loaded(read):
    state = lenet_state(num_classes=7)
    state["features.0.weight"] = paddle.zeros([6, 3, 3, 3])
    state["further"] = paddle.zeros([1])
    del state["fc.0.bias"]
    write("old.pdparams", state)
    config = read("{name: LeNet, num_classes: 10}", "pretrain_weights=old.pdparams")
    assert fault_of(config) == (
        "-o pretrain_weights: pretrain_weights: old.pdparams: 8 of 10 fit; features.0.weight: "
        "file [6,3,3,3], model [6,1,3,3]; missing: fc.0.bias; unexpected: further"
    )


def test_a_run_gives_the_weights_that_won(read):
    config = read("{name: LeNet, num_classes: 10}", "pretrain_weights=output/old")
    trained = builder.make_model(config)
    won, raw = lenet_state(2), trained.state_dict()
    files = {
        "model.pdparams": ("raw", lambda: raw),
        "ema.pdparams": ("average", lambda: won),
    }
    store = CheckpointStore(Path("output/old"), 3)
    Path("output/old").mkdir(parents=True)
    facts = {"epoch": 1, "averages": ["ema"], "winner": "ema"}
    store.save(5, files, facts)
    store.link(BEST, 5)
    model, _, lines = load(config)
    assert bits(model.state_dict()) == bits(won)
    assert re.match(r"pretrain_weights: 10 of 10 tensors from ema of .*step_000000005$", lines[0])
    path = Path("output/old/step_000000005/ema.pdparams")
    path.write_bytes(path.read_bytes()[:-1])
    assert "step_000000005/ema.pdparams" in fault_of(config)


class Runs:
    """What a stranger's file may hold."""

    def __reduce__(self):
        return (print, ("run!",))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps({"a": Runs()}), "asks to import builtins.print, which no checkpoint may"),
        (b"<html>", "is not a Paddle weight file"),
        (b"", "it is empty"),
    ],
)
def test_a_file_that_is_none_is_refused(read, content, reason, capfd):
    Path("bad.pdparams").write_bytes(content)
    assert reason in fault_of(read("{name: LeNet}", "pretrain_weights=bad.pdparams"))
    assert "run!" not in capfd.readouterr().out


def test_no_nan_is_started_from(read):
    state = lenet_state()
    state["fc.0.bias"] = paddle.full([120], float("nan"))
    write("old.pdparams", state)
    config = read("{name: LeNet}", "pretrain_weights=old.pdparams")
    assert fault_of(config, NonFiniteError) == (
        "-o pretrain_weights: pretrain_weights: old.pdparams: fc.0.bias holds NaN; refusing to "
        "start from it"
    )


def test_an_optimizer_s_state_is_no_weights(read):
    write("old.pdopt", {"LR_Scheduler": {"last_epoch": 1}})
    config = read("{name: LeNet}", "pretrain_weights=old.pdopt")
    assert fault_of(config).endswith("old.pdopt: not weights (holds LR_Scheduler)")


def test_what_is_not_there_is_named(read):
    config = read("{name: LeNet}", "pretrain_weights=nowhere.pdparams")
    assert fault_of(config).endswith(
        "'nowhere.pdparams': no such run folder, checkpoint or weight file"
    )
    with pytest.raises(CheckpointError, match="no such run folder"):
        builder.check(config)


def digest(content, name):
    return f"{name}={hashlib.new(name, content).hexdigest()}"


@pytest.mark.parametrize("name", [None, "md5", "sha256"])
def test_a_url_is_fetched_once_and_then_taken_from_the_cache(read, mirror, home, name):
    state = lenet_state()
    mirror.files["w/old.pdparams"] = content = write("old.pdparams", state)
    fragment = f"#{digest(content, name)}" if name else ""
    url = f"{mirror.url}w/old.pdparams{fragment}"
    config = read("{name: LeNet}", f"pretrain_weights='{url}'")
    for how in ("downloaded", "in the cache"):
        model, _, lines = load(config)
        assert bits(model.state_dict()) == bits(state)
        assert lines[0].endswith(f"old.pdparams, {how}")
    assert mirror.requests == ["/w/old.pdparams"]
    (kept,) = (home / ".cache/paddle/hapi/weights").rglob("*.*")
    assert kept.name == "old.pdparams"
    if name is not None:
        kept.write_bytes(content[:-1] + b"?")
        load(config)
        assert len(mirror.requests) == 2
        assert kept.read_bytes() == content


def test_two_urls_that_end_alike_are_two_files(read, mirror):
    states = {folder: lenet_state(seed) for seed, folder in enumerate("ab")}
    for folder, state in states.items():
        mirror.files[f"{folder}/w.pdparams"] = write("w.pdparams", state)
    for folder, state in states.items():
        config = read("{name: LeNet}", f"pretrain_weights={mirror.url}{folder}/w.pdparams")
        assert bits(load(config)[0].state_dict()) == bits(state)


def test_a_url_that_gives_no_weights_leaves_nothing_in_the_cache(read, mirror, home):
    mirror.files["page"] = b"<html>log in first</html>"
    config = read("{name: LeNet}", f"pretrain_weights={mirror.url}page")
    assert f"{mirror.url}page: " in (line := fault_of(config))
    assert "is not a Paddle weight file" in line
    wrong = read("{name: LeNet}", f"pretrain_weights='{mirror.url}page#md5={'0' * 32}'")
    assert "sent a file with md5" in fault_of(wrong)
    missing = read("{name: LeNet}", f"pretrain_weights={mirror.url}nothing")
    assert "HTTP 404" in (line := fault_of(missing))
    assert "; fetch it by other means and put it at " in line
    assert not [path for path in (home / ".cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://host/w.pdparams", "a URL begins with http:// or https://, got 'ftp://host/w.pdp"),
        ("http:///w.pdparams", "a URL begins with http:// or https://"),
        ("http://host/w#md5=12", "behind # stands md5= with 32 or sha256= with 64 hex digits"),
    ],
)
def test_a_url_that_is_none_is_a_matter_of_the_config(read, url, reason):
    config = read("{name: LeNet}", f"pretrain_weights='{url}'")
    assert reason in fault_of(config, ConfigError)


def test_pretrained_takes_paddle_s_file_by_the_restricted_reader(
    read, mirror, home, squeezenet, monkeypatch
):
    content = write("theirs.pdparams", squeezenet)
    mirror.files["squeezenet.pdparams"] = content
    wanted = (f"{mirror.url}squeezenet.pdparams", hashlib.md5(content).hexdigest())
    monkeypatch.setitem(models.squeezenet.model_urls, "squeezenet1_1", wanted)
    monkeypatch.setattr(paddle, "load", None)
    config = read("{name: squeezenet1_1, num_classes: 4, pretrained: true}")
    with pytest.raises(
        CheckpointError, match=r"^run\.yml:2: Model\.pretrained: no mirrors are set"
    ):
        load(config)
    builder.check(config)
    assert mirror.requests == []
    monkeypatch.setenv("PPEMA_MIRRORS", mirror.url)
    model, _, lines = load(config)
    assert lines[0].startswith("Model.pretrained: 50 of 52 tensors from ")
    wanted = {name: value for name, value in bits(squeezenet).items() if "_conv9" not in name}
    assert wanted.items() <= bits(model.state_dict()).items()
    # Where Paddle itself looks for it.
    assert (home / ".cache/paddle/hapi/weights/squeezenet.pdparams").read_bytes() == content


def test_without_a_server_the_line_says_where_the_file_goes(read, home):
    config = read("{name: resnet18, pretrained: true}")
    path = home / ".cache/paddle/hapi/weights/resnet18.pdparams"
    assert fault_of(config) == (
        "run.yml:2: Model.pretrained: no mirrors are set; fetch it by other means and put it at "
        f"{path}"
    )


def test_what_paddle_has_no_weights_for_is_a_matter_of_the_config(read):
    config = read("{name: mobilenet_v2, scale: 0.3, pretrained: true}")
    line = fault_of(config, ConfigError)
    assert line == (
        "run.yml:2: Model.pretrained must be false: Paddle has no weights for it, got True"
    )


def test_both_keys_at_once_are_refused(read):
    config = read("{name: squeezenet1_1, pretrained: true}", "pretrain_weights=x")
    assert "both name weights to start from; leave one out" in fault_of(config, ConfigError)


def test_a_run_that_goes_on_says_that_it_has_weights_of_its_own(read):
    assert note_unused(read("{name: LeNet}", "pretrain_weights=x")) == [
        "pretrain_weights: not used, since the run goes on with the weights of its checkpoint"
    ]
    assert note_unused(read("{name: LeNet}")) == []


def test_numpy_weights_are_weights_too(read):
    state = {name: np.asarray(tensor.numpy()) for name, tensor in lenet_state().items()}
    with open("old.pdparams", "wb") as file:
        pickle.dump(state, file, protocol=4)
    model, _, _ = load(read("{name: LeNet}", "pretrain_weights=old.pdparams"))
    assert bits(model.state_dict()) == bits(lenet_state())
