"""A run with every fast path on gives the bits of one with all of them off."""

from __future__ import annotations

import paddle
import pytest
from trainers import all_bits, make_reader, make_trainer
from update_paths import use_numba, use_numpy

from ppema.averaging import kernels
from ppema.engine.trainer import Hook


class ConvNet(paddle.nn.Layer):
    """Convolution, pooling, BN, dropout: all that has a fast form, and what moves beside it."""

    def __init__(self):
        super().__init__()
        self.body = paddle.nn.Sequential(
            *(paddle.nn.Conv2D(1, 6, 3, padding=1), paddle.nn.BatchNorm2D(6), paddle.nn.ReLU()),
            *(paddle.nn.MaxPool2D(2, 2), paddle.nn.Conv2D(6, 8, 5), paddle.nn.ReLU()),
            *(paddle.nn.MaxPool2D(3, 2), paddle.nn.Flatten(), paddle.nn.Dropout(0.2)),
            paddle.nn.Linear(128, 10),
        )

    def forward(self, image):
        return self.body(image)


class Losses(Hook):
    """Keep the loss of every step, to the bit."""

    def __init__(self):
        self.all = []

    def after_step(self, trainer):
        self.all.append(trainer.totals.figures[-1][1].numpy().tobytes())


def run(monkeypatch, is_fast, **options):
    losses = Losses()
    trainer = make_trainer(
        make_reader(), [losses], network=ConvNet, fast_cpu=is_fast, switch="ema", **options
    )
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "num_own_cores", lambda: 2 if is_fast else 1)
        for name in ("MIN_WEIGHTS_IN_BACKGROUND", "MIN_WEIGHTS_OF_TWO_THREADS"):
            patch.setattr(kernels, name, 0 if is_fast else 10**18)
        (use_numba if is_fast else use_numpy)(patch)
        trainer.train()
        return losses.all, all_bits(trainer)


@pytest.mark.parametrize("options", [{}, {"accumulate_steps": 2}, {"non_finite": "skip"}])
def test_losses_weights_and_averages_are_the_same_bits(options, monkeypatch):
    pytest.importorskip("numba")
    handed_over = []
    start = kernels.start_in_background
    monkeypatch.setattr(
        kernels, "start_in_background", lambda job: (handed_over.append(job), start(job))
    )
    fast = run(monkeypatch, True, **options)
    assert handed_over
    num_handed_over = len(handed_over)
    slow = run(monkeypatch, False, **options)
    assert len(handed_over) == num_handed_over
    assert fast == slow


def test_a_step_waits_for_the_update_of_the_one_before(monkeypatch):
    import threading

    monkeypatch.setattr(kernels, "num_own_cores", lambda: 2)
    monkeypatch.setattr(kernels, "MIN_WEIGHTS_IN_BACKGROUND", 0)
    gate = threading.Event()

    class HoldUp(Hook):
        """Keep the helper thread busy until after the next step's gradients are there."""

        def after_step(self, trainer):
            gate.clear()
            kernels.start_in_background(lambda: gate.wait(20))
            threading.Timer(0.05, gate.set).start()

    held = make_trainer(make_reader(), [HoldUp()], num_epochs=1)
    held.train()
    plain = make_trainer(make_reader(), num_epochs=1)
    monkeypatch.setattr(kernels, "num_own_cores", lambda: 1)
    plain.train()
    assert all_bits(held) == all_bits(plain)
