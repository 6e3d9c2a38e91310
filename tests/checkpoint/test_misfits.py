"""A file that does not fit names all that does not, and leaves the model as it is (P7)."""

from __future__ import annotations

import paddle
import pytest
from networks import TinyBN

from ppema.checkpoint import load_strictly, read_weight_file, structured_optimizer_state
from ppema.errors import CheckpointError

pytestmark = pytest.mark.reliability

NAMES = (
    *("conv.weight", "bn.weight", "bn.bias", "bn._mean", "bn._variance"),
    *("fc.weight", "fc.bias"),
)


def state_of(model):
    return {name: tensor.clone() + 1 for name, tensor in model.state_dict().items()}


def without(*names):
    return lambda state: {name: state[name] for name in state if name not in names}


def with_entries(**entries):
    named = {name.replace("__", "."): value for name, value in entries.items()}
    return lambda state: {**state, **{name: make() for name, make in named.items()}}


def optimizer_state(_):
    model = TinyBN()
    adam = paddle.optimizer.Adam(parameters=model.parameters())
    model(paddle.ones([2, 1, 28, 28])).sum().backward()
    adam.step()
    return structured_optimizer_state(adam, model)


def zeros(*shape, dtype="float32"):
    return lambda: paddle.zeros(shape, dtype)


CASES = {
    "one is missing": (without("bn._mean"), ["missing: bn._mean"]),
    "several are missing": (
        without("bn._mean", "fc.bias", "conv.weight"),
        ["missing: ", "bn._mean", "fc.bias", "conv.weight"],
    ),
    "nothing is in it": (lambda state: {}, ["0 of ", "missing: ", *NAMES]),
    "one is unexpected": (with_entries(extra=zeros(2)), ["unexpected: extra"]),
    "several are unexpected": (
        with_entries(extra=zeros(2), more=zeros(1)),
        ["unexpected: extra, more"],
    ),
    "a wrong shape": (with_entries(fc__bias=zeros(3)), ["fc.bias: file [3], model ["]),
    "several wrong shapes": (
        with_entries(fc__bias=zeros(3), conv__weight=zeros(4, 1, 3, 5), bn__bias=zeros()),
        ["fc.bias: file [3]", "conv.weight: file [4,1,3,5]", "bn.bias: file []"],
    ),
    "one of no size": (with_entries(fc__bias=zeros(0)), ["fc.bias: file [0], model ["]),
    "a wrong dtype": (
        lambda state: {**state, "fc.bias": state["fc.bias"].astype("float64")},
        ["fc.bias: file float64, model float32"],
    ),
    "half precision throughout": (
        lambda state: {name: tensor.astype("bfloat16") for name, tensor in state.items()},
        ["0 of ", *(f"{name}: file " for name in NAMES)],
    ),
    "all faults at once": (
        lambda state: with_entries(extra=zeros(2), fc__bias=zeros(3))(without("bn.bias")(state)),
        ["fc.bias: file [3]", "missing: bn.bias", "unexpected: extra"],
    ),
    "names of a wrapped model": (
        lambda state: {f"_layers.{name}": tensor for name, tensor in state.items()},
        ["0 of ", *NAMES, *(f"_layers.{name}" for name in NAMES)],
    ),
    "an optimizer's state": (optimizer_state, ["0 of ", "missing: ", *NAMES, "fc.bias/moment1"]),
    "weights one level down": (lambda state: {"model": state}, ["not weights (holds model)"]),
    "a number beside the weights": (
        lambda state: {**state, "epoch": 3},
        ["not weights (holds epoch)"],
    ),
    "a name that is a number": (
        lambda state: {**state, 7: paddle.ones([1])},
        ["not weights (holds 7)"],
    ),
}


@pytest.mark.filterwarnings("ignore:The input state dict is empty")
@pytest.mark.parametrize("case", CASES)
def test_all_that_does_not_fit_is_named_and_the_model_untouched(tmp_path, case):
    spoil, parts = CASES[case]
    model = TinyBN()
    before = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    path = tmp_path / "w.pdparams"
    paddle.save(spoil(state_of(model)), str(path))
    with pytest.raises(CheckpointError) as caught:
        load_strictly(model, read_weight_file(path), str(path))
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert text.isprintable()
    assert [part for part in parts if part not in text] == []
    for name, tensor in model.state_dict().items():
        assert tensor.numpy().tobytes() == before[name].tobytes()
