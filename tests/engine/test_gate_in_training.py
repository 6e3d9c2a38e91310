"""Steps whose loss spikes: trained on, but left out of every average, counted and logged."""

from __future__ import annotations

import logging

import pytest
from paddle.vision.models import LeNet
from test_resume import saving_trainer
from test_trainer import Poison
from trainers import all_bits, make_reader, make_trainer

from ppema import CyclicSWALR, LossGate, StochasticWeightAverage
from ppema.engine.hooks import LogHook
from ppema.engine.record import Recorder, read_records
from ppema.engine.run_state import restore
from ppema.engine.trainer import Hook


def spiking_reader(steps=(4, 7)):
    """Return a reader whose batches of these steps are far out of range."""
    reader = make_reader()
    batches = reader.batches

    def spiking(epoch, start=0):
        first = (epoch - 1) * len(reader) + start // 8 + 1
        for step, batch in enumerate(batches(epoch, start), start=first):
            if step in steps:
                batch.image[:] *= 1e4
            yield batch

    reader.batches = spiking
    return reader


class Snapshots(Hook):
    """Keep the bits of all averages after each step."""

    def __init__(self):
        self.bits = []

    def after_step(self, trainer):
        self.bits.append({k: v for k, v in all_bits(trainer).items() if k != "raw"})


def test_a_spike_moves_the_weights_but_no_average(caplog):
    hook = Snapshots()
    trainer = make_trainer(
        spiking_reader(), [hook], network=LeNet, gate=LossGate(max_loss_ratio=6.0)
    )
    with caplog.at_level(logging.WARNING, logger="ppema"):
        trainer.train()
    bits = hook.bits
    assert bits[3] == bits[2]
    assert bits[6] == bits[5]
    assert bits[4] != bits[3]
    ema = trainer.averages["ema"]
    assert (ema.num_updates, ema.num_steps) == (8, trainer.step) == (8, 10)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in lines] == ["step 4", "step 7"]
    assert lines[1].endswith("left out of the averages (2 so far)")
    ungated = make_trainer(spiking_reader(), [], network=LeNet)
    ungated.train()
    assert all_bits(ungated)["raw"] == all_bits(trainer)["raw"]
    assert all_bits(ungated)["ema"] != all_bits(trainer)["ema"]


def test_the_loss_of_a_step_is_the_mean_of_its_images(tmp_path):
    """Of two accumulated batches one spikes: the mean is what the gate sees."""
    seen = []

    class Listening(LossGate):
        def admits(self, loss):
            seen.append(loss)
            return super().admits(loss)

    recorder = Recorder(tmp_path, None)
    trainer = make_trainer(
        make_reader(20),
        [LogHook(recorder, 1, None)],
        num_epochs=1,
        accumulate_steps=2,
        gate=Listening(max_loss=1e9),
    )
    trainer.train()
    losses = [record["loss"] for record in read_records(tmp_path / "metrics.jsonl")]
    assert seen == pytest.approx(losses, rel=1e-6)


def test_the_records_count_what_was_left_out(tmp_path):
    hooks = [LogHook(Recorder(tmp_path, None), 1, None)]
    trainer = make_trainer(make_reader(), hooks, gate=LossGate(max_loss=1e-9))
    trainer.train()
    records = list(read_records(tmp_path / "metrics.jsonl"))
    assert [record["left_out"] for record in records] == list(range(1, 11))
    assert {value for record in records for value in record["decay"].values()} == {1.0}


@pytest.mark.parametrize("left_out_by", ["gate", "non_finite"])
def test_points_of_swa_stay_at_the_ends_of_cycles(left_out_by):
    """Steps 1 and 6 are left out; points were due at 4, 6, 8 and 10, all at the lowest rate."""

    class Points(Hook):
        def __init__(self):
            self.rates, self.num_points = {}, 0

        def after_step(self, trainer):
            if trainer.averages["ends"].num_points > self.num_points:
                self.num_points = trainer.averages["ends"].num_points
                self.rates[trainer.step] = trainer.rate

    reader, options = spiking_reader((1, 6)), {"gate": LossGate(max_loss=9.0)}
    if left_out_by == "non_finite":
        reader, options = make_reader(), {"non_finite": "skip"}
        Poison(reader, steps={1, 6})
    hook = Points()
    trainer = make_trainer(reader, [hook], network=LeNet, with_schedule=False, **options)
    schedule = CyclicSWALR(1e-4, max_lr=2e-5, min_lr=1e-5, start=2, cycle=2)
    trainer.lr_scheduler = schedule
    trainer.optimizer.set_lr_scheduler(schedule)
    trainer.averages["ends"] = StochasticWeightAverage(trainer.model, start=4, every=2)
    trainer.train()
    # That of step 6 is taken a step late, at the first and higher rate of the next cycle.
    assert hook.rates == pytest.approx({4: 1e-5, 7: 1.5e-5, 8: 1e-5, 10: 1e-5})


@pytest.mark.parametrize("step", [3, 4, 5])
def test_a_resumed_run_leaves_out_the_same_steps(tmp_path, step):
    def make(folder, stop=None):
        gate = LossGate(max_loss_ratio=6.0)
        trainer, store = saving_trainer(folder, stop=stop, network=LeNet, gate=gate)
        trainer.reader = spiking_reader()
        return trainer, store

    straight, _ = make(tmp_path / "straight")
    straight.train()
    broken, store = make(tmp_path / "broken", stop=step)
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    resumed, _ = make(tmp_path / "broken")
    restore(resumed, store.newest())
    resumed.train()
    assert resumed.gate.num_left_out == straight.gate.num_left_out == 2
    assert resumed.gate.state_dict() == straight.gate.state_dict()
    assert all_bits(resumed) == all_bits(straight)
