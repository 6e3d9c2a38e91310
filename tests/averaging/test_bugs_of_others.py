"""What other libraries that average weights get wrong, and ppema does not.

Each test names the peer and its bug. Those that other files test already:

==================================================  ============================================
Peer: bug                                           Test
==================================================  ============================================
Paddle: static EMA cannot be constructed            test_ema_twin::test_steps_equal_the_twin
Paddle: its debias takes pow(last decay, step)      test_thousand_steps[debiased …]
Paddle: BN statistics averaged as parameters        test_averaged_model::test_use_buffers_says…,
                                                    test_thousand_steps[copied statistics]
PaddleDetection: debias by 1 - decay**step          test_thousand_steps[debiased …]
PaddleDetection: int64 counter 1000 becomes 900     test_average::test_integer_buffers_stay…
PaddleDetection, PaddleClas: best lost on resume    engine/test_resume::test_a_run_stopped_at_any…
PaddleClas, timm, mmengine: tied weights move twice test_average::test_tied_weights_move_once…,
                                                    test_averaged_model::test_tied_weights_stay…
PaddleClas, timm: bf16 and fp16 shadows stall       test_ema_twin::test_narrow_weights_move…
PaddleSeg: resume leaves the average behind         engine/test_resume::test_a_run_stopped_at_any…
PaddleSeg: integer buffers go stale                 test_average::test_integer_buffers_stay…
ema-pytorch: post-hoc shares do not sum to 1        test_posthoc::test_the_coefficients_sum_to_one
ema-pytorch, F5-TTS: update_every lengthens it      test_ema_twin::test_update_every_keeps_the…
timm: warm-up off where no step is given            test_average::test_register_starts_again_at…
Composer: half_life alone raises                    test_average::test_half_life_is_the_decay…
mmengine, Keras: an update each micro-step          engine/test_trainer::test_accumulated_batches…
Keras: the average stays in after an evaluation     engine/test_evaluate::test_modes_weights_and…
torch_ema: saved copies in the state                engine/test_resume::test_a_float32_shadow…
PaddleNLP: an update that keeps the graph           test_average::test_the_update_leaves_no_graph…
FastVideo: deferred start drops the shadow          engine/test_resume::test_a_run_stopped_at_any…
nequip, schnetpack: saved while swapped             test_swap::test_states_read_while_applied…
Open-Sora-Plan, waifu-diffusion: restore forgotten  test_swap::test_restored_even_if_the_body…
Lightning, timm: BN statistics of other weights     test_recompute::test_stale_statistics_are…
timm: long window in a short run, unsaid            tools/test_keys::test_a_window_longer_than…
mmpretrain: momentum where decay is meant           test_average::test_a_wrong_argument_is_named
ultralytics: non-finite weights averaged or saved   engine/test_trainer::test_a_nan_gradient…,
                                                    engine/test_resume::test_non_finite_weights…
senpai, luxonis: names match nothing, silently      test_average::test_a_wrong_argument_is_named
mmengine, diffusers: a parameter unfrozen mid-run   test_ema_twin::test_freezing_and_unfreezing…
keras, Paddle: some parameters only                 test_average::test_include_and_exclude…
==================================================  ============================================

What a run, its trainer and its files get wrong is in engine/test_trainer_bugs_of_others.py.
"""

from __future__ import annotations

import copy

import numpy as np
import paddle
import pytest
from networks import Oddities, TinyBN
from test_ema_twin import make_optimizer, train_step
from twins import copied_state, ema, mean_from, mean_of_latest, power_function

from ppema import (
    AveragedModel,
    ExponentialMovingAverage,
    ExponentialMovingAverageModel,
    LatestWeightAverage,
    PowerFunctionEMA,
    StochasticWeightAverage,
)

AVERAGES = {
    "ema": lambda model: ExponentialMovingAverage(model, 0.9),
    "debiased": lambda model: ExponentialMovingAverage(model, 0.9998, False, debias=True),
    "swa": StochasticWeightAverage,
    "late swa": lambda model: StochasticWeightAverage(model, start=100),
    "latest": LatestWeightAverage,
    "power function": PowerFunctionEMA,
}
AVERAGED_MODELS = {
    "mean": lambda model: AveragedModel(model, use_buffers=True),
    "ema": lambda model: ExponentialMovingAverageModel(model, 0.9),
}


def bits(state):
    return {name: tensor.numpy().tobytes() for name, tensor in state.items()}


