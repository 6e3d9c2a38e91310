"""A hundred NaN and Inf, put in anywhere: each is caught at its step, and none goes any further."""

from __future__ import annotations

import random

import numpy as np
import paddle
import pytest
from trainers import all_bits, make_reader, make_trainer
from update_paths import bits as average_bits

from ppema import ExponentialMovingAverage
from ppema.averaging import kernels
from ppema.checkpoint import structured_optimizer_state
from ppema.engine.run_state import checkpoint_files
from ppema.engine.trainer import Hook, Trainer
from ppema.errors import NonFiniteError

pytestmark = pytest.mark.reliability

VALUES = (float("nan"), float("inf"), float("-inf"))
NUM_BATCHES = 6


class Guarded(paddle.nn.Layer):
    """Weights that train, frozen ones and BN statistics, behind ReLUs that hide a NaN on a CPU."""

    def __init__(self):
        super().__init__()
        self.first = paddle.nn.Linear(784, 6)
        self.norm = paddle.nn.BatchNorm1D(6)
        self.frozen = paddle.nn.Linear(6, 6)
        for parameter in self.frozen.parameters():
            parameter.stop_gradient = True
        self.register_buffer("scale", paddle.ones([6]))
        self.head = paddle.nn.Linear(6, 10)

    def forward(self, image):
        hidden = paddle.nn.functional.relu(self.norm(self.first(image.flatten(1))))
        return self.head(paddle.nn.functional.relu(self.frozen(hidden)) * self.scale)


TRAINED = ("first.weight", "first.bias", "norm.weight", "norm.bias", "head.weight", "head.bias")
FROZEN = ("frozen.weight", "frozen.bias")
MOVED_BY_FORWARD = ("norm._mean", "norm._variance", "scale")
STATE = (*TRAINED, *FROZEN, *MOVED_BY_FORWARD)


def spoil(tensor, choose, value):
    array = tensor.numpy().copy()
    array.flat[choose.randrange(array.size)] = value
    tensor.set_value(array)


class LookIntoCheckpoints(Hook):
    """Look at each step into all that a checkpoint would hold."""

    def after_step(self, trainer):
        trainer.refresh_averages()
        for _, make in checkpoint_files(trainer).values():
            contents = make()
            assert not tensors_in(contents) or all_finite(contents)


