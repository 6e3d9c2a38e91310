"""`buffers="recompute"`: the average's BN statistics come from a pass of its own."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from networks import Oddities, TinyBN
from paddle.vision.models import LeNet
from test_ema_twin import make_optimizer, train_step

from ppema import ExponentialMovingAverage, LatestWeightAverage, update_bn


def make_batches():
    paddle.seed(5)
    return [paddle.randn([8, 1, 28, 28]) * 2 + 1 for _ in range(3)]


@pytest.fixture(params=[ExponentialMovingAverage, LatestWeightAverage])
def trained(request):
    """Return a BN network after some steps, and an average of it that is to be recomputed."""
    paddle.seed(1)
    model = TinyBN()
    optimizer = make_optimizer(model)
    average = request.param(model, buffers="recompute")
    for _ in range(10):
        train_step(model, optimizer)
        average.update()
    return model, average


def test_statistics_are_those_of_update_bn_on_the_averaged_weights(trained):
    _, average = trained
    batches = make_batches()
    average.recompute_statistics(batches)
    found = average.averaged_state_dict()
    reference = TinyBN()
    reference.set_state_dict(found)
    update_bn(batches, reference)
    for name, tensor in reference.state_dict().items():
        np.testing.assert_array_equal(found[name].numpy(), tensor.numpy(), name)


def test_the_live_model_and_the_random_numbers_are_untouched(trained):
    model, average = trained
    before = {name: t.numpy().tobytes() for name, t in model.state_dict().items()}
    batches = make_batches()
    generator = paddle.get_rng_state()[0].__getstate__()
    average.recompute_statistics(batches)
    assert paddle.get_rng_state()[0].__getstate__() == generator
    assert {name: t.numpy().tobytes() for name, t in model.state_dict().items()} == before
    assert model.training


def test_stale_statistics_are_never_used(trained):
    model, average = trained
    for use in (average.apply, average.averaged_state_dict):
        with pytest.raises(RuntimeError, match=r"of update 0, its weights of update 10; call reco"):
            use()
    average.recompute_statistics(make_batches())
    with average.average_parameters():
        held = model.bn._mean.numpy().copy()
    assert (average.averaged_state_dict()["bn._mean"].numpy() == held).all()
    average.update()
    with pytest.raises(RuntimeError, match="of update 10, its weights of update 11"):
        average.apply()


def test_a_pass_that_breaks_off_changes_nothing(trained):
    model, average = trained
    average.recompute_statistics(make_batches())
    kept = average.averaged_state_dict()["bn._mean"].numpy()
    before = model.bn._mean.numpy().copy()

    def broken():
        yield make_batches()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        average.recompute_statistics(broken())
    assert (model.bn._mean.numpy() == before).all()
    assert (average.averaged_state_dict()["bn._mean"].numpy() == kept).all()


def test_a_resume_knows_whether_the_statistics_are_stale(trained):
    model, average = trained
    average.recompute_statistics(make_batches())
    state = average.state_dict()
    resumed = type(average)(model, buffers="recompute")
    resumed.set_state_dict(state)
    left, right = average.averaged_state_dict(), resumed.averaged_state_dict()
    assert all((left[name] == right[name]).all() for name in left)


def test_without_batch_norm_or_the_policy_there_is_nothing_to_do():
    def never():
        raise AssertionError("the loader was read")
        yield

    for model, buffers in ((LeNet(), "recompute"), (TinyBN(), "average"), (TinyBN(), "copy")):
        average = ExponentialMovingAverage(model, buffers=buffers)
        average.update()
        average.recompute_statistics(never())
        average.averaged_state_dict()


def test_recomputing_leaves_the_model_s_own_buffers_alone():
    model = Oddities()
    ema = ExponentialMovingAverage(model, 0.9, buffers="recompute")
    before = {name: t.numpy().tobytes() for name, t in model.state_dict().items()}
    ema.recompute_statistics([paddle.randn([8, 1, 28, 28]) for _ in range(3)])
    assert {name: t.numpy().tobytes() for name, t in model.state_dict().items()} == before
