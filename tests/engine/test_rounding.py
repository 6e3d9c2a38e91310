"""Weights rounded in training: after each step that moved them, before averages, on resume too."""

from __future__ import annotations

import numpy as np
import pytest
from paddle.vision.models import LeNet
from test_resume import saving_trainer
from test_trainer import Poison
from trainers import all_bits, make_reader, make_trainer

from ppema import BlockFloatingPoint, StochasticWeightAverage
from ppema.engine.run_state import restore
from ppema.engine.trainer import Hook


def with_rounding(trainer, bits=2):
    trainer.rounding = BlockFloatingPoint(trainer.model, bits=bits, block="tensor", seed=11)
    return trainer


class Seen(Hook):
    """Keep copies of all weights after each step."""

    def __init__(self):
        self.weights = []

    def after_step(self, trainer):
        state = trainer.model.state_dict()
        self.weights.append({name: tensor.numpy().copy() for name, tensor in state.items()})


@pytest.mark.parametrize("switch", [None, "ema"])
def test_weights_are_rounded_after_each_step_and_nothing_else_is(switch):
    seen = Seen()
    trainer = with_rounding(make_trainer(make_reader(), [seen], switch=switch))
    trained = [name for name, p in trainer.model.named_parameters() if not p.stop_gradient]
    trainer.train()
    assert len(seen.weights) == 10
    for weights in seen.weights:
        for name, array in weights.items():
            num_values = len(np.unique(array))
            assert num_values <= 4 if name in trained else num_values > 4
    # Averages are not: of two sets of weights they have more values than four.
    shadows = trainer.averages["ema"].state_dict()["shadow"]
    assert len(np.unique(shadows["body.1.weight"].numpy())) > 100


def test_averages_are_of_the_rounded_weights():
    seen = Seen()
    trainer = with_rounding(make_trainer(make_reader(), [seen]))
    trainer.averages["mean"] = StochasticWeightAverage(trainer.model, shadow_dtype="float64")
    trainer.train()
    for name, shadow in trainer.averages["mean"].state_dict()["shadow"].items():
        mean = np.mean([weights[name] for weights in seen.weights], axis=0, dtype="float64")
        np.testing.assert_allclose(shadow.numpy(), mean, rtol=1e-12, atol=1e-15)


def test_a_step_that_is_left_out_rounds_nothing():
    reader, seen = make_reader(), Seen()
    Poison(reader, steps={1, 4})
    trainer = make_trainer(reader, [seen], network=LeNet, num_epochs=1, non_finite="skip")
    before = {name: tensor.numpy().copy() for name, tensor in trainer.model.state_dict().items()}
    with_rounding(trainer).train()
    for name, array in before.items():
        assert seen.weights[0][name].tobytes() == array.tobytes()
        assert seen.weights[3][name].tobytes() == seen.weights[2][name].tobytes()
    assert seen.weights[1]["fc.0.weight"].tobytes() != before["fc.0.weight"].tobytes()


@pytest.mark.parametrize("step", [1, 5, 8])
def test_a_resumed_run_rounds_to_the_same_bits(tmp_path, step):
    straight = with_rounding(saving_trainer(tmp_path / "straight")[0])
    straight.train()
    broken, store = saving_trainer(tmp_path / "broken", stop=step)
    with pytest.raises(KeyboardInterrupt):
        with_rounding(broken).train()
    resumed = with_rounding(saving_trainer(tmp_path / "broken")[0])
    restore(resumed, store.newest())
    resumed.train()
    assert all_bits(resumed) == all_bits(straight)
