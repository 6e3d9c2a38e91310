"""The swap: the average goes into the model and the raw weights come back, whatever happens."""

from __future__ import annotations

import copy

import paddle
import pytest
from networks import Oddities, TinyBN
from paddle.vision.models import LeNet

from ppema import ExponentialMovingAverage


def bits(state):
    return {name: tensor.numpy().tobytes() for name, tensor in state.items()}


@pytest.fixture
def moved():
    """Return a network and an average of it that lags behind."""
    paddle.seed(7)
    model = Oddities()
    ema = ExponentialMovingAverage(model, 0.5)
    for parameter in model.parameters():
        parameter.set_value(parameter + 1)
    ema.update()
    return model, ema


def test_apply_puts_the_average_in_and_restore_brings_back_every_bit(moved):
    model, ema = moved
    raw, averaged = bits(model.state_dict()), bits(ema.averaged_state_dict())
    assert raw != averaged
    ema.apply()
    assert bits(model.state_dict()) == averaged
    ema.restore()
    assert bits(model.state_dict()) == raw
    assert bits(ema.averaged_state_dict()) == averaged


def test_restored_even_if_the_body_raises(moved):
    model, ema = moved
    raw = bits(model.state_dict())
    with pytest.raises(KeyboardInterrupt), ema.average_parameters():
        raise KeyboardInterrupt
    assert bits(model.state_dict()) == raw


def test_an_exception_in_mid_exchange_leaves_the_raw_weights(moved, monkeypatch):
    from ppema.averaging import swap

    model, ema = moved
    raw, averaged = bits(model.state_dict()), bits(ema.averaged_state_dict())
    real_point, calls = swap._point, []

    def interrupted_point(live, storage):
        calls.append(live)
        real_point(live, storage)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(swap, "_point", interrupted_point)
    with pytest.raises(KeyboardInterrupt):
        ema.apply()
    assert bits(model.state_dict()) == raw
    assert bits(ema.averaged_state_dict()) == averaged


def test_states_read_while_applied_hold_the_average(moved):
    _, ema = moved
    averaged = bits(ema.averaged_state_dict())
    shadow = bits(ema.state_dict()["shadow"])
    with ema.average_parameters():
        assert bits(ema.averaged_state_dict()) == averaged
        assert bits(ema.state_dict()["shadow"]) == shadow


def test_updates_after_a_swap_go_on_from_the_average():
    paddle.seed(8)
    model = LeNet()
    swapped, left_alone = (ExponentialMovingAverage(model, 0.9) for _ in range(2))
    for _ in range(3):
        with swapped.average_parameters():
            pass
        for parameter in model.parameters():
            parameter.set_value(parameter * 1.1)
        swapped.update()
        left_alone.update()
    assert bits(swapped.averaged_state_dict()) == bits(left_alone.averaged_state_dict())


def test_training_goes_on_after_a_swap_as_if_there_had_been_none():
    losses = []
    for with_swap in (False, True):
        paddle.seed(9)
        model = LeNet()
        optimizer = paddle.optimizer.Adam(parameters=model.parameters())
        ema = ExponentialMovingAverage(model, 0.9)
        for _ in range(4):
            loss = model(paddle.randn([4, 1, 28, 28])).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            ema.update()
            if with_swap:
                with ema.average_parameters():
                    pass
        losses.append(loss.numpy().tobytes())
    assert losses[0] == losses[1]


def test_a_swap_between_forward_and_backward_is_an_error_not_a_wrong_gradient():
    model = LeNet()
    ema = ExponentialMovingAverage(model, 0.9)
    output = model(paddle.randn([2, 1, 28, 28])).sum()
    with ema.average_parameters():
        pass
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward()


def test_a_kept_averaged_state_does_not_move(moved):
    model, ema = moved
    kept = ema.averaged_state_dict()
    before = bits(kept)
    with ema.average_parameters():
        pass
    for parameter in model.parameters():
        parameter.set_value(parameter + 1)
    ema.update()
    assert bits(kept) == before


@pytest.mark.parametrize(
    ("call", "advice"),
    [
        (lambda ema: ema.apply(), "restore"),
        (lambda ema: ema.update(), "restore"),
        (lambda ema: ema.register(), "restore"),
        (lambda ema: ema.set_state_dict(ema.state_dict()), "restore"),
    ],
)
def test_calls_that_need_the_raw_weights_say_so(moved, call, advice):
    model, ema = moved
    averaged = bits(ema.averaged_state_dict())
    with ema.average_parameters():
        with pytest.raises(RuntimeError, match=advice):
            call(ema)
        assert bits(model.state_dict()) == averaged