def move(model, step=0.5):
    for _, parameter in model.named_parameters():
        parameter.set_value(parameter + step)


def fill(parameter, value):
    parameter.set_value(paddle.full(parameter.shape, value))


# Paddle


@pytest.mark.parametrize("name", AVERAGES)
def test_statistics_and_frozen_weights_are_finite_and_answer_while_applied(name):
    # Paddle ModelAverage: apply() writes NaN into BN statistics and every frozen parameter.
    paddle.seed(1)
    model = Oddities()
    optimizer = make_optimizer(model)
    average = AVERAGES[name](model)
    for _ in range(3):
        train_step(model, optimizer)
        model.frozen.weight.set_value(model.frozen.weight * 2)
        average.update()
    frozen = model.frozen.weight.numpy().copy()
    model.eval()
    with average.average_parameters():
        assert all(np.isfinite(tensor.numpy()).all() for tensor in model.state_dict().values())
        assert np.isfinite(model(paddle.randn([2, 1, 28, 28])).numpy()).all()
        assert (model.frozen.weight.numpy() == frozen).all()


def test_it_does_not_matter_when_or_how_gradients_are_cleared():
    # Paddle ModelAverage: clear_grad(set_to_zero=False) before its step() gives NaN everywhere.
    ends = []
    for order in ("update, clear", "clear, update", "set to none, update"):
        paddle.seed(2)
        model = Oddities()
        optimizer = make_optimizer(model)
        average = ExponentialMovingAverage(model, 0.9)
        for _ in range(5):
            paddle.nn.functional.cross_entropy(
                model(paddle.randn([8, 1, 28, 28])), paddle.randint(0, 10, [8])
            ).backward()
            optimizer.step()
            if order == "update, clear":
                average.update()
            optimizer.clear_grad(set_to_zero=not order.startswith("set to none"))
            if order != "update, clear":
                average.update()
        ends.append(bits(average.averaged_state_dict()))
    assert ends[0] == ends[1] == ends[2]


def test_a_second_apply_is_refused_and_the_raw_weights_come_back():
    # Paddle ModelAverage: a nested apply() loses the raw weights.
    model = Oddities()
    average = ExponentialMovingAverage(model, 0.5)
    move(model)
    raw = bits(model.state_dict())
    average.update()
    with average.average_parameters(), pytest.raises(RuntimeError, match="is applied already"):
        average.apply()
    assert bits(model.state_dict()) == raw


def test_an_average_costs_one_copy_and_applying_it_none():
    # Paddle ModelAverage: four copies. PaddleDetection: model, corrected and plain shadow.
    model = TinyBN()
    average = ExponentialMovingAverage(model, 0.5)
    shadow = average.state_dict()["shadow"]
    assert sum(tensor.size for tensor in shadow.values()) == sum(
        parameter.size for parameter in model.parameters()
    )
    places = {name: tensor.data_ptr() for name, tensor in shadow.items()}
    with average.average_parameters():
        assert {name: p.data_ptr() for name, p in model.named_parameters()} == places


# PaddleDetection


@pytest.mark.parametrize("name", AVERAGES)
def test_before_any_update_the_average_is_the_initial_weights(name):
    # PaddleDetection: apply() at step 0 returns zeros.
    model = Oddities()
    initial = bits(model.state_dict())
    average = AVERAGES[name](model)
    assert bits(average.averaged_state_dict()) == initial
    move(model)
    with average.average_parameters():
        assert bits(model.state_dict()) == initial


@pytest.mark.parametrize("name", AVERAGES)
def test_reading_an_average_changes_nothing(name):
    # PaddleDetection: apply() resets a cycle, so that the second one returns zeros.
    model = Oddities()
    read, unread = AVERAGES[name](model), AVERAGES[name](model)
    for _ in range(4):
        move(model)
        for average in (read, unread):
            average.update()
        first = bits(read.averaged_state_dict())
        with read.average_parameters():
            assert bits(model.state_dict()) == first
        read.distance()
        assert bits(read.averaged_state_dict()) == first
    assert first == bits(unread.averaged_state_dict())


