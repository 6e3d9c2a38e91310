"""The loop: one step is what a plain loop does, and averages move only with the weights."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle.vision.models import LeNet
from trainers import DropoutNet, all_bits, bits, make_reader, make_trainer

from ppema import ExponentialMovingAverage, update_bn
from ppema.engine.candidates import Candidates
from ppema.engine.hooks import EvaluateHook
from ppema.engine.record import METRICS, Recorder, read_records
from ppema.engine.trainer import Hook
from ppema.errors import NonFiniteError
from ppema.models import LeNetBN


def test_a_run_equals_a_plain_loop_bit_for_bit():
    reader = make_reader()
    trainer = make_trainer(reader, network=LeNet, with_schedule=False)
    trainer.train()

    paddle.seed(5)
    model = LeNet()
    optimizer = paddle.optimizer.Adam(0.01, parameters=model.parameters())
    ema = ExponentialMovingAverage(model, 0.9)
    loss_fn = paddle.nn.CrossEntropyLoss()
    for epoch in (1, 2):
        for batch in reader.batches(epoch):
            logits = model(paddle.to_tensor(batch.image))
            loss_fn(logits, paddle.to_tensor(batch.label)).backward()
            optimizer.step()
            optimizer.clear_grad()
            ema.update()
    assert bits(trainer.model.state_dict()) == bits(model.state_dict())
    assert bits(trainer.averages["ema"].state_dict()["shadow"]) == bits(ema.state_dict()["shadow"])
    assert (trainer.step, trainer.epoch) == (10, 3)


def test_accumulated_batches_give_the_gradient_of_one_large_one():
    # 36 images: the last step of the epoch has a batch of 4 beside one of 8.
    small = make_trainer(
        make_reader(36), network=LeNet, with_schedule=False, accumulate_steps=2, num_epochs=1
    )
    large = make_trainer(
        make_reader(36, batch_size=16), network=LeNet, with_schedule=False, num_epochs=1
    )
    for trainer in (small, large):
        trainer.train()
        assert trainer.step == trainer.steps_per_epoch == 3
        assert trainer.averages["ema"].num_updates == 3
    for name, tensor in large.model.state_dict().items():
        np.testing.assert_allclose(
            small.model.state_dict()[name].numpy(), tensor.numpy(), atol=2e-5, err_msg=name
        )


class Watch(Hook):
    def __init__(self, calls):
        self.calls = calls

    def before_run(self, trainer):
        self.calls.append("before")

    def after_step(self, trainer):
        ema = trainer.averages["ema"]
        self.calls.append((trainer.step, ema.num_updates, trainer.samples, trainer.is_epoch_end))

    def after_run(self, trainer):
        self.calls.append("after")


def test_hooks_see_each_step_with_the_averages_moved():
    calls = []
    make_trainer(make_reader(20), [Watch(calls)], num_epochs=2).train()
    steps = [
        *((1, 1, 8, False), (2, 2, 16, False), (3, 3, 20, True)),
        *((4, 4, 8, False), (5, 5, 16, False), (6, 6, 20, True)),
    ]
    assert calls == ["before", *steps, "after"]


def test_hooks_end_the_run_even_when_it_breaks_off():
    class Broken(Watch):
        def after_step(self, trainer):
            raise KeyboardInterrupt

    calls = []
    with pytest.raises(KeyboardInterrupt):
        make_trainer(make_reader(), [Broken(calls)]).train()
    assert calls == ["before", "after"]


class Poison(Hook):
    """Put one bad pixel into the images of some steps."""

    def __init__(self, trainer_reader, steps, value=np.nan):
        self.reader, self.steps, self.real = trainer_reader, steps, trainer_reader.batches
        self.value = value
        trainer_reader.batches = self.batches

    def batches(self, epoch, start=0):
        for index, batch in enumerate(self.real(epoch, start)):
            if (epoch - 1) * len(self.reader) + index + 1 in self.steps:
                batch.image[0, 0, 14, 14] = self.value
            yield batch


def test_a_nan_gradient_ends_the_run_before_it_reaches_a_weight_or_an_average():
    reader = make_reader()
    Poison(reader, steps={4})
    trainer = make_trainer(reader, network=LeNet)
    with pytest.raises(NonFiniteError, match=r"step 4: the gradient of features\.0\.weight is not"):
        trainer.train()
    clean = make_trainer(make_reader(24), network=LeNet, num_epochs=1)
    assert trainer.step == 3
    assert all(np.isfinite(t.numpy()).all() for t in trainer.model.state_dict().values())
    assert trainer.averages["ema"].num_updates == 3
    assert clean.averages["ema"].num_updates == 0


@pytest.mark.parametrize("network", [LeNet, DropoutNet])
def test_skip_leaves_weights_statistics_and_averages_as_they_were(network, caplog):
    reader = make_reader()
    Poison(reader, steps={1})
    trainer = make_trainer(reader, network=network, non_finite="skip", num_epochs=1)
    before = all_bits(trainer)
    trainer.run_step([next(iter(reader.batches(1)))])
    assert all_bits(trainer) == before
    assert trainer.averages["ema"].num_updates == 0
    assert trainer.step == 1
    assert all(p.grad is None or not p.grad.any() for p in trainer.model.parameters())
    assert trainer.totals.figures == []
    assert "is not finite; the step is left out" in caplog.text


class BatchNormFirst(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.bn = paddle.nn.BatchNorm2D(1)
        self.fc = paddle.nn.Linear(784, 10)

    def forward(self, image):
        return self.fc(self.bn(image).flatten(1))


def test_statistics_that_overflow_end_the_run_before_an_average_takes_them_in():
    reader = make_reader()
    Poison(reader, steps={2}, value=1e30)
    trainer = make_trainer(reader, network=BatchNormFirst)
    with pytest.raises(NonFiniteError, match=r"step 2: .*bn\._(mean|variance) is not finite"):
        trainer.train()
    averaged = trainer.averages["ema"].averaged_state_dict()
    assert all(np.isfinite(tensor.numpy()).all() for tensor in averaged.values())


def test_too_many_skips_in_a_row_end_the_run():
    reader = make_reader()
    Poison(reader, steps={2, 4, 5, 6})
    trainer = make_trainer(reader, network=LeNet, non_finite="skip", max_skips=2)
    with pytest.raises(NonFiniteError, match=r"step 6: .* 3 steps in a row"):
        trainer.train()


def test_an_update_that_overflows_is_caught_before_the_averages_move():
    trainer = make_trainer(make_reader(), network=LeNet, with_schedule=False)
    trainer.optimizer.set_lr(float("inf"))
    with pytest.raises(NonFiniteError, match=r"step 1: .* is not finite after the update"):
        trainer.train()
    assert trainer.averages["ema"].num_updates == 0


@pytest.mark.parametrize("recompute_batches", [1, 3])
def test_recompute_batches_says_how_many_training_batches_the_statistics_are_of(recompute_batches):
    trainer = make_trainer(make_reader(), num_epochs=1, recompute_batches=recompute_batches)
    trainer.train()
    trainer.refresh_averages()
    found = trainer.averages["recomputed"].averaged_state_dict()
    reference = make_trainer(make_reader()).model
    reference.set_state_dict(found)
    batches = list(trainer.reader.batches(trainer.epoch))[:recompute_batches]
    update_bn([batch.image for batch in batches], reference)
    expected = reference.state_dict()["body.2._mean"].numpy()
    np.testing.assert_array_equal(found["body.2._mean"].numpy(), expected)


class AtEpochStart(Hook):
    """Keep the weights that each first step of an epoch began with, and the averages then."""

    def __init__(self):
        self.ended_with, self.averaged = [], []

    def after_step(self, trainer):
        if trainer.is_epoch_end:
            trainer.refresh_averages()
            self.ended_with.append(bits(trainer.model.state_dict()))
            self.averaged.append(trainer.averages["ema"].averaged_state_dict())


def test_switch_goes_on_from_the_average_at_the_start_of_each_later_epoch():
    watch = AtEpochStart()
    switched = make_trainer(make_reader(), [watch], network=LeNet, switch="ema", num_epochs=2)
    switched.train()
    by_hand = make_trainer(make_reader(), network=LeNet, num_epochs=2)
    by_hand.num_epochs = 1
    by_hand.train()
    assert bits(by_hand.model.state_dict()) == watch.ended_with[0]
    by_hand.model.set_state_dict(watch.averaged[0])
    by_hand.num_epochs = 2
    by_hand.train()
    assert all_bits(by_hand) == all_bits(switched)
    plain = make_trainer(make_reader(), network=LeNet, num_epochs=2)
    plain.train()
    assert all_bits(plain) != all_bits(switched)


def test_statistics_that_overflow_under_amp_end_the_run_whatever_the_policy():
    reader = make_reader()
    Poison(reader, steps={2}, value=1e30)
    trainer = make_trainer(reader, network=BatchNormFirst, non_finite="skip")

    class Scaler:
        """Stand in for GradScaler, which Paddle makes only on a GPU: find nothing, step."""

        def scale(self, loss):
            return loss

        def unscale_(self, optimizer):
            pass

        def step(self, optimizer):
            optimizer.step()

        def update(self):
            pass

    trainer.scaler, trainer.guard._is_scaled = Scaler(), True
    trainer.guard._parameters = []  # gradients that are finite, as far as the scaler sees
    with pytest.raises(NonFiniteError, match=r"step 2: bn\..* is not finite under AMP"):
        trainer.train()


def test_averages_look_for_nan_themselves_again_after_the_run():
    trainer = make_trainer(make_reader(20), num_epochs=1)
    trainer.averages["wide"].checks_finite = False
    trainer.train()
    weight = trainer.model.body[1].weight
    weight.set_value(weight * float("nan"))
    with pytest.raises(FloatingPointError, match=r"body\.1\.weight holds NaN"):
        trainer.averages["ema"].update()
    trainer.averages["wide"].update()


def test_an_average_to_switch_to_must_be_there():
    with pytest.raises(ValueError, match=r"switch must be one of ema, wide, .*, got 'nope'"):
        make_trainer(make_reader(), switch="nope")


class WatchedLeNet(LeNet):
    """Note at each call the mode, and whether the first layer has its fast form."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, image):
        self.seen.append((self.training, "forward" in vars(self.features[0])))
        return super().forward(image)


