"""Which tensors an average holds, what it refuses, and the state it saves."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import paddle
import pytest
from networks import Oddities, TinyBN
from paddle.base.framework import EagerParamBase
from paddle.vision.models import LeNet

from ppema import ArgumentError, ExponentialMovingAverage
from ppema.averaging.decay import half_life_to_decay, initial_share, threshold_decay


def test_averaging_imports_nothing_else_of_ppema():
    code = (
        "import sys, ppema.averaging\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('yaml', 'visualdl', 'numba')"
        " or m.startswith('ppema.') and not m.startswith('ppema.averaging')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert result.stdout.strip() == "[]"


def test_the_update_equals_subtract_multiply_add_in_float32_bit_for_bit():
    paddle.seed(1)
    model = paddle.nn.Linear(300, 301)  # more than one block of the blocked loop
    ema = ExponentialMovingAverage(model, 0.9998)
    slow = {name: t.numpy().copy() for name, t in model.state_dict().items()}
    for _ in range(20):
        model.weight.set_value(paddle.randn([300, 301]))
        weight = np.float32(1.0 - ema.update())
        for name, live in model.state_dict().items():
            slow[name] = slow[name] + weight * (live.numpy() - slow[name])
    for name, average in ema.averaged_state_dict().items():
        assert average.numpy().tobytes() == slow[name].tobytes()


def test_a_transposed_weight_is_averaged_element_by_element():
    transposed = paddle.to_tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]).T
    model = paddle.nn.Layer()
    model.weight = EagerParamBase.from_tensor(transposed)
    assert not model.weight.is_contiguous()
    ema = ExponentialMovingAverage(model, 0.5, False)
    ema.update()
    assert ema.averaged_state_dict()["weight"].tolist() == [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]


def test_the_update_leaves_no_graph_behind():
    model = LeNet()
    ema = ExponentialMovingAverage(model)
    ema.update()
    assert all(t.stop_gradient for t in ema.state_dict()["shadow"].values())
    assert all(t.stop_gradient for t in ema.averaged_state_dict().values())


def test_a_weight_reallocated_by_its_user_is_still_followed():
    model = paddle.nn.Linear(2, 2, bias_attr=False)
    ema = ExponentialMovingAverage(model, 0.5, False)
    ema.update()
    model.weight.data = paddle.full([2, 2], 8.0)
    model.weight.stop_gradient = False  # which Paddle 3.0 takes from the new data
    before = ema.averaged_state_dict()["weight"].numpy()
    ema.update()
    np.testing.assert_allclose(ema.averaged_state_dict()["weight"].numpy(), (before + 8) / 2)


def test_tied_weights_move_once_and_are_saved_under_both_names():
    model = Oddities()
    ema = ExponentialMovingAverage(model, 0.9, False)
    model.tied.weight.set_value(model.tied.weight + 1)
    expected = model.tied.weight.numpy() - 0.9
    ema.update()
    averaged = ema.averaged_state_dict()
    np.testing.assert_allclose(averaged["tied.weight"].numpy(), expected, atol=1e-6)
    assert (averaged["tied_again.weight"].numpy() == averaged["tied.weight"].numpy()).all()
    assert "tied_again.weight" not in ema.state_dict()["shadow"]


def test_integer_buffers_stay_integers_and_current():
    model = Oddities()
    ema = ExponentialMovingAverage(model, 0.9)
    for _ in range(3):
        model(paddle.randn([4, 1, 28, 28]))
        ema.update()
    counter = ema.averaged_state_dict()["num_batches"]
    assert counter.dtype == paddle.int64
    assert int(counter) == 3


def test_averaged_weights_load_into_a_new_model():
    paddle.seed(2)
    model = LeNet()
    ema = ExponentialMovingAverage(model, 0.9)
    model.fc[0].weight.set_value(model.fc[0].weight * 2)
    ema.update()
    other = LeNet()
    missing, unexpected = other.set_state_dict(ema.averaged_state_dict())
    assert (missing, unexpected) == ([], [])
    image = paddle.randn([2, 1, 28, 28])
    with ema.average_parameters():
        expected = model(image).numpy()
    assert (other(image).numpy() == expected).all()


def test_include_and_exclude_choose_by_name():
    model = LeNet()
    names = set(ExponentialMovingAverage(model, include=["fc.*"]).state_dict()["shadow"])
    assert names == {f"fc.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")}
    ema = ExponentialMovingAverage(model, 0.9, exclude=["*.bias"])
    model.fc[0].bias.set_value(model.fc[0].bias + 1)
    ema.update()
    live = model.fc[0].bias.numpy()
    assert (ema.averaged_state_dict()["fc.0.bias"].numpy() == live).all()


def test_register_starts_again_at_zero():
    model = paddle.nn.Linear(1, 1)
    ema = ExponentialMovingAverage(model, 0.9)
    model.weight.set_value(paddle.full([1, 1], 3.0))
    ema.update()
    ema.register()
    assert ema.num_updates == 0
    assert ema.averaged_state_dict()["weight"].item() == 3.0
    assert ema.update() == 0.1


def test_a_replaced_layer_is_noticed():
    model = LeNet()
    ema = ExponentialMovingAverage(model)
    model.fc[2] = paddle.nn.Linear(84, 5)
    for call in (ema.apply, ema.averaged_state_dict, ema.state_dict):
        with pytest.raises(RuntimeError, match=r"fc\.2\.bias, fc\.2\.weight replaced"):
            call()
    ema.register()
    assert ema.averaged_state_dict()["fc.2.weight"].shape == [84, 5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": 1.0}, r"decay must be in \[0, 1\), got 1.0"),
        ({"decay": -1}, r"decay must be in \[0, 1\), got -1"),
        ({"decay": float("nan")}, r"decay must be in \[0, 1\), got nan"),
        ({"decay": 0.9, "half_life": 10}, "half_life must be left out where decay is given"),
        ({"half_life": 1e17}, "half_life must be short enough for the average to move"),
        ({"half_life": 0}, "half_life must be a finite duration above 0, got 0"),
        ({"schedule": "cosine"}, "schedule must be one of constant, threshold, exponential, power"),
        ({"tau": 0}, "tau must be"),
        ({"gamma": -1}, "gamma must be"),
        ({"power": float("inf")}, "power must be"),
        ({"update_every": 0}, "update_every must be a whole number above 0, got 0"),
        ({"update_every": 1.5}, "update_every must be"),
        ({"buffers": "mean"}, "buffers must be one of average, copy, recompute, got 'mean'"),
        ({"shadow_dtype": "float16"}, "shadow_dtype must be float32 or float64"),
        ({"include": "fc"}, "include must be a list of patterns"),
        ({"include": ["nothing.*"]}, "include must be patterns that match"),
        ({"exclude": ["nothing.*"]}, "exclude must be patterns that match"),
        ({"device": "tpu"}, "device must be cpu, gpu or gpu:N"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        ExponentialMovingAverage(LeNet(), **arguments)
    assert caught.value.argument in arguments


@pytest.mark.skipif(paddle.is_compiled_with_cuda(), reason="a CPU build's line")
def test_a_gpu_is_refused_where_cuda_is_missing():
    with pytest.raises(ArgumentError, match="built without CUDA"):
        ExponentialMovingAverage(LeNet(), device="gpu")


def test_shadows_on_the_cpu_by_name_are_the_same_average():
    model = LeNet()
    averages = [ExponentialMovingAverage(model, 0.9, device=place) for place in (None, "cpu")]
    assert all(t.place.is_cpu_place() for t in averages[1].state_dict()["shadow"].values())
    model.fc[0].weight.set_value(model.fc[0].weight * 2)
    first, second = ((ema.update(), ema.averaged_state_dict())[1] for ema in averages)
    assert all((first[name] == second[name]).all() for name in first)


def test_a_model_without_weights_is_refused():
    with pytest.raises(ValueError, match="nothing to average"):
        ExponentialMovingAverage(paddle.nn.ReLU())
    with pytest.raises(TypeError, match=r"must be a paddle\.nn\.Layer, got dict"):
        ExponentialMovingAverage({})


def changed_state(ema, **changes):
    return {**ema.state_dict(), **changes}


def test_a_state_that_does_not_fit_changes_nothing():
    ema = ExponentialMovingAverage(TinyBN(), 0.9)
    ema.update()
    shadow = ema.state_dict()["shadow"]
    wrong_shape = {**shadow, "conv.weight": paddle.zeros([8, 1, 5, 5])}
    wrong_dtype = {**shadow, "fc.bias": paddle.zeros([10], "float64")}
    extra = {**shadow, "other": paddle.zeros([1])}
    missing = {name: t for name, t in shadow.items() if name != "fc.bias"}
    before = {name: t.numpy().copy() for name, t in shadow.items()}
    for state, message in [
        (changed_state(ema, shadow=wrong_shape), r"7 of 8 fit; conv.weight: file \[8,1,5,5\], mo"),
        (changed_state(ema, shadow=wrong_dtype), "fc.bias: file float64, model float32"),
        (changed_state(ema, shadow=extra), "8 of 8 fit; unexpected: other"),
        (changed_state(ema, shadow=missing), "7 of 8 fit; missing: fc.bias"),
        (changed_state(ema, kind="Other"), "the state is of Other"),
        (changed_state(ema, num_updates=1.5), "num_updates must be a whole number from 0, got 1"),
        (changed_state(ema, pending_decay=-1.0), "pending_decay must be a number from 0, got -1"),
        ({}, "got none"),
    ]:
        with pytest.raises(ValueError, match=message):
            ema.set_state_dict(state)
    assert ema.num_updates == 1
    assert all((before[name] == t.numpy()).all() for name, t in shadow.items())


def test_distance_is_the_norm_of_raw_minus_averaged():
    model = paddle.nn.Linear(3, 4)
    ema = ExponentialMovingAverage(model, 0.5, False)
    assert ema.distance() == 0.0
    model.weight.set_value(model.weight + 2)
    assert ema.distance() == pytest.approx(2 * 12**0.5, rel=1e-6)


def test_decays_on_floats():
    assert threshold_decay(0.999, 0) == 0.1
    assert threshold_decay(0.5, 100) == 0.5
    assert half_life_to_decay(10) ** 10 == pytest.approx(0.5)
    assert initial_share(lambda t: 0.9999, 2000) == pytest.approx(0.8187, abs=1e-4)


def test_half_life_is_the_decay_it_says():
    model = paddle.nn.Linear(1, 1)
    model.weight.set_value(paddle.zeros([1, 1]))
    ema = ExponentialMovingAverage(model, half_life=5, schedule="constant")
    model.weight.set_value(paddle.ones([1, 1]))
    for _ in range(5):
        ema.update()
    assert ema.averaged_state_dict()["weight"].item() == pytest.approx(0.5, rel=1e-6)


def test_an_averaged_state_has_the_names_that_paddle_gave_the_weights():
    model = LeNet()
    averaged = ExponentialMovingAverage(model).averaged_state_dict()
    assert {t.name for t in averaged.values()} == {t.name for t in model.state_dict().values()}


@pytest.mark.parametrize("state", [None, 3, {"shadow": None}, {"shadow": {"weight": 3}}])
def test_what_is_no_state_is_refused(state):
    ema = ExponentialMovingAverage(paddle.nn.Linear(1, 1))
    if isinstance(state, dict):
        state = {**ema.state_dict(), **state}
    with pytest.raises(ValueError, match="state"):
        ema.set_state_dict(state)


def test_the_initial_share_of_a_very_long_run_is_known_at_once():
    started = initial_share(lambda t: threshold_decay(0.9999999, t), 10)
    assert started == pytest.approx(np.prod([(1 + t) / (10 + t) for t in range(10)]))
    assert initial_share(lambda t: 0.9999999, 10**9) == pytest.approx(np.exp(-100), rel=1e-3)
    assert initial_share(lambda t: threshold_decay(0.9998, t), 10**12) == 0.0


@pytest.mark.parametrize("shadow_dtype", ["float32", "float64"])
def test_what_is_served_has_the_model_s_dtypes_and_memory_of_its_own(shadow_dtype):
    model = Oddities()
    ema = ExponentialMovingAverage(model, 0.9, shadow_dtype=shadow_dtype)
    served = ema.averaged_state_dict()
    assert {n: t.dtype for n, t in served.items()} == {
        n: t.dtype for n, t in model.state_dict().items()
    }
    for tensor in served.values():
        tensor.zero_()
    assert ema.averaged_state_dict()["head.weight"].any()