def test_restore_without_apply_says_so(moved):
    with pytest.raises(RuntimeError, match=r"call apply\(\) first"):
        moved[1].restore()


def test_two_averages_of_one_model_cannot_be_applied_at_once():
    paddle.seed(3)
    model = LeNet()
    first, second = ExponentialMovingAverage(model, 0.5), ExponentialMovingAverage(model, 0.9)
    other = ExponentialMovingAverage(LeNet(), 0.9)
    raw = bits(model.state_dict())
    with first.average_parameters():
        for call in (second.apply, second.update, second.register):
            with pytest.raises(RuntimeError, match="another average of this model is applied"):
                call()
        other.update()
        with other.average_parameters():
            pass
    assert bits(model.state_dict()) == raw
    with second.average_parameters():
        pass
    assert bits(model.state_dict()) == raw


def test_a_deep_copy_averages_the_copied_model():
    import copy

    model = TinyBN()
    ema = ExponentialMovingAverage(model, 0.5, False)
    twin = copy.deepcopy(ema)
    copied = twin._store._model
    for network, average in ((model, ema), (copied, twin)):
        network.bn._mean.fill_(4.0)
        average.update()
        assert average.averaged_state_dict()["bn._mean"].tolist() == [2.0] * 4
    assert copied is not model


def train_in_place(model):
    optimizer = paddle.optimizer.SGD(0.1, parameters=model.parameters())
    model(paddle.randn([4, 1, 28, 28])).sum().backward()
    optimizer.step()
    optimizer.clear_grad()


@pytest.mark.parametrize(
    "write",
    [
        train_in_place,
        lambda model: model(paddle.randn([4, 1, 28, 28])),
        lambda model: model.set_state_dict(TinyBN().state_dict()),
    ],
)
def test_writing_to_the_average_while_it_is_applied_is_an_error(write):
    paddle.seed(4)
    model = TinyBN()
    ema = ExponentialMovingAverage(model, 0.9)
    kept = {name: tensor.clone() for name, tensor in ema.state_dict()["shadow"].items()}
    raw = bits(model.state_dict())
    written = pytest.raises(RuntimeError, match="the average was written to while it was in the")
    with written, ema.average_parameters():
        write(model)
    assert bits(model.state_dict()) == raw
    ema.set_state_dict({**ema.state_dict(), "shadow": kept})
    with ema.average_parameters():
        model.eval()
        model(paddle.randn([4, 1, 28, 28]))


def test_a_state_kept_across_a_swap_holds_the_average(moved):
    _, ema = moved
    before = ema.state_dict()["shadow"]
    averaged = bits(before)
    with ema.average_parameters():
        inside = ema.state_dict()["shadow"]
        assert bits(before) == bits(inside) == averaged
    assert bits(before) == bits(inside) == averaged


def test_another_average_that_is_applied_does_not_show_in_this_one_s_state():
    model = TinyBN()
    applied = ExponentialMovingAverage(model, 0.5, False)
    read = ExponentialMovingAverage(model, 0.5, False, buffers="copy", exclude=["fc.bias"])
    whole = ExponentialMovingAverage(model, 0.25, False)
    model.bn._mean.fill_(4.0)
    for average in (applied, read, whole):
        average.update()
    before = {name: t.numpy().tobytes() for name, t in whole.averaged_state_dict().items()}
    with applied.average_parameters():
        with pytest.raises(RuntimeError, match="takes some tensors from the model"):
            read.averaged_state_dict()
        inside = {name: t.numpy().tobytes() for name, t in whole.averaged_state_dict().items()}
    assert inside == before
    assert read.averaged_state_dict()["bn._mean"].tolist() == [4.0] * 4


def averaged_bits(ema):
    return {name: t.numpy().tobytes() for name, t in ema.averaged_state_dict().items()}


