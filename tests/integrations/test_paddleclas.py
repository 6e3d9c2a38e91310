"""ExponentialMovingAverage in an engine that makes PaddleClas's calls, with its checkpoints."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from clas_engine import Engine
from networks import Oddities
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
from ppema.integrations.paddleclas import ExponentialMovingAverage


class Twin:
    """Their formula in float64: e = decay * e + (1 - decay) * m, from where it is made."""

    def __init__(self, model, decay):
        self.model, self.decay, self.averaged = model, decay, float64_state(model)

    def update(self):
        for name, now in float64_state(self.model).items():
            old = self.averaged[name]
            is_float = now.dtype == np.float64
            self.averaged[name] = self.decay * old + (1 - self.decay) * now if is_float else now


def engine(folder, epochs=3, seed=1, **arguments):
    def make(model):
        return ExponentialMovingAverage(model, 0.9)

    return Engine(detector(seed), batches(), make, folder, epochs, **arguments)


def test_what_their_engine_saves_is_their_formula_and_the_raw_weights(tmp_path):
    run = engine(tmp_path)
    twin = Twin(run.model, 0.9)
    run.train(after_step=twin.update)
    averaged = arrays(paddle.load(str(tmp_path / "latest.pdparams")))
    raw = arrays(paddle.load(str(tmp_path / "latest.pdema")))
    assert_close(averaged, twin.averaged, 5e-6)
    assert_equal_bits(raw, arrays(run.model.state_dict()))
    assert {n: a.dtype for n, a in averaged.items()} == {n: a.dtype for n, a in raw.items()}
    assert averaged["num_images"] == 15 * 8
    # Their engine puts the module into train mode after each evaluation, and back.
    assert not run.model_ema.module.training
    assert all(0.0 <= figure <= 1.0 for pair in run.accuracies for figure in pair)


def test_it_evaluates_the_average_and_not_the_model(tmp_path):
    run = engine(tmp_path, epochs=1)
    run.train()
    image = batches()[0][0]
    served = detector(seed=5)
    served.set_state_dict(paddle.load(str(tmp_path / "latest.pdparams")))
    served.eval()
    run.model.eval()
    found = run.model_ema.module(image).numpy()
    np.testing.assert_array_equal(found, served(image).numpy())
    assert (found != run.model(image).numpy()).any()


def test_accumulated_gradients_are_one_update(tmp_path):
    run = engine(tmp_path, epochs=1, update_freq=2)
    twin = Twin(run.model, 0.9)
    counted = []
    run.train(after_step=lambda: (twin.update(), counted.append(1)))
    assert len(counted) == 2
    assert_close(arrays(run.model_ema.module.state_dict()), twin.averaged, 5e-6)


def test_a_resumed_run_ends_with_the_bits_of_one_that_never_stopped(tmp_path):
    with as_in_a_new_process():
        engine(tmp_path / "whole", epochs=4).train()
    with as_in_a_new_process():
        engine(tmp_path / "half", epochs=2).train()
    with as_in_a_new_process():
        engine(tmp_path / "half", epochs=4, seed=9).train(str(tmp_path / "half" / "latest"))
    for name in ("latest.pdparams", "latest.pdema", "epoch_3.pdparams"):
        assert_equal_bits(
            arrays(paddle.load(str(tmp_path / "half" / name))),
            arrays(paddle.load(str(tmp_path / "whole" / name))),
        )


def test_set_begins_anew_from_the_models_weights():
    model = detector()
    ema = ExponentialMovingAverage(model, 0.5)
    ema.update(model)
    model.head.bias.set_value(paddle.ones([3]))
    ema.set(model)
    assert_equal_bits(arrays(ema.module.state_dict()), arrays(model.state_dict()))
    model.head.bias.set_value(paddle.zeros([3]))
    ema.update(model)
    np.testing.assert_array_equal(ema.module.head.bias.numpy(), np.full(3, 0.5, "float32"))


def test_weights_that_are_not_finite_change_nothing():
    model = detector()
    ema = ExponentialMovingAverage(model, 0.5)
    before = arrays(ema.module.state_dict())
    model.head.bias.set_value(paddle.full([3], np.nan))
    for call in (ema.update, ema.set):
        with pytest.raises(FloatingPointError, match=r"head\.bias holds NaN"):
            call(model)
    assert_equal_bits(arrays(ema.module.state_dict()), before)
    # The next update moves the average, and does not copy as a first one would.
    model.head.bias.set_value(paddle.ones([3]) + before["head.bias"])
    ema.update(model)
    np.testing.assert_allclose(ema.module.head.bias.numpy(), before["head.bias"] + 0.5, atol=1e-6)


def test_tied_weights_move_once_and_buffers_keep_their_dtype():
    model = Oddities()
    model.register_buffer("is_seen", paddle.zeros([2], "bool"))
    model.tied.weight.set_value(paddle.zeros([16, 16]))
    ema = ExponentialMovingAverage(model, 0.9)
    model.tied.weight.set_value(paddle.ones([16, 16]))
    model.num_batches += 1000
    model.is_seen[0] = True
    model.frozen.bias.set_value(paddle.ones([16]))
    ema.update(model)
    averaged = ema.module.state_dict()
    np.testing.assert_allclose(averaged["tied.weight"].numpy(), 0.1, rtol=1e-6)
    np.testing.assert_array_equal(averaged["tied_again.weight"].numpy(), averaged["tied.weight"])
    assert (averaged["num_batches"].dtype, int(averaged["num_batches"])) == (paddle.int64, 1000)
    assert averaged["is_seen"].dtype == paddle.bool
    assert averaged["is_seen"].numpy().tolist() == [True, False]


# Of Paddle's, where there is only one process.
@pytest.mark.filterwarnings("ignore:The program will return to single-card operation:UserWarning")
def test_a_model_in_data_parallel_is_averaged_as_itself():
    model = detector()
    wrapped = paddle.DataParallel(model)
    ema = ExponentialMovingAverage(wrapped, 0.5)
    model.head.bias.set_value(paddle.ones([3]))
    before = ema.module.head.bias.numpy().copy()
    ema.update(wrapped)
    np.testing.assert_allclose(ema.module.head.bias.numpy(), (before + 1) / 2, rtol=1e-6)
    assert list(ema.module.state_dict()) == list(model.state_dict())


def test_a_model_in_half_precision_has_an_average_that_moves():
    model = detector().to(dtype="bfloat16")
    ema = ExponentialMovingAverage(model, 0.999)
    start = ema.module.head.bias.numpy().copy()
    model.head.bias.set_value(paddle.ones([3], "bfloat16"))
    ema.update(model)
    assert ema.module.head.bias.dtype == paddle.float32
    np.testing.assert_allclose(ema.module.head.bias.numpy() - start, 0.001 * (1 - start), rtol=1e-3)


def test_a_decay_out_of_range_is_one_line_and_it_cannot_be_changed_later():
    with pytest.raises(ArgumentError, match=r"decay must be in \[0, 1\), got 1.0"):
        ExponentialMovingAverage(detector(), 1.0)
    ema = ExponentialMovingAverage(detector())
    assert ema.decay == 0.9999
    with pytest.raises(AttributeError):
        ema.decay = 0.5