class Injection(LookIntoCheckpoints):
    """Put one value into the image, a gradient or the state of one step, drawn by a seed."""

    def __init__(self, seed):
        self._choose = random.Random(seed)
        self.value = self._choose.choice(VALUES)
        self.policy = self._choose.choice(["error", "skip"])
        self.accumulate_steps = self._choose.choice([1, 2])
        self.is_beside = self._choose.random() < 0.5
        self.num_steps = NUM_BATCHES // self.accumulate_steps
        self.step = self._choose.randint(1, self.num_steps)
        # Into which of the batches of the step.
        self.part = self._choose.randrange(self.accumulate_steps)
        self.target = ("image", "gradient", "state", "state")[seed % 4]
        self.name = {
            "image": "first.weight",
            "gradient": self._choose.choice(TRAINED),
            "state": STATE[seed // 4 * 2 % len(STATE) + (seed % 4 == 3) - len(STATE)],
        }[self.target]

    @property
    def can_be_left_out(self):
        return self.policy == "skip" and self.target != "state"

    def make_trainer(self):
        """Return a trainer into which the value is put."""
        reader, epochs = make_reader(NUM_BATCHES * 8), []
        spoilt = (self.step - 1) * self.accumulate_steps + self.part
        real = reader.batches

        def batches(epoch, start=0):
            # The first to ask is the training; those after it recompute BN statistics.
            epochs.append(epoch)
            spoilt_here = spoilt if len(epochs) == 1 and self.target == "image" else None
            for index, batch in enumerate(real(epoch, start)):
                if index == spoilt_here:
                    pixel = self._choose.randrange(batch.image.size)
                    batch.image.flat[pixel] = self.value
                yield batch

        reader.batches = batches
        trainer = make_run(reader, self.policy, self.accumulate_steps, hooks=[self])
        if self.target == "gradient":
            backwards = []

            def hook(gradient):
                backwards.append(gradient)
                if len(backwards) - 1 == spoilt:
                    gradient = gradient.clone()
                    spoil(gradient, self._choose, self.value)
                return gradient

            dict(trainer.model.named_parameters())[self.name].register_hook(hook)
        return trainer

    def before_run(self, trainer):
        self._spoil_state(trainer)

    def after_step(self, trainer):
        super().after_step(trainer)
        self._spoil_state(trainer)

    def _spoil_state(self, trainer):
        if self.target == "state" and trainer.step == self.step - 1:
            for average in trainer.averages.values():
                average.wait()
            spoil(trainer.model.state_dict()[self.name], self._choose, self.value)


class LeavingOut(Trainer):
    """A trainer for which one step is never there: its data are passed over."""

    left_out = 0

    def run_step(self, batches):
        if self.step + 1 != self.left_out:
            super().run_step(batches)
            return
        for average in self.averages.values():
            average.skip()
        self.lr_scheduler.step()
        self.step += 1
        self.step_in_epoch += 1


def make_run(reader, policy, accumulate_steps, hooks=()):
    return make_trainer(
        reader,
        hooks,
        num_epochs=1,
        network=Guarded,
        non_finite=policy,
        accumulate_steps=accumulate_steps,
    )


def tensors_in(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors_in(item)]
    return [value] if paddle.is_tensor(value) or isinstance(value, np.ndarray) else []


def all_finite(value):
    found = tensors_in(value)
    assert found
    return all(np.isfinite(np.asarray(tensor)).all() for tensor in found)


@pytest.fixture(scope="module")
def clean():
    """Return all bits after each step of a run, by accumulate_steps."""
    histories = {}
    for accumulate_steps in (1, 2):
        history = histories[accumulate_steps] = []

        class Keep(Hook):
            def after_step(self, trainer, history=history):
                trainer.refresh_averages()
                history.append(all_bits(trainer))

        reader = make_reader(NUM_BATCHES * 8)
        trainer = make_run(reader, "error", accumulate_steps, [Keep()])
        history.append(all_bits(trainer))
        trainer.train()
    return histories


def use_thread(monkeypatch):
    """Have even a small model's averages moved beside the next forward and backward pass."""
    monkeypatch.setattr(kernels, "MIN_WEIGHTS_IN_BACKGROUND", 0)
    monkeypatch.setattr(kernels, "num_own_cores", lambda: 2)


@pytest.mark.parametrize("seed", range(100))
def test_an_injection_is_caught_at_its_step(seed, clean, monkeypatch, caplog):
    injection = Injection(seed)
    if injection.is_beside:
        use_thread(monkeypatch)
    trainer = injection.make_trainer()
    if injection.can_be_left_out:
        trainer.train()
        said = [record.getMessage() for record in caplog.records if "left out" in record.message]
        assert len(said) == 1
        assert said[0].startswith(f"step {injection.step}: ")
        assert said[0].endswith(" is not finite; the step is left out")
        assert injection.name in said[0]
        hooks = [LookIntoCheckpoints()]
        reader = make_reader(NUM_BATCHES * 8)
        reference = make_run(reader, "error", injection.accumulate_steps, hooks)
        reference.__class__ = LeavingOut
        reference.left_out = injection.step
        reference.train()
        assert all_bits(trainer) == all_bits(reference)
        assert trainer.step == injection.num_steps
        return
    with pytest.raises(NonFiniteError) as caught:
        trainer.train()
    assert caught.value.exit_code == 4
    assert str(caught.value).startswith(f"step {injection.step}: ")
    # A buffer that no layer of Paddle's knows is told from what it did, where no copy is kept.
    if injection.name != "scale" or injection.policy == "skip":
        assert injection.name in str(caught.value)
    assert trainer.step == injection.step - 1
    averages = {name: average.state_dict() for name, average in trainer.averages.items()}
    assert all_finite({name: state["shadow"] for name, state in averages.items()})
    accumulators = structured_optimizer_state(trainer.optimizer, trainer.model)
    assert not accumulators or all_finite(accumulators)
    before = clean[injection.accumulate_steps][injection.step - 1]
    found = all_bits(trainer)
    assert {name: found[name] for name in averages} == {name: before[name] for name in averages}
    if injection.target != "state":
        # But for the statistics, which the forward pass has moved.
        weights = [*TRAINED, *FROZEN]
        assert [found["raw"][n] for n in weights] == [before["raw"][n] for n in weights]


def test_the_injections_are_of_every_kind():
    cases = [Injection(seed) for seed in range(100)]
    kinds = {(case.target, case.policy, case.accumulate_steps) for case in cases}
    assert len(kinds) == 3 * 2 * 2
    assert {(case.target, str(case.value)) for case in cases} >= {
        (target, str(value)) for target in ("image", "gradient", "state") for value in VALUES
    }
    assert {case.name for case in cases if case.target == "state"} == set(STATE)
    assert {case.step for case in cases} == set(range(1, NUM_BATCHES + 1))


@pytest.mark.parametrize("accumulate_steps", [1, 2])
@pytest.mark.parametrize("max_skips", [0, 1, 2])
def test_more_steps_in_a_row_than_max_skips_end_with_4(max_skips, accumulate_steps):
    reader = make_reader(NUM_BATCHES * 8)
    real = reader.batches

    def batches(epoch, start=0):
        for batch in real(epoch, start):
            batch.image[:] = np.nan
            yield batch

    reader.batches = batches
    trainer = make_trainer(
        reader,
        network=Guarded,
        non_finite="skip",
        max_skips=max_skips,
        accumulate_steps=accumulate_steps,
    )
    before = all_bits(trainer)
    with pytest.raises(NonFiniteError, match=f"step {max_skips + 1}: .* steps in a row") as caught:
        trainer.train()
    assert caught.value.exit_code == 4
    assert all_bits(trainer) == before


@pytest.mark.parametrize("spoilt", ["weight", "average", "accumulator"])
def test_no_checkpoint_holds_what_another_hook_has_spoilt(spoilt):
    trainer = make_run(make_reader(16), "error", 1)
    trainer.train()
    trainer.refresh_averages()
    place, name = {
        "weight": (trainer.model.state_dict(), "frozen.bias"),
        "average": (trainer.averages["ema"].state_dict()["shadow"], "head.weight"),
        "accumulator": (
            structured_optimizer_state(trainer.optimizer, trainer.model),
            "first.weight/moment2",
        ),
    }[spoilt]
    key = next(key for key in place if key.startswith(name))
    place[key].set_value(np.full(place[key].shape, np.nan, "float32"))
    makers = [make for _, make in checkpoint_files(trainer).values()]
    with pytest.raises(NonFiniteError, match="holds NaN; refusing to save"):
        [make() for make in makers]


@pytest.mark.parametrize("way", ["update", "attached", "beside"])
@pytest.mark.parametrize("seed", range(12))
def test_in_a_plain_loop_no_average_takes_it_in(seed, way, monkeypatch):
    if way == "beside":
        use_thread(monkeypatch)
    choose = random.Random(seed)
    paddle.seed(seed)
    model = Guarded()
    optimizer = paddle.optimizer.Adam(0.01, parameters=model.parameters())
    ema = ExponentialMovingAverage(model, 0.9)
    if way == "beside":
        # Frozen weights are copied, and all looked at, before the thread has its turn.
        for parameter in model.frozen.parameters():
            parameter.stop_gradient = False
    if way != "update":
        ema.attach(optimizer, overlap=way == "beside")

    def step():
        optimizer.step()
        ema.update() if way == "update" else ema.wait()

    # Through a gradient it reaches the weight in the optimizer's step.
    names = [*TRAINED, *FROZEN, *MOVED_BY_FORWARD[:2], *TRAINED[:2]]
    name, value = names[seed], choose.choice(VALUES)
    tensor, is_gradient = model.state_dict()[name], seed >= 10
    before = None
    for number, batch in enumerate(make_reader(32).batches(1), start=1):
        logits = model(paddle.to_tensor(batch.image))
        paddle.nn.functional.cross_entropy(logits, paddle.to_tensor(batch.label)).backward()
        ema.wait()
        before = average_bits(ema), ema.num_updates
        if number < 4:
            step()
            optimizer.clear_grad()
            continue
        spoil(tensor.grad if is_gradient else tensor, choose, value)
        with pytest.raises(FloatingPointError, match=f"^{name} holds NaN or Inf"):
            step()
    assert (average_bits(ema), ema.num_updates) == before
    assert before[1] == 3
    assert all_finite(ema.state_dict()["shadow"])
