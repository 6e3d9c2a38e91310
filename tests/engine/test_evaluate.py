"""Evaluation: the figures, what it leaves untouched, and which weights win."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from trainers import all_bits, make_reader, make_trainer

from ppema.engine.evaluate import choose, evaluate, evaluate_all, table
from ppema.errors import NonFiniteError
from ppema.metrics import Evaluation, is_first_and_second, num_correct


def test_the_figures_equal_numpy_s_over_all_images():
    reader = make_reader(37, shuffle=False)
    model = make_trainer(reader).model
    found = evaluate(model, paddle.nn.CrossEntropyLoss(), reader)

    model.eval()
    dataset = reader.dataset
    image = (dataset.images.astype("float32") - 127.5) / 127.5
    logits = model(paddle.to_tensor(image)).numpy().astype("float64")
    order = np.argsort(-logits, axis=1)
    label = dataset.labels
    log_sum = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    assert found.top1 == (order[:, 0] == label).mean()
    assert found.top2 == (order[:, :2] == label[:, None]).any(1).mean()
    assert found.loss == pytest.approx((log_sum - logits[np.arange(37), label]).mean(), rel=1e-6)


@pytest.mark.parametrize("num_classes", [1, 2, 7])
def test_one_search_counts_what_two_count_where_logits_are_equal_too(num_classes):
    random = np.random.RandomState(0)
    for _ in range(20):
        logits = paddle.to_tensor(random.randint(0, 3, [50, num_classes]).astype("float32"))
        label = paddle.to_tensor(random.randint(0, num_classes, [50]))
        ranks = is_first_and_second(logits, label).numpy()
        assert ranks[:, 0].sum() == int(num_correct(logits, label, 1))
        assert ranks.sum() == int(num_correct(logits, label, 2))


def test_the_figures_are_read_from_the_device_at_the_end(monkeypatch):
    reads = []
    reader = make_reader(32, batch_size=8)
    model = make_trainer(reader).model

    class Counting:
        def __len__(self):
            return len(reader)

        def batches(self, epoch):
            for batch in reader.batches(epoch):
                reads.append("batch")
                yield batch

    for name in ("numpy", "item", "tolist", "__float__", "__int__"):
        original = getattr(paddle.Tensor, name)

        def read(self, *arguments, original=original):
            reads.append("read")
            return original(self, *arguments)

        monkeypatch.setattr(paddle.Tensor, name, read)
    evaluate(model, paddle.nn.CrossEntropyLoss(), Counting())
    last = len(reads) - 1 - reads[::-1].index("batch")
    assert reads[: last + 1].count("batch") == 4
    assert "read" not in reads[reads.index("batch") : last]
    assert "read" in reads[last:]


def test_a_loss_of_one_number_in_a_list_counts_as_one_number():
    reader = make_reader(20)
    model = make_trainer(reader).model
    plain = paddle.nn.CrossEntropyLoss()
    listed = evaluate(model, lambda logits, label: plain(logits, label).reshape([1]), reader)
    assert listed == evaluate(model, plain, reader)


def test_modes_weights_and_averages_are_left_as_they_were():
    trainer = make_trainer(make_reader())
    trainer.model.body[2].eval()
    modes = [layer.training for layer in trainer.model.sublayers(include_self=True)]
    trainer.refresh_averages()
    before = all_bits(trainer)
    evaluate_all(trainer.model, trainer.averages, trainer.loss_fn, make_reader())
    assert [layer.training for layer in trainer.model.sublayers(include_self=True)] == modes
    assert all_bits(trainer) == before


def test_modes_come_back_when_the_reader_raises():
    class Broken:
        def __len__(self):
            return 1

        def batches(self, epoch):
            yield from make_reader(8).batches(epoch)
            raise KeyboardInterrupt

    model = make_trainer(make_reader()).model
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, paddle.nn.CrossEntropyLoss(), Broken())
    assert model.training


def test_each_average_is_evaluated_in_the_model_s_place():
    trainer = make_trainer(make_reader(), num_epochs=3)
    trainer.train()
    trainer.refresh_averages()
    reader = make_reader()
    together = evaluate_all(trainer.model, trainer.averages, trainer.loss_fn, reader)
    assert list(together) == ["raw", "ema", "wide", "recomputed", "latest", "swa"]
    alone = make_trainer(make_reader()).model
    alone.set_state_dict(trainer.averages["ema"].averaged_state_dict())
    assert evaluate(alone, trainer.loss_fn, reader) == together["ema"]
    assert together["raw"] != together["ema"]


def test_non_finite_weights_are_refused():
    model = make_trainer(make_reader()).model
    model.body[2]._mean[3] = float("nan")
    with pytest.raises(NonFiniteError, match=r"body\.2\._mean holds NaN; refusing to evaluate"):
        evaluate(model, paddle.nn.CrossEntropyLoss(), make_reader())


def test_the_best_has_the_highest_top1_then_the_lower_loss_then_comes_first():
    raw, ema = Evaluation(0.9, 0.95, 0.4, 0.1), Evaluation(0.9, 0.95, 0.3, 0.2)
    assert choose({"raw": raw, "ema": ema}, "best") == "ema"
    assert choose({"raw": raw, "other": raw}, "best") == "raw"
    assert choose({"raw": Evaluation(0.91, 0.92, 9.0, 0.5), "ema": ema}, "best") == "raw"
    assert choose({"raw": raw, "ema": ema}, "raw") == "raw"


def test_figures_are_shown_in_percent_with_two_decimals():
    evaluations = {
        "raw": Evaluation(0.9806, 1.0, 0.0712, 0.01239),
        "ema": Evaluation(0.98394, 0.995, 0.05, 0.0004),
    }
    assert table(evaluations, "ema").splitlines() == [
        "raw  top1 98.06 %  top2 100.00 %  loss 0.0712  ece 1.24 %",
        "ema  top1 98.39 %  top2 99.50 %  loss 0.0500  ece 0.04 %  <- best",
    ]
