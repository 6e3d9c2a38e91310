"""What is gathered of an evaluation, against the plain definitions, and at no second pass."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle
import pytest
from trainers import make_reader, make_trainer

from ppema.data import Batch
from ppema.engine.evaluate import evaluate, evaluate_all
from ppema.engine.predictions import NUM_THRESHOLDS, Predictions

CLASSES, SIZE = 5, 8


@pytest.fixture(scope="module")
def batches():
    """Return (start, batch, logits) of 40 images, some of them as sure as can be."""
    random = np.random.RandomState(3)
    found = []
    for index in range(5):
        image = random.rand(SIZE, 1, 2, 2).astype("float32")
        label = random.randint(0, CLASSES, SIZE)
        logits = random.randn(SIZE, CLASSES).astype("float32") * 4
        logits[0, 1] = 1000.0
        found.append((index * SIZE, Batch(image, label), paddle.to_tensor(logits)))
    return found


def gathered(batches, num_mistakes=6):
    predictions = Predictions(num_mistakes)
    for start, batch, logits in batches:
        predictions.add(start, batch, logits)
    return predictions


def together(batches):
    logits = np.concatenate([logits.numpy() for *_, logits in batches]).astype("float64")
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    labels = np.concatenate([batch.label for _, batch, _ in batches])
    return labels, exponentials / exponentials.sum(axis=1, keepdims=True)


def test_the_confusion_matrix_counts_each_class_taken_for_each(batches):
    labels, scores = together(batches)
    expected = np.zeros([CLASSES, CLASSES], int)
    for label, predicted in zip(labels, scores.argmax(axis=1)):
        expected[label, predicted] += 1
    np.testing.assert_array_equal(gathered(batches).confusion, expected)


def test_the_surest_mistakes_come_first_and_the_earlier_of_equals(batches):
    labels, scores = together(batches)
    wrong = np.flatnonzero(scores.argmax(axis=1) != labels)
    expected = sorted(wrong, key=lambda i: (-np.float32(scores[i].max()), i))[:6]
    found = gathered(batches).mistakes
    assert [mistake.index for mistake in found] == expected
    for mistake in found:
        index = mistake.index
        assert (mistake.label, mistake.predicted) == (labels[index], scores[index].argmax())
        assert mistake.probability == pytest.approx(scores[index].max(), rel=1e-5)
        batch = batches[index // SIZE][1]
        np.testing.assert_array_equal(mistake.image, batch.image[index % SIZE])


def test_answers_are_counted_at_each_threshold(batches):
    labels, scores = together(batches)
    right, wrong = gathered(batches).at_thresholds()
    for threshold in (0, 13, 50, 99, NUM_THRESHOLDS - 1):
        # Half a hundredth of a percent of room, for float32.
        answers = scores + 5e-7 >= threshold / (NUM_THRESHOLDS - 1)
        own = labels[:, np.newaxis] == np.arange(CLASSES)
        np.testing.assert_array_equal(right[:, threshold], (answers & own).sum(axis=0))
        np.testing.assert_array_equal(wrong[:, threshold], (answers & ~own).sum(axis=0))


def test_two_threads_in_any_order_gather_the_same(batches):
    alone, shared = gathered(batches), Predictions(6)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda each: shared.add(*each), batches[::-1]))
    np.testing.assert_array_equal(shared.confusion, alone.confusion)
    assert [m.index for m in shared.mistakes] == [m.index for m in alone.mistakes]
    for one, other in zip(shared.at_thresholds(), alone.at_thresholds()):
        np.testing.assert_array_equal(one, other)


def test_an_evaluation_gathers_in_its_one_pass_and_gives_the_same_figures():
    trainer = make_trainer(make_reader())
    trainer.refresh_averages()
    read = []

    class Counting:
        def __len__(self):
            return 5

        def batches(self, epoch):
            read.append(epoch)
            return make_reader().batches(epoch)

    predictions = {name: Predictions(3) for name in ("raw", "ema")}
    arguments = (trainer.model, {"ema": trainer.averages["ema"]}, trainer.loss_fn)
    found = evaluate_all(*arguments, Counting(), predictions)
    assert len(read) == 2
    assert found["raw"] == evaluate(trainer.model, trainer.loss_fn, make_reader())
    for name, gathered_ in predictions.items():
        assert gathered_.confusion.sum() == 40
        assert gathered_.confusion.trace() / 40 == found[name].top1
        assert gathered_.mistakes[0].image.shape == (1, 28, 28)


def test_classes_are_in_the_order_of_the_data_whichever_batch_comes_first(batches):
    _, scores = together(batches)
    found = gathered(batches[::-1]).classes
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, scores.argmax(axis=1))