@pytest.mark.parametrize("part", [lambda model: model, lambda model: model.bn])
def test_a_model_state_taken_while_applied_stays_the_average(part, moved):
    model, ema = moved
    names = {id(tensor): tensor.name for tensor in model.state_dict().values()}
    raw = bits(part(model).state_dict())
    with ema.average_parameters():
        kept = part(model).state_dict()
        inside = bits(kept)
        assert [kept[name].name for name in kept] == [
            names[id(live)] for live in part(model).state_dict(use_hook=False).values()
        ]
    assert bits(kept) == inside != raw
    assert bits(part(model).state_dict()) == raw
    # Only for the time of the swap: afterwards a state is of the live tensors again.
    assert all(id(tensor) in names for tensor in part(model).state_dict().values())


def test_a_model_exported_while_applied_is_the_average(moved, tmp_path):
    model, ema = moved
    averaged = averaged_bits(ema)
    spec = [paddle.static.InputSpec([None, 1, 28, 28], "float32")]
    model.eval()
    with ema.average_parameters():
        paddle.save(model.state_dict(), str(tmp_path / "average.pdparams"))
        paddle.jit.save(model, str(tmp_path / "model"), input_spec=spec)
    assert bits(paddle.load(str(tmp_path / "average.pdparams"))) == averaged
    exported = paddle.jit.load(str(tmp_path / "model"))
    image = paddle.randn([2, 1, 28, 28])
    with ema.average_parameters():
        expected = model(image)
    assert (exported(image) - expected).abs().max() < 1e-5


def test_writing_through_a_model_state_while_applied_is_an_error(moved):
    model, ema = moved
    written = pytest.raises(RuntimeError, match="the average was written to while it was in the")
    with written, ema.average_parameters():
        model.state_dict()["head.weight"].set_value(paddle.zeros([16, 10]))


def test_a_copy_of_the_model_while_applied_holds_the_average(moved):
    model, ema = moved
    averaged = averaged_bits(ema)
    with ema.average_parameters():
        copied = copy.deepcopy(model)
    assert bits(copied.state_dict()) == averaged
    copied.head.weight.set_value(paddle.zeros([16, 10]))
    assert not copied.state_dict()["head.weight"].any()


def test_a_copy_of_an_average_swaps_on_its_own(moved):
    _, ema = moved
    with ema.average_parameters():
        pass
    copied = copy.deepcopy(ema)
    averaged = averaged_bits(ema)
    with copied.average_parameters():
        assert bits(copied.model.state_dict()) == averaged
    with ema.average_parameters(), pytest.raises(RuntimeError, match="a copy of it needs the raw"):
        copy.deepcopy(ema)


@pytest.mark.parametrize("change", ["storage", "dtype"])
def test_a_swap_follows_tensors_that_were_put_elsewhere(change, moved):
    model, ema = moved
    with ema.average_parameters():
        pass
    before = ema.averaged_state_dict()
    if change == "storage":
        elsewhere = paddle.zeros([16, 10])
        model.head.weight.get_tensor()._share_data_with(elsewhere.get_tensor())
    else:
        model.to(dtype="float64")
    raw = bits(model.state_dict())
    with ema.average_parameters():
        inside = model.state_dict()
        assert all((inside[n].astype("float32") == before[n]).all() for n in before)
    assert bits(model.state_dict()) == raw


def test_a_second_swap_of_wider_shadows_holds_the_average_of_then(moved):
    model, _ = moved
    wide = ExponentialMovingAverage(model, 0.5, shadow_dtype="float64")
    for _ in range(2):
        model.head.weight.set_value(model.head.weight + 1)
        wide.update()
        averaged = averaged_bits(wide)
        with wide.average_parameters():
            assert bits(model.state_dict()) == averaged


def test_writing_to_a_copy_that_is_thrown_away_harms_no_average(moved):
    model, _ = moved
    wide = ExponentialMovingAverage(model, 0.5, shadow_dtype="float64")
    wide.update()
    before, raw = averaged_bits(wide), bits(model.state_dict())
    with wide.average_parameters():
        model.head.weight.set_value(paddle.zeros([16, 10]))
    assert bits(model.state_dict()) == raw
    assert averaged_bits(wide) == before


def test_an_interrupt_at_the_end_of_the_block_brings_the_raw_weights_back(moved, monkeypatch):
    model, ema = moved
    raw = bits(model.state_dict())

    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(ema, "restore", interrupt)
    with pytest.raises(KeyboardInterrupt), ema.average_parameters():
        pass
    assert bits(model.state_dict()) == raw
    assert not ema.is_applied
