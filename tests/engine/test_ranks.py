"""Two ranks train as one process does on both parts of each batch, and agree on all they decide."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ranks_script import Losses, PlainNet, TurnedNet, plain_trainer, weights
from trainers import make_reader, make_trainer

from ppema.averaging import ranks
from ppema.engine.rng import rng_to_json
from ppema.engine.run_state import _restore_rank
from ppema.engine.totals import Totals

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory):
    """Return what each of two ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    script = str(TESTS / "engine/ranks_script.py")
    launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", "log"]
    subprocess.run(
        [sys.executable, *launcher, script, str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}"},
        capture_output=True,
        timeout=150,
    )
    logs = [path.read_text()[-3000:] for path in sorted(folder.glob("log/workerlog.*"))]
    files = [folder / f"rank_{rank}.json" for rank in (0, 1)]
    assert all(file.exists() for file in files), "\n".join(logs)
    return [json.loads(file.read_text()) for file in files]


@pytest.mark.parametrize(
    ("name", "accumulate_steps", "network"),
    [("plain", 1, PlainNet), ("accumulated", 2, PlainNet), ("turned", 1, TurnedNet)],
)
def test_they_compute_what_one_process_does(of_ranks, name, accumulate_steps, network):
    losses = Losses()
    trainer = plain_trainer(make_reader(41, 8), losses, accumulate_steps, network)
    trainer.train()
    first, second = (found[name] for found in of_ranks)
    assert first == second
    np.testing.assert_allclose(first["losses"], losses.losses, atol=1e-6)
    alone = weights(trainer)
    assert list(first["weights"]) == list(alone)
    for tensor, values in alone.items():
        np.testing.assert_allclose(first["weights"][tensor], values, atol=1e-6, err_msg=tensor)


def test_data_parallel_s_own_exchange_gives_the_same_bits(of_ranks):
    for found in of_ranks:
        as_on_gpus, as_on_cpus = found["exchanged_both_ways"]
        assert as_on_gpus == as_on_cpus


def test_a_parameter_without_a_gradient_is_an_error_that_says_what_to_set(of_ranks):
    expected = (
        "find_unused_parameters is false, but the loss does not depend on unused.weight; "
        "set find_unused_parameters: true"
    )
    for found in of_ranks:
        assert found["unused"] == [expected, ""]


def test_their_statistics_are_brought_together_and_each_average_is_then_the_same(of_ranks):
    first, second = (found["with_batch_norm"] for found in of_ranks)
    assert first["own_mean"] != second["own_mean"]
    # Bringing them together twice at a step changes nothing.
    assert len({*first["digests"], *second["digests"]}) == 1


def test_buffers_of_all_kinds_become_those_of_the_first(of_ranks):
    first, second = (found["buffers"] for found in of_ranks)
    assert first == second
    assert first["count"] == "3"
    assert first["mask"] == "[False, True]"
    assert first["nothing"] == "[]"
    assert first["turns"] == "[[(1+0j)], [(2-1j)]]"


def test_evaluated_by_both_the_figures_are_those_of_one_to_the_bit(of_ranks):
    for found in of_ranks:
        for kind in ("figures", "confusions", "mistakes"):
            together, alone = found["with_batch_norm"][kind]
            assert together == alone
        assert found["nothing"][0] == found["nothing"][1]
    assert of_ranks[0]["with_batch_norm"] != {}


def test_a_step_that_one_must_leave_out_both_leave_out(of_ranks):
    for found in of_ranks:
        assert found["nan_of_one_rank"] == {"skips": [0, 0, 1, 0, 0], "is_finite": True}


def test_the_gate_goes_by_the_loss_of_both(of_ranks):
    assert [found["gated"] for found in of_ranks] == [5, 5]


def test_weights_that_are_not_the_same_are_not_saved(of_ranks):
    expected = (
        "step 0: process 1 does not hold the weights of process 0 (raw: body.1.bias, 1 of 48); "
        "this step is not saved, the checkpoint before it stands"
    )
    assert [found["differing"] for found in of_ranks] == [expected, expected]
    for found in of_ranks:
        assert "(latest snapshots 0: body.1.bias, 1 of" in found["differing_snapshot"]


def test_a_signal_to_one_ends_both_after_the_same_batch(of_ranks):
    (done, received), other = (found["signalled"] for found in of_ranks)
    assert [done, received] == other
    assert done < 29
    assert received == 15


def test_both_round_their_weights_to_the_same_bits(of_ranks):
    assert len({found["rounded"] for found in of_ranks}) == 1


def test_statistics_are_computed_anew_on_all_images_where_there_are_no_more_batches(of_ranks):
    first, second = (found["recomputed"] for found in of_ranks)
    assert first == second
    together, alone = first
    for name, values in alone.items():
        np.testing.assert_allclose(together[name], values, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(("rank", "num_samples"), [(0, 100), (1, 0)])
def test_in_another_number_of_processes_each_has_the_same_steps_to_log(
    rank, num_samples, monkeypatch
):
    rng, trainer = rng_to_json(), make_trainer(make_reader())
    monkeypatch.setattr(ranks, "num_ranks", lambda: 2)
    monkeypatch.setattr(ranks, "rank", lambda: rank)
    totals = Totals(num_before=100, loss_before=230.0, correct_before=10, num_steps=3, step_s=1.5)
    _restore_rank(trainer, [{"totals": totals.state_dict(), "rng": rng}])
    assert trainer.totals.num_samples == num_samples
    # Else one would wait for the others to log a step that a signal broke off.
    assert (trainer.totals.num_steps, trainer.totals.step_s) == (3, 1.5)


def test_a_gradient_that_one_makes_nan_ends_both(of_ranks):
    said = {found["non_finite"] for found in of_ranks}
    assert said == {
        "step 1: the gradient of body.1.weight is not finite; the weights before it stand"
    }
