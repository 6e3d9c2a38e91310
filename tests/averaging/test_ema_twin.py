"""ExponentialMovingAverage, stepped beside its float64 twin in real training."""

from __future__ import annotations

import paddle
import pytest
from networks import Oddities, TinyBN
from paddle.vision.models import LeNet
from twins import EmaTwin, assert_close_to_twin

from ppema import ExponentialMovingAverage

SCHEDULES = ("constant", "threshold", "exponential", "power")


def train_step(model, optimizer):
    image = paddle.randn([8, 1, 28, 28])
    label = paddle.randint(0, 10, [8])
    paddle.nn.functional.cross_entropy(model(image), label).backward()
    optimizer.step()
    optimizer.clear_grad()


def make_optimizer(model):
    # A high rate, so that the weights move far and a wrong average shows.
    return paddle.optimizer.Adam(0.01, parameters=model.parameters())


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("network", [LeNet, TinyBN, Oddities])
@pytest.mark.parametrize("buffers", ["average", "copy"])
def test_steps_equal_the_twin(network, schedule, buffers):
    paddle.seed(1)
    model = network()
    optimizer = make_optimizer(model)
    settings = {"decay": 0.98, "schedule": schedule, "buffers": buffers, "tau": 20.0}
    ema, twin = ExponentialMovingAverage(model, **settings), EmaTwin(model, **settings)
    for _ in range(60):
        train_step(model, optimizer)
        assert ema.update() == pytest.approx(twin.update(), rel=1e-12)
    assert_close_to_twin(ema.averaged_state_dict(), twin.shadow, 5e-6)


@pytest.mark.parametrize("shadow_dtype", ["float32", "float64"])
def test_long_run_stays_close_to_the_twin(shadow_dtype):
    paddle.seed(2)
    model = Oddities()
    optimizer = make_optimizer(model)
    ema = ExponentialMovingAverage(model, 0.999, shadow_dtype=shadow_dtype)
    twin = EmaTwin(model, 0.999, "threshold")
    for _ in range(1000):
        train_step(model, optimizer)
        ema.update()
        twin.update()
    shadows = {name: twin.shadow[name] for name in ema.state_dict()["shadow"]}
    tolerance = 1e-6 if shadow_dtype == "float64" else 1e-4
    assert_close_to_twin(ema.state_dict()["shadow"], shadows, tolerance)


def test_freezing_and_unfreezing_in_mid_run_equals_the_twin():
    paddle.seed(3)
    model = Oddities()
    ema, twin = ExponentialMovingAverage(model, 0.9), EmaTwin(model, 0.9, "threshold")
    for step in range(40):
        if step == 10:
            model.first.weight.stop_gradient = True
        if step == 15:
            model.frozen.weight.stop_gradient = False
        if step == 25:
            model.first.weight.stop_gradient = False
        if step % 5 == 0:
            optimizer = make_optimizer(model)
        train_step(model, optimizer)
        ema.update()
        twin.update()
        assert_close_to_twin(ema.averaged_state_dict(), twin.shadow, 5e-6)


def test_loading_in_mid_run_continues_bit_for_bit():
    paddle.seed(4)
    model = Oddities()
    optimizer = make_optimizer(model)
    straight = ExponentialMovingAverage(model, 0.99, update_every=3)
    resumed = ExponentialMovingAverage(model, 0.99, update_every=3)
    for step in range(50):
        train_step(model, optimizer)
        straight.update()
        resumed.update()
        if step == 24:
            state = {**resumed.state_dict()}
            state["shadow"] = {name: t.clone() for name, t in state["shadow"].items()}
            resumed = ExponentialMovingAverage(model, 0.99, update_every=3)
            resumed.set_state_dict(state)
    for name, tensor in straight.averaged_state_dict().items():
        assert tensor.numpy().tobytes() == resumed.averaged_state_dict()[name].numpy().tobytes()


@pytest.mark.parametrize("num_updates", [1, 10, 1000])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_constant_weights_stay_constant(schedule, num_updates):
    model = Oddities()
    ema = ExponentialMovingAverage(model, 0.999, schedule=schedule)
    before = {name: t.numpy().copy() for name, t in model.state_dict().items()}
    for _ in range(num_updates):
        ema.update()
    for name, tensor in ema.averaged_state_dict().items():
        assert tensor.numpy().tobytes() == before[name].tobytes()


def test_update_every_keeps_the_window():
    model = paddle.nn.Linear(1, 1)
    model.weight.set_value(paddle.zeros([1, 1]))
    each = ExponentialMovingAverage(model, 0.9, False)
    third = ExponentialMovingAverage(model, 0.9, False, update_every=3)
    model.weight.set_value(paddle.ones([1, 1]))
    kept = [(each.update(), third.update()) for _ in range(6)]
    assert [share for _, share in kept] == pytest.approx([1, 1, 0.9**3, 1, 1, 0.9**3])
    average = [ema.averaged_state_dict()["weight"].item() for ema in (each, third)]
    assert average == pytest.approx([1 - 0.9**6] * 2, rel=1e-6)


def test_register_forgets_the_decays_that_update_every_left_out():
    model = paddle.nn.Linear(1, 1)
    ema = ExponentialMovingAverage(model, 0.9, False, update_every=2)
    ema.update()
    ema.register()
    assert [ema.update(), ema.update()] == [1.0, pytest.approx(0.81)]


def test_float64_weights_have_float64_shadows():
    model = paddle.nn.Linear(2, 2)
    model.to(dtype="float64")
    ema = ExponentialMovingAverage(model, 0.9)
    assert {t.dtype for t in ema.state_dict()["shadow"].values()} == {paddle.float64}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_weights_move_a_float32_shadow_where_their_own_dtype_would_stall(dtype):
    model = paddle.nn.Linear(2, 2, bias_attr=False)
    model.to(dtype=dtype)
    model.weight.copy_(paddle.ones([2, 2]).astype(dtype), True)
    ema = ExponentialMovingAverage(model, 0.9999, False)
    model.weight.copy_(paddle.full([2, 2], 2.0).astype(dtype), True)
    for _ in range(1000):
        ema.update()
    shadow = ema.state_dict()["shadow"]["weight"]
    assert shadow.dtype == paddle.float32
    assert float(shadow[0, 0]) == pytest.approx(2 - 0.9999**1000, rel=1e-5)
    assert ema.averaged_state_dict()["weight"].dtype == model.weight.dtype


def test_half_precision_weights_swap_and_come_back():
    model = paddle.nn.Linear(2, 2, bias_attr=False)
    model.to(dtype="float16")
    ema = ExponentialMovingAverage(model, 0.5, False)
    raw = model.weight.astype("float32").numpy() + 1
    model.weight.copy_(paddle.to_tensor(raw).astype("float16"), True)
    held = model.weight.numpy().tobytes()
    ema.update()
    expected = ema.averaged_state_dict()["weight"].astype("float32").numpy()
    with ema.average_parameters():
        assert model.weight.dtype == paddle.float16
        assert (model.weight.astype("float32").numpy() == expected).all()
        assert (ema.averaged_state_dict()["weight"].astype("float32").numpy() == expected).all()
    assert model.weight.numpy().tobytes() == held
