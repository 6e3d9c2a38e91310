"""AveragedModel: a Layer that holds an average, copied whole, updated by name."""

from __future__ import annotations

import warnings

import numpy as np
import paddle
import pytest
from networks import Oddities, TinyBN
from paddle.vision.models import LeNet
from test_ema_twin import make_optimizer, train_step
from twins import WeightedTwin, assert_close_to_twin

from ppema import (
    ArgumentError,
    AveragedModel,
    ExponentialMovingAverage,
    ExponentialMovingAverageModel,
    update_bn,
)


def state_without_prefix(averaged):
    state = averaged.state_dict()
    return {name[len("module.") :]: t for name, t in state.items() if name != "n_averaged"}


def ema_shares(t):
    return [0.9**t] + [0.1 * 0.9 ** (t - i) for i in range(1, t + 1)]


@pytest.mark.parametrize(
    ("make", "shares"),
    [
        (lambda model: AveragedModel(model, use_buffers=True), lambda t: [1] * (t + 1)),
        (lambda model: ExponentialMovingAverageModel(model, 0.9), ema_shares),
    ],
)
def test_updates_equal_the_definition_with_a_resume_in_the_middle(make, shares):
    paddle.seed(1)
    model = Oddities()
    optimizer = make_optimizer(model)
    averaged, twin = make(model), WeightedTwin(model, shares)
    # A buffer of floats is averaged here, where WeightAverage takes it from the live model.
    scales = []
    for step in range(40):
        train_step(model, optimizer)
        averaged.update_parameters(model)
        twin.update()
        scales.append(float(model.running_scale[0]))
        if step == 20:
            state = {name: tensor.clone() for name, tensor in averaged.state_dict().items()}
            averaged = make(Oddities())
            missing, unexpected = averaged.set_state_dict(state)
            # Paddle 3.0 passes over a parameter without elements.
            assert set(missing) | set(unexpected) <= {"module.empty"}
    expected = {**twin.shadow}
    weights = np.array(shares(39), dtype="float64")
    expected["running_scale"] = np.full(2, weights / weights.sum() @ np.array(scales))
    assert int(averaged.n_averaged) == 40
    assert_close_to_twin(state_without_prefix(averaged), expected, 5e-6)


def test_the_average_is_a_layer_in_eval_mode_that_answers_like_its_weights():
    paddle.seed(2)
    model = LeNet()
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    model.fc[2].bias.set_value(model.fc[2].bias + 1)
    averaged.update_parameters(model)
    image = paddle.randn([3, 1, 28, 28])
    expected = model(image).numpy() - 0.5
    np.testing.assert_allclose(averaged(image).numpy(), expected, atol=1e-5)
    assert not averaged.module.training
    assert averaged(image).stop_gradient
    names = set(averaged.state_dict())
    assert names == {f"module.{name}" for name in model.state_dict()} | {"n_averaged"}


def test_the_first_update_copies():
    model = LeNet()
    averaged = AveragedModel(LeNet())
    averaged.update_parameters(model)
    for name, tensor in state_without_prefix(averaged).items():
        assert (tensor == model.state_dict()[name]).all()


def test_avg_fn_gets_the_average_the_weights_and_the_count():
    counts = []

    def larger(averaged, current, num_averaged):
        counts.append(num_averaged)
        return paddle.maximum(averaged, current)

    model = paddle.nn.Linear(1, 1, bias_attr=False)
    averaged = AveragedModel(model, avg_fn=larger)
    for value in (1.0, 5.0, 3.0):
        model.weight.set_value(paddle.full([1, 1], value))
        averaged.update_parameters(model)
    assert averaged.module.weight.item() == 5.0
    assert counts == [1, 2]


@pytest.mark.parametrize("use_buffers", [False, True])
def test_use_buffers_says_whether_statistics_are_averaged_or_copied(use_buffers):
    model = TinyBN()
    averaged = AveragedModel(model, use_buffers=use_buffers)
    for value in (1.0, 4.0):
        model.bn._mean.fill_(value)
        averaged.update_parameters(model)
    assert averaged.module.bn._mean[0].item() == (2.5 if use_buffers else 4.0)


def test_tied_weights_stay_tied_and_move_once():
    model = Oddities()
    averaged = AveragedModel(model)
    assert averaged.module.tied.weight is averaged.module.tied_again.weight
    for value in (0.0, 4.0):
        model.tied.weight.set_value(paddle.full([16, 16], value))
        averaged.update_parameters(model)
    assert (averaged.module.tied.weight.numpy() == 2.0).all()


