"""ModelEMA in a trainer that makes PaddleDetection's calls, with its checkpoints and its bugs."""

from __future__ import annotations

import logging
import math

import numpy as np
import paddle
import pytest
from detection_trainer import Trainer
from small_detector import (
    arrays,
    as_in_a_new_process,
    assert_close,
    assert_equal_bits,
    batches,
    detector,
)
from twins import float64_state

from ppema.averaging import ArgumentError
from ppema.integrations.paddledetection import ModelEMA

DECAYS = {
    "threshold": lambda t: min(0.95, (1 + t) / (10 + t)),
    "normal": lambda t: 0.95,
    "exponential": lambda t: 0.95 * (1 - math.exp(-(t + 1) / 2000)),
}
KINDS = list(DECAYS)


class Twin:
    """Their formula in float64: from zeros, and divided by the sum of shares when read."""

    def __init__(self, model, kind, live=()):
        self.model, self.decays, self.live = model, DECAYS[kind], live
        self.reset()

    def reset(self):
        self.step, self.left = 0, 1.0
        self.zeros_on = {
            name: 0.0 * value
            for name, value in float64_state(self.model).items()
            if value.dtype == np.float64 and not any(part in name for part in self.live)
        }

    def update(self):
        d, now = self.decays(self.step), float64_state(self.model)
        for name, value in self.zeros_on.items():
            self.zeros_on[name] = d * value + (1 - d) * now[name]
        self.step, self.left = self.step + 1, self.left * d

    def apply(self, raw):
        corrected = {name: v / (1 - self.left) for name, v in self.zeros_on.items()}
        return {**raw, **corrected}


def trainer(folder, epoch=3, seed=1, number=5, **arguments):
    def make(model):
        return ModelEMA(model, **{"decay": 0.95, **arguments})

    return Trainer(detector(seed), batches(number), make, folder, epoch)


@pytest.mark.parametrize("kind", KINDS)
def test_what_their_trainer_saves_is_the_average_and_the_raw_weights(kind, tmp_path):
    run = trainer(tmp_path, ema_decay_type=kind, ema_black_list=["head.b", "_variance"])
    twin = Twin(run.model, kind, live=["head.b", "_variance"])
    run.train(twin.update)
    assert run.ema.step == twin.step == 15
    raw = arrays(paddle.load(str(tmp_path / "model_final.pdema")))
    assert_equal_bits(arrays(run.model.state_dict()), raw)
    averaged = arrays(paddle.load(str(tmp_path / "model_final.pdparams")))
    assert_close(averaged, twin.apply(raw), 5e-6)
    for name in ("head.bias", "norm._variance", "num_images"):
        np.testing.assert_array_equal(averaged[name], raw[name])
    assert (averaged["neck.weight"] != raw["neck.weight"]).any()
    assert averaged["num_images"] == 15 * 8
    assert {n: a.dtype for n, a in averaged.items()} == {n: a.dtype for n, a in raw.items()}