@pytest.mark.parametrize("num_updates", [1, 1000, 5000])
@pytest.mark.parametrize("name", AVERAGES)
def test_a_resumed_average_is_the_saved_one_before_its_next_update(name, num_updates):
    # PaddleDetection: debiased weights are debiased again, x 5.51 when resumed at 1,000; and
    # apply() between a resume and the next update raises AttributeError.
    model = paddle.nn.Linear(1, 2)
    average = AVERAGES[name](model)
    for _ in range(num_updates):
        model.weight.set_value(model.weight + 0.001)
        average.update()
    before = bits(average.averaged_state_dict())
    again = AVERAGES[name](paddle.nn.Linear(1, 2))
    again.set_state_dict(copied_state(average))
    assert bits(again.averaged_state_dict()) == before
    with again.average_parameters():
        assert bits(again._store._model.state_dict()) == before


def test_a_resumed_schedule_goes_on_where_it_was():
    # lightly-train, Samudra: a counter that starts anew lets the warm-up overwrite the average.
    model = paddle.nn.Linear(1, 1)
    average = ExponentialMovingAverage(model, 0.9999)
    for _ in range(500):
        average.update()
    again = ExponentialMovingAverage(model, 0.9999)
    again.set_state_dict(copied_state(average))
    assert again.update() == average.update() == 501 / 510


def test_what_is_excluded_follows_the_model_after_a_resume_too():
    # PaddleDetection: tensors on the blacklist freeze at the values loaded.
    model = TinyBN()
    state = copied_state(ExponentialMovingAverage(model, 0.9, exclude=["fc.*"], buffers="copy"))
    average = ExponentialMovingAverage(model, 0.9, exclude=["fc.*"], buffers="copy")
    average.set_state_dict(state)
    fill(model.fc.bias, 7.0)
    model.bn._mean.fill_(8.0)
    average.update()
    averaged = average.averaged_state_dict()
    assert averaged["fc.bias"].tolist() == [7.0] * 10
    assert averaged["bn._mean"].tolist() == [8.0] * 4


@pytest.mark.parametrize(
    "layer",
    [
        paddle.nn.BatchNorm,
        paddle.nn.BatchNorm1D,
        paddle.nn.BatchNorm2D,
        paddle.nn.BatchNorm3D,
        paddle.nn.SyncBatchNorm,
    ],
)
def test_the_statistics_of_every_kind_of_batch_norm_are_known(layer):
    # PaddleDetection: ema_filter_no_grad knows those of BatchNorm2D only.
    model = paddle.nn.Sequential(paddle.nn.Linear(2, 2), layer(2))
    averaged, taken = (
        ExponentialMovingAverage(model, 0.5, False, buffers=policy)
        for policy in ("average", "copy")
    )
    whole = AveragedModel(model)
    for value in (2.0, 4.0):
        model[1]._mean.fill_(value)
        averaged.update()
        taken.update()
        whole.update_parameters(model)
    assert averaged.averaged_state_dict()["1._mean"].tolist() == [2.5, 2.5]
    assert taken.averaged_state_dict()["1._mean"].tolist() == [4.0, 4.0]
    assert whole.module[1]._mean.tolist() == [4.0, 4.0]


# PaddleClas, swa_utils, ema-pytorch: buffers


