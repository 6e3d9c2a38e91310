"""Weights and optimizer state load where they fit, and are refused whole where they do not."""

from __future__ import annotations

import paddle
import pytest
from networks import Oddities, TinyBN

from ppema.checkpoint import (
    load_strictly,
    load_structured_optimizer_state,
    require_finite,
    structured_optimizer_state,
)
from ppema.errors import CheckpointError, NonFiniteError


def clone(state):
    return {name: tensor.clone() for name, tensor in state.items()}


def test_every_fault_is_named_and_nothing_is_written():
    model = TinyBN()
    before = {name: t.numpy().copy() for name, t in model.state_dict().items()}
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    state["conv.weight"] = paddle.zeros([8, 1, 5, 5])
    state["fc.bias"] = state["fc.bias"].astype("float64")
    state["other"] = state.pop("bn.weight")
    message = (
        r"f: 5 of 8 fit; conv.weight: file \[8,1,5,5\], model \[4,1,3,3\]; "
        "fc.bias: file float64, model float32; missing: bn.weight; unexpected: other"
    )
    with pytest.raises(CheckpointError, match=message):
        load_strictly(model, state, "f")
    assert all((before[name] == t.numpy()).all() for name, t in model.state_dict().items())


@pytest.mark.parametrize("state", [{}, {"w": 3}])
def test_what_holds_no_weights_is_refused(state):
    with pytest.raises(CheckpointError):
        load_strictly(TinyBN(), state, "f")


def test_fitting_weights_load_to_the_bit():
    paddle.seed(1)
    model, other = Oddities(), Oddities()
    load_strictly(other, clone(model.state_dict()), "f")
    for name, tensor in model.state_dict().items():
        assert tensor.numpy().tobytes() == other.state_dict()[name].numpy().tobytes()


@pytest.mark.parametrize(("value", "kind"), [(float("nan"), "NaN"), (float("-inf"), "Inf")])
def test_a_non_finite_weight_is_named(value, kind):
    model = TinyBN()
    model.bn._mean[2] = value
    with pytest.raises(NonFiniteError, match=f"bn._mean holds {kind}; refusing to evaluate"):
        require_finite(model.state_dict(), "evaluate")


def train(model, optimizer, steps):
    for step in range(steps):
        paddle.seed(step)
        model(paddle.randn([4, 1, 28, 28])).square().mean().backward()
        optimizer.step()
        optimizer.clear_grad()
    return {name: t.numpy().tobytes() for name, t in model.state_dict().items()}


@pytest.mark.parametrize(
    "make", [paddle.optimizer.Adam, paddle.optimizer.Momentum, paddle.optimizer.RMSProp]
)
def test_training_goes_on_bit_for_bit_where_another_layer_was_built_first(make):
    paddle.seed(2)
    model = Oddities()
    optimizer = make(0.01, parameters=model.parameters())
    train(model, optimizer, 3)
    weights = clone(model.state_dict())
    state = clone(structured_optimizer_state(optimizer, model))
    expected = train(model, optimizer, 2)

    paddle.nn.Linear(3, 3)
    resumed = Oddities()
    resumed_optimizer = make(0.01, parameters=resumed.parameters())
    load_strictly(resumed, weights, "f")
    load_structured_optimizer_state(resumed_optimizer, resumed, state, "f")
    assert train(resumed, resumed_optimizer, 2) == expected


def test_names_are_the_model_s_own():
    model = TinyBN()
    optimizer = paddle.optimizer.Adam(parameters=model.parameters())
    assert structured_optimizer_state(optimizer, model) == {}
    train(model, optimizer, 1)
    names = structured_optimizer_state(optimizer, model)
    assert "conv.weight/moment1" in names
    assert "fc.bias/beta2_pow_acc" in names


def test_another_optimizer_s_state_or_another_model_s_is_refused():
    model = TinyBN()
    adam = paddle.optimizer.Adam(parameters=model.parameters())
    train(model, adam, 1)
    state = structured_optimizer_state(adam, model)
    momentum = paddle.optimizer.Momentum(parameters=model.parameters())
    with pytest.raises(CheckpointError, match=r"f: 0 of 6 fit; missing: conv\.weight/velocity"):
        load_structured_optimizer_state(momentum, model, state, "f")
    other = paddle.nn.Linear(2, 2)
    adam = paddle.optimizer.Adam(parameters=other.parameters())
    with pytest.raises(CheckpointError, match=r"f: the model has no bn\.bias"):
        load_structured_optimizer_state(adam, other, state, "f")
