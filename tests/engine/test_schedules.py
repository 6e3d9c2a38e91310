"""Schedules inside schedules: a run that stops at any step goes on with the same rates."""

from __future__ import annotations

import pytest
from paddle.optimizer import lr
from test_resume import saving_trainer
from trainers import all_bits

from ppema import SWALR, CyclicSWALR
from ppema.engine.run_state import restore
from ppema.engine.trainer import Hook
from ppema.errors import CheckpointError
from ppema.schedules import SCHEDULERS, takes_schedule

CHAINS = {
    "warmup of cosine": lambda: lr.LinearWarmup(lr.CosineAnnealingDecay(0.02, 7), 3, 0.0, 0.02),
    "warmup of linear": lambda: lr.LinearWarmup(lr.LinearLR(0.02, 6), 3, 0.0, 0.02),
    "SWA of cosine": lambda: SWALR(lr.CosineAnnealingDecay(0.02, 7), 0.005, start=4, anneal=4),
    "SWA of warmup of linear": lambda: SWALR(
        lr.LinearWarmup(lr.LinearLR(0.02, 6), 2, 0.0, 0.02), 0.005, start=6, anneal=3
    ),
    "cyclic": lambda: CyclicSWALR(0.02, 0.01, 0.001, start=4, cycle=2),
    "warmup of cyclic of restarts": lambda: lr.LinearWarmup(
        CyclicSWALR(lr.CosineAnnealingWarmRestarts(0.02, 2, 2), 0.01, 0.001, start=5, cycle=2),
        *(2, 0.0, 0.02),
    ),
}


class Rates(Hook):
    """Note the rate that each step had, by the step's number."""

    def __init__(self):
        self.next, self.found = 0.0, {}

    def before_run(self, trainer):
        self.next = trainer.optimizer.get_lr()

    def after_step(self, trainer):
        self.found[trainer.step] = self.next
        self.next = trainer.optimizer.get_lr()


def run(folder, chain, stop=None, start=None):
    """Train to the end, or to a stop; return rates, trainer and store."""
    trainer, store = saving_trainer(folder, stop=stop)
    trainer.lr_scheduler = CHAINS[chain]()
    trainer.optimizer.set_lr_scheduler(trainer.lr_scheduler)
    rates = Rates()
    trainer.hooks.insert(0, rates)
    if start is not None:
        restore(trainer, start)
    if stop is None:
        trainer.train()
    else:
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    return rates.found, trainer, store


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Return a function from a chain to the rates and bits of its uninterrupted run."""
    done = {}

    def of(chain):
        if chain not in done:
            rates, trainer, _ = run(tmp_path_factory.mktemp("straight"), chain)
            done[chain] = rates, all_bits(trainer)
        return done[chain]

    return of


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("chain", CHAINS)
def test_a_run_stopped_within_a_chain_goes_on_with_the_same_rates_and_bits(
    tmp_path, straight, chain, step
):
    before, _, store = run(tmp_path, chain, stop=step)
    after, trainer, _ = run(tmp_path, chain, start=store.newest())
    assert list(before) + list(after) == list(range(1, 11))
    assert ({**before, **after}, all_bits(trainer)) == straight(chain)


def test_the_arguments_are_the_config_s_and_the_place_the_checkpoint_s(tmp_path):
    _, _, store = run(tmp_path, "SWA of cosine", stop=6)
    trainer, _ = saving_trainer(tmp_path)
    schedule = SWALR(lr.CosineAnnealingDecay(0.02, 7), 0.3, start=4)
    trainer.lr_scheduler = schedule
    restore(trainer, store.newest())
    assert (schedule.last_epoch, schedule.learning_rate.last_epoch) == (6, 3)
    schedule.step()
    assert schedule() == 0.3


def test_a_checkpoint_with_another_chain_is_refused_in_one_line(tmp_path):
    _, _, store = run(tmp_path, "cyclic", stop=2)
    trainer, _ = saving_trainer(tmp_path)
    trainer.lr_scheduler = CHAINS["SWA of cosine"]()
    with pytest.raises(CheckpointError, match=r"state\.pdstates: the state of SWALR lacks learn"):
        restore(trainer, store.newest())


def test_which_schedules_take_another_one_is_read_from_their_annotation():
    assert {name for name, cls in SCHEDULERS.items() if takes_schedule(cls)} == {
        *("LinearWarmup", "SWALR", "CyclicSWALR")
    }

    class Mine(lr.LinearWarmup):
        pass

    assert takes_schedule(Mine)
    assert not takes_schedule(lambda **arguments: None)