class Counters(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.fc = paddle.nn.Linear(2, 2)
        self.register_buffer("int64", paddle.zeros([], "int64"))
        self.register_buffer("int32", paddle.zeros([2], "int32"))
        self.register_buffer("flag", paddle.zeros([2], "bool"))

    def count(self, number):
        self.int64.fill_(2**40 + number)
        self.int32.fill_(-number)
        self.flag.set_value(paddle.ones([2], "bool"))


def assert_counted(state, prefix, number):
    dtypes = [str(state[prefix + name].dtype) for name in ("int64", "int32", "flag")]
    assert dtypes == ["paddle.int64", "paddle.int32", "paddle.bool"]
    # More than a float32 can hold.
    assert int(state[f"{prefix}int64"]) == 2**40 + number
    assert state[f"{prefix}int32"].tolist() == [-number] * 2
    assert state[f"{prefix}flag"].tolist() == [True, True]


@pytest.mark.parametrize("name", AVERAGES)
def test_integers_and_booleans_keep_dtype_and_value(name):
    # PaddleClas: int64 and bool buffers become float32.
    model = Counters()
    average = AVERAGES[name](model)
    for number in (1000, 1001):
        model.count(number)
        average.update()
    assert_counted(average.averaged_state_dict(), "", 1001)
    with average.average_parameters():
        assert_counted(model.state_dict(), "", 1001)


@pytest.mark.parametrize("name", AVERAGED_MODELS)
def test_integers_of_the_copied_model_follow(name):
    # swa_utils with use_buffers: 3000 stays 1. ema-pytorch: num_batches_tracked stays 0.
    model = Counters()
    averaged = AVERAGED_MODELS[name](model)
    for number in (1, 3000, 3001):
        model.count(number)
        averaged.update_parameters(model)
        assert_counted(averaged.state_dict(), "module.", number)


# ema-pytorch


@pytest.mark.parametrize("name", AVERAGED_MODELS)
def test_the_copied_model_drops_nothing_out(name):
    # ema-pytorch: forward_eval leaves dropout on; swa_utils: the copy starts in train mode.
    model = paddle.nn.Sequential(
        paddle.nn.Linear(4, 64), paddle.nn.BatchNorm1D(64), paddle.nn.Dropout(0.5)
    )
    model.train()
    averaged = AVERAGED_MODELS[name](model)
    averaged.update_parameters(model)
    x = paddle.randn([3, 4])
    statistics = averaged.module[1]._mean.numpy().copy()
    first, second = averaged(x).numpy(), averaged(x).numpy()
    assert (first == second).all()
    assert (first != 0).all()
    assert (averaged.module[1]._mean.numpy() == statistics).all()
    assert model.training


@pytest.mark.parametrize("update_every", [1, 10, 100])
def test_the_width_of_a_power_function_does_not_depend_on_update_every(update_every):
    # ema-pytorch KarrasEMA: the mean age asked for is 0.888; 0.443 at every 10th step, 0.074 at
    # every 100th, its default.
    num_steps = 10_000
    model = paddle.nn.Linear(1, 1, bias_attr=False)
    average = PowerFunctionEMA(model, 0.10, update_every=update_every, shadow_dtype="float64")
    for step in range(1, num_steps + 1):
        fill(model.weight, step / num_steps)
        average.update()
    gamma = 6.937203937601809
    mean = (gamma + 1) / (gamma + 2)
    # A weight stands for the steps since the one before it: half of those is what it is late by.
    found = average.state_dict()["shadow"]["weight"].item()
    assert found == pytest.approx(mean + 0.5 * update_every / num_steps, abs=2e-4)


def test_the_shares_of_a_wide_average_of_two_narrow_ones_sum_to_one():
    # ema-pytorch: widths of 0.05 and 0.10 make one of 0.20 with shares that sum to 0.76.
    from ppema import posthoc_coefficients

    shares = posthoc_coefficients([5e3, 1e4] * 2, [0.05] * 2 + [0.10] * 2, 1e4, 0.20)
    assert shares.sum() == pytest.approx(1.0, abs=1e-12)


# timm, torch_ema, ultralytics: half precision


def make_narrow(dtype):
    paddle.seed(3)
    model = paddle.nn.Linear(8, 8)
    model.to(dtype=dtype)
    return model


def set_narrow(model, values):
    model.weight.copy_(paddle.to_tensor(values, "float32").astype(model.weight.dtype), True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("make", "twin"),
    [
        (lambda model: ExponentialMovingAverage(model, 0.9, False), ema(lambda t: 0.9)),
        (StochasticWeightAverage, mean_from(1)),
        (lambda model: LatestWeightAverage(model, k=4), mean_of_latest(4, 1)),
        (PowerFunctionEMA, power_function(0.10)),
        (AveragedModel, mean_from(1)),
    ],
)
def test_every_average_of_narrow_weights_lies_between_their_neighbours(make, twin, dtype):
    # timm: of 1,000 updates at 0.9999 a bf16 shadow moves 1.5 % of the weights, fp16 12 %.
    model = make_narrow(dtype)
    average = make(model)
    seen = [model.weight.astype("float64").numpy()]
    for step in range(8):
        # Neighbours in bfloat16, so that a mean of them is none of its numbers.
        set_narrow(model, np.full([8, 8], 1 + step / 128))
        if isinstance(average, AveragedModel):
            average.update_parameters(model)
        else:
            average.update()
        seen.append(model.weight.astype("float64").numpy())
    state = average.state_dict()
    shadow = state["shadow"]["weight"] if "shadow" in state else state["module.weight"]
    assert shadow.dtype == paddle.float32
    np.testing.assert_allclose(shadow.numpy(), twin(np.stack(seen)), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_swap_and_a_resume_leave_every_bit_of_a_wider_shadow(dtype):
    # torch_ema: loading casts the float32 shadow to the weights' dtype. ultralytics: a cast to
    # fp16 for saving poisoned the average itself.
    model = make_narrow(dtype)
    average = ExponentialMovingAverage(model, 0.999, False)
    set_narrow(model, np.ones([8, 8]))
    average.update()
    before = bits(average.state_dict()["shadow"])
    with average.average_parameters():
        average.averaged_state_dict()
        state = copied_state(average)
    assert bits(average.state_dict()["shadow"]) == before
    again = ExponentialMovingAverage(model, 0.999, False)
    again.set_state_dict(state)
    assert {tensor.dtype for tensor in again.state_dict()["shadow"].values()} == {paddle.float32}
    assert bits(again.state_dict()["shadow"]) == before


@pytest.mark.parametrize("name", ["ema", "debiased", "swa", "power function"])
def test_a_state_holds_no_second_copy_of_the_weights(name):
    # torch_ema: collected_params stay after restore() and are saved.
    model = TinyBN()
    average = AVERAGES[name](model)
    average.update()
    with average.average_parameters():
        inside = average.state_dict()
    for state in (inside, average.state_dict()):
        rest = {key: value for key, value in state.items() if key not in ("shadow", "never_moved")}
        assert all(isinstance(value, (int, float, str)) for value in rest.values())
        assert set(state["shadow"]) == {name for name, _ in model.named_parameters()}


# Lightning


def test_before_its_start_the_average_is_the_model_s_weights_not_those_of_its_construction():
    # Lightning WeightAveraging: validates and saves the copy of the construction until then.
    model = TinyBN()
    swa = StochasticWeightAverage(model, start=100)
    latest = LatestWeightAverage(model, every=100)
    for _ in range(5):
        move(model)
        for average in (swa, latest):
            average.update()
            assert bits(average.averaged_state_dict()) == bits(model.state_dict())


# Models that cannot be copied, and wrapped ones


class Uncopyable(TinyBN):
    """Holds a generator, as one with an open file or a lock does."""

    def __init__(self):
        super().__init__()
        self.stream = (number for number in range(3))


def test_a_model_that_python_cannot_copy_is_averaged_all_the_same():
    # torch swa_utils, Composer, Lightning, ema-pytorch: deepcopy of the model fails.
    model = Uncopyable()
    with pytest.raises(TypeError, match="generator"):
        copy.deepcopy(model)
    average = ExponentialMovingAverage(model, 0.5, False)
    fill(model.fc.bias, 4.0)
    average.update()
    with average.average_parameters():
        assert model.fc.bias.tolist() == [2.0] * 10


@pytest.mark.parametrize("norm", [paddle.nn.utils.weight_norm, paddle.nn.utils.spectral_norm])
def test_weights_that_a_layer_computes_are_computed_from_the_average(norm):
    # torch#69413: AveragedModel cannot copy a model under weight_norm.
    paddle.seed(4)
    model = paddle.nn.Sequential(norm(paddle.nn.Linear(4, 4)), paddle.nn.Linear(4, 2))
    x = paddle.randn([2, 4])
    model.eval()
    model(x)
    average = ExponentialMovingAverage(model, 0.5, False)
    for parameter in model[0].parameters():
        if not parameter.stop_gradient:
            parameter.set_value(parameter * 3)
    raw = model(x).numpy()
    average.update()
    other = paddle.nn.Sequential(norm(paddle.nn.Linear(4, 4)), paddle.nn.Linear(4, 2))
    other.eval()
    other.set_state_dict(average.averaged_state_dict())
    expected = other(x).numpy()
    with average.average_parameters():
        np.testing.assert_allclose(model(x).numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(model(x).numpy(), raw, rtol=1e-6)


def test_a_wrapper_with_other_names_is_refused_not_passed_over():
    # senpai: under _orig_mod. no name matched, and the average never moved.
    model = TinyBN()
    averaged = AveragedModel(model)
    wrapper = paddle.nn.Sequential(("_orig_mod", model))
    with pytest.raises(ValueError, match=r"0 of 8 fit; missing: conv\.weight"):
        averaged.update_parameters(wrapper)
    average = ExponentialMovingAverage(wrapper, 0.9)
    with pytest.raises(ValueError, match=r"0 of 8 fit; missing: _orig_mod\.conv\.weight"):
        average.set_state_dict(ExponentialMovingAverage(model, 0.9).state_dict())