@pytest.mark.parametrize("norm", [paddle.nn.utils.weight_norm, paddle.nn.utils.spectral_norm])
def test_a_model_under_weight_or_spectral_norm_is_copied_and_followed(norm):
    paddle.seed(3)
    model = paddle.nn.Sequential(norm(paddle.nn.Linear(4, 4)), paddle.nn.Linear(4, 2))
    model.eval()
    x = paddle.randn([2, 4])
    model(x)
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    np.testing.assert_allclose(averaged(x).numpy(), model(x).numpy(), rtol=1e-6)
    before = averaged(x).numpy()
    for parameter in model.parameters():
        parameter.set_value(parameter * 1.5)
    assert (averaged(x).numpy() == before).all()
    averaged.update_parameters(model)
    assert (averaged(x).numpy() != before).any()


def test_half_precision_is_averaged_in_float32():
    model = paddle.nn.Linear(1, 1, bias_attr=False)
    model.to(dtype="float16")
    averaged = ExponentialMovingAverageModel(model, 0.9999)
    model.weight.copy_(paddle.ones([1, 1]).astype("float16"), True)
    averaged.update_parameters(model)
    model.weight.copy_(paddle.full([1, 1], 2.0).astype("float16"), True)
    for _ in range(100):
        averaged.update_parameters(model)
    assert averaged.module.weight.item() == pytest.approx(2 - 0.9999**100, rel=1e-6)


def test_statistics_can_be_computed_anew_for_the_average():
    model = TinyBN()
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    before = model.bn._mean.numpy().copy()
    update_bn([paddle.randn([8, 1, 28, 28]) + 3], averaged)
    assert (model.bn._mean.numpy() == before).all()
    assert averaged.module.bn._mean.numpy().any()
    assert not averaged.module.training


def test_another_model_and_what_cannot_be_copied_are_refused():
    averaged = AveragedModel(LeNet())
    with pytest.raises(ValueError, match=r"not the one that is averaged: 8 of 10 fit; fc\.2\.weig"):
        averaged.update_parameters(LeNet(num_classes=5))
    with pytest.raises(TypeError, match="model must be"):
        AveragedModel({})
    model = LeNet()
    model.generator = (n for n in range(3))
    with pytest.raises(TypeError, match=r"LeNet cannot be copied \(.*generator"):
        AveragedModel(model)
    with pytest.raises(ArgumentError, match="device must be"):
        AveragedModel(LeNet(), device="moon")
    with pytest.raises(ArgumentError, match="decay must be"):
        ExponentialMovingAverageModel(LeNet(), 1.0)


def test_the_copy_can_lie_on_a_named_place():
    averaged = AveragedModel(LeNet(), device="cpu")
    assert all(p.place.is_cpu_place() for p in averaged.parameters())


def test_weights_that_are_an_average_for_the_moment_are_refused():
    model = paddle.nn.Linear(2, 2)
    ema = ExponentialMovingAverage(model, 0.5)
    averaged = AveragedModel(model)
    with ema.average_parameters(), pytest.raises(RuntimeError, match="an average is applied"):
        averaged.update_parameters(model)
    averaged.update_parameters(model)


@pytest.mark.parametrize("make", [AveragedModel, lambda m: ExponentialMovingAverageModel(m, 0.9)])
def test_weights_that_are_not_finite_are_never_averaged(make):
    model = paddle.nn.Linear(2, 2)
    averaged = make(model)
    averaged.update_parameters(model)
    before = averaged.module.weight.numpy().copy()
    model.weight.set_value(paddle.to_tensor([[1.0, float("nan")], [0.0, 0.0]]))
    with pytest.raises(FloatingPointError, match="weight holds NaN or Inf"):
        averaged.update_parameters(model)
    assert (averaged.module.weight.numpy() == before).all()
    assert int(averaged.n_averaged) == 1
    # Large is not infinite, also where the squares are.
    model.weight.set_value(paddle.full([2, 2], 1e30))
    averaged.update_parameters(model)
    assert int(averaged.n_averaged) == 2


def test_updating_does_not_make_python_repeat_its_warnings(monkeypatch):
    # Leaving catch_warnings makes Python forget which warnings it has shown.
    model = paddle.nn.Linear(2, 2)
    averaged = AveragedModel(model)
    entered = []
    real = warnings.catch_warnings.__enter__
    monkeypatch.setattr(
        warnings.catch_warnings, "__enter__", lambda self: entered.append(self) or real(self)
    )
    averaged.update_parameters(model)
    assert entered == []