def test_where_their_own_formula_has_no_bug_it_gives_the_same():
    """`normal`, divided by 1 - decay**step; `exponential`, undivided, after some updates."""
    for kind, divisor in (("normal", lambda n: 1 - 0.95**n), ("exponential", lambda n: 1.0)):
        model = detector()
        ema = ModelEMA(model, 0.95, kind)
        theirs = 0.0
        for t in range(20):
            model.head.weight.set_value(paddle.randn([8, 3]))
            ema.update()
            d = DECAYS[kind](t)
            theirs = d * theirs + (1 - d) * model.head.weight.numpy().astype("float64")
            found = ema.apply()["head.weight"].numpy()
            if kind == "normal" or t >= 3:
                np.testing.assert_allclose(found, theirs / divisor(t + 1), rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exchange", [True, False])
def test_a_resumed_run_ends_with_the_bits_of_one_that_never_stopped(kind, exchange, tmp_path):
    whole, half = tmp_path / "whole", tmp_path / "half"
    options = {"ema_decay_type": kind, "ema_black_list": ["neck.b"]}
    with as_in_a_new_process():
        straight = trainer(whole, epoch=4, **options)
        straight.train()
    with as_in_a_new_process():
        trainer(half, epoch=2, **options).train()
    if not exchange:
        (half / "model_final.pdema").rename(half / "raw")
        (half / "model_final.pdparams").rename(half / "model_final.pdema")
        (half / "raw").rename(half / "model_final.pdparams")
    with as_in_a_new_process():
        resumed = trainer(half, epoch=4, seed=9, **options)
        resumed.resume_weights(str(half / "model_final"), exchange)
        assert (resumed.start_epoch, resumed.ema.step) == (2, 10)
        resumed.train()
    for name in ("model_final.pdparams", "model_final.pdema", "2.pdparams", "best_model.pdparams"):
        assert_equal_bits(
            arrays(paddle.load(str(half / name))), arrays(paddle.load(str(whole / name)))
        )
    for found, wanted in zip(resumed.seen_in_evaluation, straight.seen_in_evaluation[2:]):
        np.testing.assert_array_equal(found, wanted)
    assert (
        resumed.ema.average.state_dict()["normalizer"]
        == (straight.ema.average.state_dict()["normalizer"])
    )


def test_pretrained_weights_that_are_loaded_later_leave_no_trace_of_the_first(tmp_path):
    paddle.save(detector(seed=4).state_dict(), str(tmp_path / "pretrained.pdparams"))
    run = trainer(tmp_path, number=1, epoch=1)
    run.load_weights(str(tmp_path / "pretrained"))
    assert_equal_bits(arrays(run.ema.apply()), arrays(run.model.state_dict()))
    run.train()
    assert_equal_bits(arrays(run.ema.apply()), arrays(run.model.state_dict()))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_stay_are_the_average_at_every_step_and_after_a_resume(kind):
    model = detector()
    ema = ModelEMA(model, 0.9998, kind)
    weights = arrays(model.state_dict())
    for _ in range(2):
        assert_close(arrays(ema.apply()), weights, 2e-7)
        for _ in range(10):
            ema.update()
            assert_close(arrays(ema.apply()), weights, 2e-7)
        resumed = ModelEMA(model, 0.9998, kind)
        resumed.resume(ema.apply(), step=1000)
        assert_close(arrays(resumed.apply()), weights, 2e-7)
        ema = resumed


def test_reading_changes_nothing():
    model = detector()
    one, other = (ModelEMA(model, 0.9, cycle_epoch=1) for _ in range(2))
    for _ in range(3):
        model.head.weight.set_value(paddle.randn([8, 3]))
        for ema in (one, other):
            ema.update()
        first = arrays(one.apply())
        assert_equal_bits(arrays(one.apply()), first)
        assert_equal_bits(arrays(one.state_dict), first)
        assert_equal_bits(arrays(other.apply()), first)
        assert one.epoch == other.epoch == 1


def test_a_cycle_begins_anew_at_the_update_after_its_last_snapshot(tmp_path):
    run = trainer(tmp_path, epoch=5, cycle_epoch=2)
    twin = Twin(run.model, "threshold")
    steps = []

    def follow():
        if len(steps) in (10, 20):
            twin.reset()
        twin.update()
        steps.append(run.ema.step)

    run.train(follow)
    assert steps == [*range(1, 11), *range(1, 11), *range(1, 6)]
    raw = arrays(paddle.load(str(tmp_path / "model_final.pdema")))
    averaged = arrays(paddle.load(str(tmp_path / "model_final.pdparams")))
    assert_close(averaged, twin.apply(raw), 5e-6)


def test_a_resumed_cycle_says_that_it_begins_anew(caplog):
    model = detector()
    ema = ModelEMA(model, cycle_epoch=3)
    with caplog.at_level(logging.WARNING):
        ema.resume(ModelEMA(model).apply(), 7)
    assert "a new one begins, from the average loaded" in caplog.text
    assert (ema.step, ema.epoch) == (7, 0)


@pytest.mark.parametrize("stays_live", [True, False])
def test_ema_filter_no_grad_keeps_a_frozen_weight_live_after_it_is_unfrozen(stays_live):
    model = detector()
    ema = ModelEMA(model, 0.9, ema_filter_no_grad=stays_live)
    ema.update()
    model.stem.weight.stop_gradient = False
    model.stem.weight.set_value(paddle.randn([6, 8]))
    ema.update()
    is_live = (ema.apply()["stem.weight"].numpy() == model.stem.weight.numpy()).all()
    assert is_live == stays_live
    # Statistics have no gradient either, and are averaged all the same.
    model.norm._mean.set_value(paddle.ones([8]))
    ema.update()
    assert (ema.apply()["norm._mean"].numpy() < 1).all()


def test_what_is_on_the_black_list_follows_the_model_after_a_resume():
    model = detector()
    before = ModelEMA(model, 0.9, ema_black_list=["head"])
    before.update()
    ema = ModelEMA(model, 0.9, ema_black_list=("head",))
    ema.resume(before.apply(), 1)
    model.head.bias.set_value(paddle.ones([3]))
    ema.update()
    np.testing.assert_array_equal(ema.apply()["head.bias"].numpy(), np.ones(3, "float32"))


def test_what_is_on_the_black_list_goes_on_training_after_a_snapshot(tmp_path):
    run = trainer(tmp_path, epoch=2, ema_black_list=["head.b"])
    biases = []
    run.train(lambda: biases.append(run.model.head.bias.numpy().copy()))
    assert (biases[4] != biases[9]).all()
    assert not run.model.head.bias.stop_gradient


def test_a_part_is_no_pattern():
    model = detector()
    model.add_sublayer("extra[0]", paddle.nn.Linear(2, 2))
    ema = ModelEMA(model, 0.9, ema_black_list=["extra[0]"])
    ema.update()
    model.sublayers()[-1].bias.set_value(paddle.ones([2]))
    ema.update()
    np.testing.assert_array_equal(ema.apply()["extra[0].bias"].numpy(), np.ones(2, "float32"))


def test_a_resume_begins_a_cycle():
    model = detector()
    ema = ModelEMA(model, cycle_epoch=2)
    ema.update()
    state = ema.apply()
    ema.resume(state, 1)
    for wanted in (2, 3, 1):
        ema.update()
        assert ema.step == wanted
        ema.apply()


def test_a_part_that_is_in_no_name_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        ModelEMA(detector(), ema_black_list=["haed", "num_images"])
    assert [record.getMessage() for record in caplog.records] == [
        "ema_black_list: no name in the model contains 'haed'"
    ]


def test_weights_that_do_not_fit_change_nothing():
    ema = ModelEMA(detector())
    ema.update()
    before = arrays(ema.apply())
    wrong = dict(ema.apply())
    wrong["stranger"] = wrong.pop("head.bias")
    wrong["neck.bias"] = paddle.zeros([9])
    with pytest.raises(ValueError, match=r"neck\.bias: file \[9\], model \[8\].*head\.bias.*stran"):
        ema.resume(wrong, 5)
    with pytest.raises(ArgumentError, match="num_updates must be a whole number from 0, got -1"):
        ema.resume(ema.apply(), -1)
    assert_equal_bits(arrays(ema.apply()), before)
    assert ema.step == 1


def test_arrays_and_half_precision_are_taken_too():
    ema = ModelEMA(detector())
    state = ema.apply()
    half = {n: t.astype("float16") if t.is_floating_point() else t for n, t in state.items()}
    for given in (arrays(state), half):
        ema.resume(given, 3)
        assert_close(arrays(ema.apply()), arrays(state), 1e-3)
        assert ema.apply()["head.weight"].dtype == paddle.float32


def test_update_takes_the_model_and_what_wraps_it_but_no_other():
    model = detector()
    ema = ModelEMA(model)

    class Wrapper(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self._layers = model

    ema.update(model)
    ema.update(Wrapper())
    assert ema.step == 2
    with pytest.raises(ValueError, match="the model that this ModelEMA was made with"):
        ema.update(detector())
    assert ema.step == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"ema_decay_type": "cosine"}, "one of threshold, normal, exponential, got 'cosine'"),
        ({"cycle_epoch": 1.5}, "cycle_epoch must be a whole number, got 1.5"),
        ({"decay": 1.0}, r"decay must be in \[0, 1\), got 1.0"),
        ({"ema_black_list": "head"}, "ema_black_list must be a list of parts of names, got 'head'"),
    ],
)
def test_an_argument_out_of_range_is_one_line(arguments, text):
    with pytest.raises(ArgumentError, match=text):
        ModelEMA(detector(), **arguments)


def test_weights_that_are_not_finite_are_never_averaged():
    model = detector()
    ema = ModelEMA(model)
    ema.update()
    before = arrays(ema.apply())
    model.neck.weight.set_value(paddle.full([8, 8], math.nan))
    with pytest.raises(FloatingPointError, match=r"neck\.weight holds NaN"):
        ema.update()
    model.neck.weight.set_value(before["neck.weight"])
    assert_equal_bits(arrays(ema.apply()), before)
