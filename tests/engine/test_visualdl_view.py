"""What VisualDL shows beside the scalars, and what of it is left when a run goes on."""

from __future__ import annotations

import io
import signal

import numpy as np
import pytest
from PIL import Image
from trainers import make_reader, make_trainer
from visualdl_records import read_shown, tags_shown

from ppema.engine.hooks import EvaluateHook, LogHook
from ppema.engine.predictions import Predictions
from ppema.engine.record import Recorder
from ppema.engine.view_hooks import HistogramHook
from ppema.engine.visualdl_view import ViewOptions, VisualDLView
from ppema.stop_signals import StopRequest, StopSignals

# VisualDL's own, at its import.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

NAMES = ("raw", "ema", "wide", "recomputed", "latest", "swa")
CLASSES = tuple(f"a/b%{digit}" for digit in range(10))
OPTIONS = ViewOptions(
    class_names=CLASSES,
    hyperparameters={
        "raw": {"average": "none", "seed": 2**32 - 1, "rate": 1, "flag": True},
        "ema": {"average": "EMA", "seed": 3, "rate": 0.5, "flag": False},
    },
)


def train(folder, num_epochs=2):
    """Train with all hooks that show something; return the trainer."""
    recorder = Recorder(folder, folder / "vdl", OPTIONS)
    evaluate = EvaluateHook(make_reader(16), recorder, "best")
    hooks = [LogHook(recorder, 2, None), HistogramHook(recorder), evaluate]
    trainer = make_trainer(make_reader(), hooks, num_epochs=num_epochs)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, train(folder)


@pytest.mark.parametrize("name", ["raw", "ema", "recomputed"])
def test_weights_and_their_averages_have_histograms_of_one_tag(run, name):
    folder, trainer = run
    state = trainer.model.state_dict()
    if name != "raw":
        state = trainer.averages[name].averaged_state_dict()
    for key, tensor in state.items():
        records = read_shown(folder / "vdl" / name, "histogram", f"weights/{key}")
        assert [record.id for record in records] == [5, 10]
        counts, edges = np.histogram(tensor.numpy(), bins=40)
        assert list(records[-1].histogram.hist) == counts.tolist()
        assert list(records[-1].histogram.bin_edges) == pytest.approx(edges.tolist())


def test_each_set_of_weights_has_curves_of_precision_over_recall(run):
    folder, _ = run
    for name in NAMES:
        tags = {tag.replace("%", "/") for tag in tags_shown(folder / "vdl" / name)["pr_curve"]}
        assert tags == {"pr/of all classes", *(f"pr/a_b_{digit}" for digit in range(10))}
        first, last = read_shown(folder / "vdl" / name, "pr_curve", "pr/of all classes")
        assert (first.id, last.id) == (5, 10)
        # Every class is answered to each of 16 images at probability 0.
        curve = last.pr_curve
        assert (curve.TP[0], curve.FP[0], curve.TN[0], curve.FN[0]) == (16, 144, 0, 0)
        assert (curve.precision[0], curve.recall[0]) == (pytest.approx(0.1), 1.0)
        assert all(tp + fn == 16 for tp, fn in zip(curve.TP, curve.FN))
        assert all(fp + tn == 144 for fp, tn in zip(curve.FP, curve.TN))


def test_the_surest_mistakes_of_each_evaluation_are_pictures(run):
    folder, _ = run
    for name in NAMES:
        records = read_shown(folder / "vdl" / name, "image", "eval/mistakes")
        assert [record.id for record in records] == [5, 10]
        with Image.open(io.BytesIO(records[-1].image.encoded_image_string)) as image:
            assert image.width > 4 * 112


def test_hyper_parameters_are_numbers_of_one_type_or_text_beside_a_first_figure(run):
    folder, _ = run
    (record,) = read_shown(folder / "vdl/raw", "hyper_parameters", "hparam")
    given = {info.name: info for info in record.hparam.hparamInfos}
    assert (given["average"].string_value, given["flag"].string_value) == ("none", "True")
    assert given["seed"].float_value == 2**32 - 1
    assert {info.WhichOneof("type") for info in given.values()} == {"string_value", "float_value"}
    assert [info.name for info in record.hparam.metricInfos] == ["eval/top1", "eval/loss"]
    assert "hyper_parameters" not in tags_shown(folder / "vdl/train")


def test_numpy_is_left_as_it_was(run):
    assert not hasattr(np, "float")


def test_what_is_only_here_is_kept_up_to_the_step_a_run_goes_on_from(tmp_path):
    train(tmp_path)
    # A crash tears the last record; what stands before it is whole.
    (file,) = (tmp_path / "vdl/ema").glob("vdlrecords.*.log")
    file.write_bytes(file.read_bytes()[:-3])
    recorder = Recorder(tmp_path, tmp_path / "vdl", OPTIONS)
    recorder.start(5)
    recorder.close()
    for component, tag in (
        ("histogram", "weights/body.1.weight"),
        ("pr_curve", "pr/of all classes"),
        ("image", "eval/mistakes"),
        ("scalar", "eval/top1"),
    ):
        found = read_shown(tmp_path / "vdl/ema", component, tag)
        assert [record.id for record in found] == [5], tag
    assert len(read_shown(tmp_path / "vdl/ema", "hyper_parameters", "hparam")) == 1


def test_what_an_open_step_showed_is_shown_anew(tmp_path):
    train(tmp_path)
    recorder = Recorder(tmp_path, tmp_path / "vdl", OPTIONS)
    recorder.start(10, is_open=True)
    recorder.close()
    found = read_shown(tmp_path / "vdl/ema", "histogram", "weights/body.1.weight")
    assert [record.id for record in found] == [5]


def test_a_signal_ends_the_histograms_at_the_next_set_of_weights(run, tmp_path, monkeypatch):
    _, trainer = run
    shown, recorder = [], Recorder(tmp_path, tmp_path / "vdl", OPTIONS)

    def show_weights(name, *_):
        shown.append(name)
        if name == "ema":
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(recorder, "show_weights", show_weights)
    with StopSignals(), pytest.raises(StopRequest):
        HistogramHook(recorder).after_step(trainer)
    assert shown == ["raw", "ema"]


def test_a_run_that_starts_anew_keeps_nothing(tmp_path):
    train(tmp_path, num_epochs=1)
    recorder = Recorder(tmp_path, tmp_path / "vdl", OPTIONS)
    recorder.start(0)
    recorder.close()
    assert list((tmp_path / "vdl").glob("*/*")) == []


def test_a_view_without_records_is_not_asked_for_predictions(tmp_path, monkeypatch):
    monkeypatch.setattr(Predictions, "add", None)
    recorder = Recorder(tmp_path, None)
    evaluate = EvaluateHook(make_reader(16), recorder, "best")
    hooks = [LogHook(recorder, 2, None), HistogramHook(recorder), evaluate]
    make_trainer(make_reader(), hooks, num_epochs=1).train()
    assert evaluate.best


def test_weights_that_are_not_finite_have_no_histogram(tmp_path):
    import paddle

    view = VisualDLView(tmp_path, "run", ViewOptions())
    view.show_weights("raw", {"a": paddle.to_tensor([1.0, np.nan]), "b": paddle.ones([2])}, 1)
    view.close()
    assert tags_shown(tmp_path / "raw")["histogram"] == ["weights/b"]
