"""update_bn: statistics as the mean over batches, and nothing else changed, whatever happens."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from networks import TinyBN

from ppema import ArgumentError, ExponentialMovingAverage, update_bn


def make_batches(sizes=(8, 8, 3)):
    paddle.seed(3)
    return [paddle.randn([size, 1, 28, 28]) * 2 + 1 for size in sizes]


def statistics(model):
    return [model.bn._mean.numpy().copy(), model.bn._variance.numpy().copy()]


def expected_statistics(model, batches):
    """Return the mean over batches of each batch's own statistics, in float64."""
    means, variances = [], []
    for batch in batches:
        features = model.conv(batch).numpy().astype("float64")
        means.append(features.mean(axis=(0, 2, 3)))
        variances.append(features.var(axis=(0, 2, 3)))
    return [np.mean(means, axis=0), np.mean(variances, axis=0)]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda batch: batch,
        lambda batch: (batch, paddle.zeros([1])),
        lambda batch: [batch],
        lambda batch: {"x": batch, "label": 3},
        lambda batch: batch.numpy(),
        lambda batch: (batch.numpy(), np.zeros(1)),
    ],
)
def test_statistics_are_the_mean_over_batches_of_any_form(wrap):
    model = TinyBN()
    batches = make_batches()
    update_bn([wrap(batch) for batch in batches], model)
    for found, expected in zip(statistics(model), expected_statistics(model, batches)):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_dict_that_forward_takes_whole_is_given_whole():
    class Whole(TinyBN):
        def forward(self, batch):
            return super().forward(batch["image"])

    model, batches = Whole(), make_batches()
    update_bn([{"image": batch} for batch in batches], model)
    np.testing.assert_allclose(
        statistics(model)[0], expected_statistics(model, batches)[0], rtol=1e-5
    )


def test_mode_momentum_and_weights_are_left_as_they_were():
    model = TinyBN()
    model.eval()
    model.conv.train()
    model.bn._momentum = 0.77
    weights = {name: t.numpy().tobytes() for name, t in model.state_dict().items()}
    update_bn(make_batches(), model)
    assert (model.training, model.conv.training, model.bn.training) == (False, True, False)
    assert model.bn._momentum == 0.77
    changed = {n for n, t in model.state_dict().items() if t.numpy().tobytes() != weights[n]}
    assert changed == {"bn._mean", "bn._variance"}


def test_random_numbers_go_on_as_if_there_had_been_no_pass():
    model = paddle.nn.Sequential(TinyBN(), paddle.nn.Dropout(0.5))
    batches = make_batches()
    paddle.seed(9)
    update_bn(batches, model)
    drawn = paddle.rand([4]).numpy()
    paddle.seed(9)
    assert (paddle.rand([4]).numpy() == drawn).all()


def failing_loader():
    yield make_batches()[0]
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("loader", "error"), [(failing_loader(), KeyboardInterrupt), ([], ValueError)]
)
def test_a_pass_that_breaks_off_changes_nothing(loader, error):
    model = TinyBN()
    update_bn(make_batches(), model)
    model.eval()
    before = statistics(model)
    with pytest.raises(error):
        update_bn(loader, model)
    assert all((left == right).all() for left, right in zip(statistics(model), before))
    assert model.bn._momentum == 0.9
    assert not model.training


def test_broken_statistics_are_mended():
    model = TinyBN()
    model.bn._mean[0] = float("nan")
    model.bn._variance[1] = float("inf")
    update_bn(make_batches(), model)
    assert all(np.isfinite(values).all() for values in statistics(model))


def test_layers_that_do_not_take_part_keep_their_statistics():
    class Unused(TinyBN):
        def __init__(self):
            super().__init__()
            self.unused = paddle.nn.BatchNorm2D(4)
            self.fixed = paddle.nn.BatchNorm2D(1, use_global_stats=True)

        def forward(self, x):
            return super().forward(self.fixed(x))

    model = Unused()
    for layer in (model.unused, model.fixed):
        layer._mean.fill_(0.5)
    update_bn(make_batches(), model)
    assert (model.unused._mean.numpy() == 0.5).all()
    assert (model.fixed._mean.numpy() == 0.5).all()
    assert model.bn._mean.numpy().any()


def test_a_layer_called_twice_for_a_batch_counts_both_calls():
    class Twice(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.bn = paddle.nn.BatchNorm1D(2)

        def forward(self, x):
            return self.bn(x) + self.bn(x * 3)

    model = Twice()
    x = paddle.randn([16, 2]) + 1
    update_bn([x], model)
    np.testing.assert_allclose(model.bn._mean.numpy(), 2 * x.mean(axis=0).numpy(), rtol=1e-5)


def test_a_model_without_batch_norm_is_not_run():
    def never():
        raise AssertionError("the loader was read")
        yield

    update_bn(never(), paddle.nn.Linear(2, 2))


def test_batches_are_moved_to_the_device_named():
    model = TinyBN()
    update_bn(make_batches(), model, device="cpu")
    assert model.bn._mean.numpy().any()
    with pytest.raises(ArgumentError, match="device must be"):
        update_bn(make_batches(), model, device="moon")


def test_it_is_refused_while_an_average_is_applied():
    model = TinyBN()
    for buffers in ("average", "copy", "recompute"):
        ema = ExponentialMovingAverage(model, buffers=buffers)
        before = model.bn._mean.numpy().copy()
        with ema.average_parameters(), pytest.raises(RuntimeError, match="an average is applied"):
            update_bn([paddle.randn([4, 1, 28, 28])], model)
        assert (model.bn._mean.numpy() == before).all()


def test_dicts_of_which_the_model_takes_no_key_get_one_line():
    batch = {"x_of_mine": paddle.randn([4, 1, 28, 28]), "label": paddle.zeros([4])}
    with pytest.raises(ValueError, match=r"forward takes x, and a batch .* has x_of_mine, label"):
        update_bn([batch], TinyBN())
