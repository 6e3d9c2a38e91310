"""Calibration against its definition in exact fractions, and churn against a plain count."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import paddle
import pytest
from trainers import make_reader, make_trainer

from ppema.calibration import NUM_BINS, Reliability
from ppema.data import Batch
from ppema.engine.evaluate import evaluate
from ppema.engine.predictions import Predictions
from ppema.errors import NonFiniteError
from ppema.metrics import churn


def slow_ece(confidence, is_right):
    """Return the sum over bins of |B| / n * |acc(B) - conf(B)|, with no rounding at all."""
    total = Fraction(0)
    for number in range(NUM_BINS):
        low, high = Fraction(number, NUM_BINS), Fraction(number + 1, NUM_BINS)
        held = [i for i, c in enumerate(confidence) if low < Fraction(float(c)) <= high]
        if held:
            accuracy = Fraction(sum(bool(is_right[i]) for i in held), len(held))
            sure = sum(Fraction(float(confidence[i])) for i in held) / len(held)
            total += Fraction(len(held), len(confidence)) * abs(accuracy - sure)
    return float(total)


@pytest.fixture(scope="module")
def answers():
    """Return confidences of all sizes, among them the edges of bins, and which are right."""
    random = np.random.RandomState(0)
    edges = (np.arange(1, NUM_BINS + 1) / NUM_BINS).astype("float32")
    beside = [np.nextafter(edges, np.float32(0)), np.nextafter(edges[:-1], np.float32(1))]
    confidence = np.concatenate([random.rand(300).astype("float32"), edges, *beside])
    return confidence, random.rand(len(confidence)) < confidence**2


def test_the_error_is_that_of_the_definition(answers):
    assert Reliability.of(*answers).ece == pytest.approx(slow_ece(*answers), abs=1e-9)


def test_all_sure_and_all_wrong_is_an_error_of_one():
    sure, right = np.ones(4, np.float32), np.ones(4, bool)
    assert Reliability.of(sure, ~right).ece == 1
    assert Reliability.of(sure, right).ece == 0


def test_an_error_of_one_bin_does_not_make_up_for_that_of_another():
    # Half as sure as right, and twice.
    sure = np.array([0.25, 0.25, 1, 1], np.float32)
    assert Reliability.of(sure, np.array([True, False, True, False])).ece == 0.5 * 0.25 + 0.5 * 0.5


def test_a_confidence_that_is_rounded_to_more_than_one_is_among_the_surest():
    sure = np.nextafter(np.ones(1, np.float32), np.float32(2))
    found = Reliability.of(sure, np.array([True]))
    assert found.counts.tolist() == [0] * 14 + [1]
    assert found.ece == pytest.approx(0, abs=2e-7)


def test_parts_in_any_order_add_up_to_the_same_bits(answers):
    confidence, is_right = answers
    whole = Reliability.of(confidence, is_right)
    order = np.random.RandomState(1).permutation(len(confidence))
    first, *others = (Reliability.of(confidence[p], is_right[p]) for p in np.array_split(order, 7))
    for other in others:
        first = other + first
    assert first.ece == whole.ece
    for name in ("counts", "right", "confidence"):
        np.testing.assert_array_equal(getattr(first, name), getattr(whole, name))


def test_means_are_those_of_each_bin():
    confidence = np.array([0.5, 0.52, 0.99], np.float32)
    accuracy, sure = Reliability.of(confidence, np.array([True, False, True])).means()
    assert (accuracy[7], accuracy[14]) == (0.5, 1)
    assert (sure[7], sure[14]) == (pytest.approx(0.51), pytest.approx(0.99))
    assert np.isnan(accuracy).sum() == np.isnan(sure).sum() == NUM_BINS - 2


def test_an_evaluation_has_the_error_of_all_its_images():
    reader = make_reader(37, shuffle=False)
    model = make_trainer(reader).model
    predictions = Predictions(0)
    found = evaluate(model, paddle.nn.CrossEntropyLoss(), reader, predictions)
    model.eval()
    image = (reader.dataset.images.astype("float32") - 127.5) / 127.5
    logits = model(paddle.to_tensor(image)).numpy().astype("float64")
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    is_right = scores.argmax(axis=1) == reader.dataset.labels
    assert found.ece == pytest.approx(slow_ece(scores.max(axis=1), is_right), abs=1e-6)
    assert predictions.reliability.ece == found.ece
    np.testing.assert_array_equal(predictions.classes, scores.argmax(axis=1))


def test_the_figures_do_not_depend_on_the_order_of_batches():
    reader = make_reader(40, shuffle=False)
    model = make_trainer(reader).model

    class Reversed:
        def __len__(self):
            return len(reader)

        def batches(self, epoch):
            return iter(list(reader.batches(epoch))[::-1])

    loss_fn = paddle.nn.CrossEntropyLoss()
    assert evaluate(model, loss_fn, Reversed()) == evaluate(model, loss_fn, reader)


def test_classes_are_in_the_order_of_the_data_whichever_batch_came_first():
    batches = list(make_reader(40, shuffle=False).batches(1))
    logits = paddle.nn.functional.one_hot(paddle.arange(10), 10)
    predictions = Predictions(0)
    for number in (2, 0, 1):
        classes = [number, 5, number] * 2
        size = len(classes)
        batch = Batch(batches[0].image[:size], batches[0].label[:size])
        predictions.add(number * size, batch, logits[paddle.to_tensor(classes)])
    assert predictions.classes.tolist() == [0, 5, 0] * 2 + [1, 5, 1] * 2 + [2, 5, 2] * 2


def test_logits_that_are_no_numbers_have_no_confidence():
    class Net(paddle.nn.Layer):
        def forward(self, image):
            return image.flatten(1)[:, :10] + float("nan")

    with pytest.raises(NonFiniteError, match="logits hold NaN"):
        evaluate(Net(), lambda logits, label: paddle.zeros([]), make_reader())


def test_churn_is_the_share_of_images_in_other_classes():
    first, second = np.array([0, 1, 2, 3]), np.array([0, 2, 2, 0])
    assert churn(first, second) == churn(second, first) == 0.5
    assert churn(first, first) == 0


def test_churn_is_between_models_on_the_same_images():
    with pytest.raises(ValueError, match=r"got \[4\] and \[1\]"):
        churn(np.zeros(4, int), np.zeros(1, int))