class WatchedBN(LeNetBN):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, image):
        self.seen.append("forward" in vars(self.features[3]))
        return super().forward(image)


@pytest.mark.parametrize(("eval_iter", "steps"), [(0, [5, 10]), (4, [4, 5, 8, 10])])
def test_evaluations_are_at_the_ends_of_epochs_and_every_so_many_steps(tmp_path, eval_iter, steps):
    recorder = Recorder(tmp_path, None)
    evaluation = EvaluateHook(make_reader(), recorder, "raw", eval_iter=eval_iter)
    make_trainer(make_reader(), [evaluation]).train()
    records = list(read_records(tmp_path / METRICS))
    assert [(r["step"], r["epoch"]) for r in records if r["average"] == "raw"] == [
        (step, 1 if step <= 5 else 2) for step in steps
    ]


@pytest.mark.parametrize("fast_cpu", [True, False])
def test_fast_layers_are_in_use_in_training_and_evaluation_and_nowhere_else(fast_cpu, tmp_path):
    reader = make_reader()
    evaluation = EvaluateHook(reader, Recorder(tmp_path, None), "raw")
    at_rest = []

    class Look(Hook):
        def after_step(self, trainer):
            at_rest.append("forward" in vars(trainer.model.features[0]))

    trainer = make_trainer(reader, [Look(), evaluation], 1, network=WatchedLeNet, fast_cpu=fast_cpu)
    trainer.train()
    assert set(trainer.model.seen) == {(True, fast_cpu), (False, fast_cpu)}
    assert at_rest == [False] * 5


@pytest.mark.parametrize("fast_cpu", [True, False])
def test_fast_layers_are_in_use_where_statistics_are_computed_anew(fast_cpu):
    trainer = make_trainer(make_reader(), network=WatchedBN, fast_cpu=fast_cpu)
    trainer.run_step(list(make_reader().batches(1))[:1])
    trainer.model.seen.clear()
    trainer.refresh_averages()
    assert trainer.model.seen == [fast_cpu] * 2


@pytest.mark.parametrize("fast_cpu", [True, False])
def test_fast_layers_are_in_use_where_candidates_are_evaluated(fast_cpu):
    model, reader = WatchedBN(), make_reader()
    loss_fn = paddle.nn.CrossEntropyLoss()
    candidates = Candidates(model, loss_fn, reader, lambda: reader.batches(1), "images", fast_cpu)
    candidates.evaluate(model.state_dict(), "the test")
    assert model.seen == [fast_cpu] * 10
