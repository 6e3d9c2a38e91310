"""What each of two ranks does for test_ranks.py, started by Paddle's launcher."""

from __future__ import annotations

import hashlib
import json
import sys

import numpy as np
import paddle
from trainers import make_reader, make_trainer

from ppema.averaging import BlockFloatingPoint, LossGate, ranks
from ppema.averaging.batch_norm import synchronize_buffers
from ppema.builder.processes import joined
from ppema.engine.agreement import RanksDifferError, SignalAgreement, require_same_weights
from ppema.engine.evaluate import evaluate, evaluate_all
from ppema.engine.predictions import Predictions
from ppema.engine.trainer import Hook
from ppema.errors import ConfigError, NonFiniteError
from ppema.stop_signals import StopRequest, StopSignals, watched


class PlainNet(paddle.nn.Layer):
    """A network without BN and dropout, whose gradient is the mean of its images' alone."""

    def __init__(self):
        super().__init__()
        self.body = paddle.nn.Sequential(
            paddle.nn.Flatten(),
            paddle.nn.Linear(784, 16),
            paddle.nn.ReLU(),
            paddle.nn.Linear(16, 10),
        )

    def forward(self, image):
        return self.body(image)


class Losses(Hook):
    """Note the mean loss of each step, over all ranks."""

    def __init__(self):
        self.losses = []

    def after_step(self, trainer):
        totals, trainer.totals = trainer.totals.of_all_ranks(), type(trainer.totals)()
        self.losses.append(totals.mean_loss())


def shared_reader(num_samples, batch_size):
    """Return the reader of trainers.py, of this rank's part of each batch."""
    return make_reader(
        num_samples, batch_size // ranks.num_ranks(), rank=ranks.rank(), num_ranks=ranks.num_ranks()
    )


def weights(trainer):
    """Return all weights and averages as lists of floats, by average and name."""
    found = {"raw": trainer.model.state_dict()}
    found.update({name: avg.averaged_state_dict() for name, avg in trainer.averages.items()})
    return {
        f"{of} {n}": t.numpy().tolist() for of, state in found.items() for n, t in state.items()
    }


def digest(trainer):
    return hashlib.sha256(json.dumps(weights(trainer)).encode()).hexdigest()


def plain(accumulate_steps, network=PlainNet):
    """Train without BN: 41 images in batches of 8, the last of one image, which one rank has."""
    losses = Losses()
    trainer = plain_trainer(shared_reader(41, 8), losses, accumulate_steps, network)
    trainer.train()
    trainer.refresh_averages()
    return {"losses": losses.losses, "weights": weights(trainer)}


def plain_trainer(reader, losses, accumulate_steps, network=PlainNet):
    """Return a trainer by SGD: Adam makes much of a gradient's last digits where it is near 0."""
    options = {"network": network, "with_schedule": False, "accumulate_steps": accumulate_steps}
    trainer = make_trainer(reader, [losses], **options)
    trainer.optimizer = paddle.optimizer.SGD(0.05, parameters=trainer.model.parameters())
    return trainer


class TurnedNet(PlainNet):
    """A network whose last gradient lies in memory by columns on the second rank alone."""

    def __init__(self):
        super().__init__()
        self.body = self.body[:3]
        self.turned = self.create_parameter([10, 16])

    def forward(self, image):
        hidden = self.body(image)
        if ranks.rank() == 0:
            return paddle.matmul(hidden, self.turned, transpose_y=True)
        return hidden @ self.turned.t()


def exchanged_both_ways():
    """Exchange gradients as on GPUs, and as on CPUs, over two batches a step; one is turned."""
    found = []
    for is_as_on_gpus in (True, False):
        trainer = plain_trainer(shared_reader(41, 8), Losses(), 2, TurnedNet)
        trainer._exchange._is_beside_backward = is_as_on_gpus
        trainer.train()
        found.append(digest(trainer))
    return found


class HalfUsed(PlainNet):
    """A network of which a part does not reach the loss."""

    def __init__(self):
        super().__init__()
        self.unused = paddle.nn.Linear(3, 3)


def unused(find_unused_parameters):
    """Train a network of which a part is not used."""
    trainer = make_trainer(
        shared_reader(40, 8),
        network=HalfUsed,
        find_unused_parameters=find_unused_parameters,
        num_epochs=1,
    )
    try:
        trainer.train()
    except ConfigError as error:
        return str(error)
    return ""


def with_batch_norm():
    """Train with BN and dropout, of which each rank has its own; then bring the ranks together."""
    trainer = make_trainer(shared_reader(41, 8))
    trainer.train()
    before = trainer.model.state_dict()["body.2._mean"].numpy().copy()
    trainer.refresh_averages()
    first = digest(trainer)
    require_same_weights(trainer)
    trainer.synchronize()
    reader = make_reader(44, 4, shuffle=False)
    predictions = {name: Predictions(5) for name in ("raw", *trainer.averages)}
    arguments = (trainer.model, trainer.averages, trainer.loss_fn, reader)
    together = evaluate_all(*arguments, predictions)
    with ranks.alone():
        gathered = {name: Predictions(5) for name in predictions}
        alone = evaluate_all(*arguments, gathered)
    return {
        "own_mean": before.tolist(),
        "digests": [first, digest(trainer)],
        "figures": [{k: repr(e) for k, e in found.items()} for found in (together, alone)],
        "confusions": [
            {name: p.confusion.tolist() for name, p in found.items()}
            for found in (predictions, gathered)
        ],
        "mistakes": [
            {name: [m.index for m in p.mistakes] for name, p in found.items()}
            for found in (predictions, gathered)
        ],
    }


def nan_of_one_rank():
    """Have the batch of the second rank alone make its BN statistics infinite."""
    trainer = make_trainer(shared_reader(40, 8), non_finite="skip", num_epochs=1)
    statistic = dict(trainer.model.named_parameters())["body.2._variance"]
    skips, accumulate = [], trainer._accumulate_gradients

    def spoil(batches):
        figures = accumulate(batches)
        if trainer.step == 2 and ranks.rank() == 1:
            statistic.fill_(np.inf)
        return figures

    trainer._accumulate_gradients = spoil
    trainer.hooks.append(Noted(skips))
    trainer.train()
    return {"skips": skips, "is_finite": bool(np.isfinite(statistic.numpy()).all())}


class Noted(Hook):
    """Note after which steps the optimizer had been left out."""

    def __init__(self, notes):
        self._notes = notes

    def after_step(self, trainer):
        self._notes.append(trainer.guard.skips_in_a_row)


def gated():
    """Have the gate go by the mean loss of both ranks, which are far from each other."""
    trainer = make_trainer(shared_reader(40, 8), gate=LossGate(max_loss=5.0), num_epochs=1)
    own = trainer.loss_fn
    # Rank 0's alone is admitted; the mean of 1 and 21 is not.
    trainer.loss_fn = lambda *given: own(*given) * 0 + 1 + 20 * ranks.rank()
    trainer.train()
    return trainer.gate.num_left_out


def differing():
    """Move a weight on one rank only, and ask whether all are the same."""
    trainer = make_trainer(shared_reader(40, 8))
    if ranks.rank() == 1:
        with paddle.no_grad():
            trainer.model.body[1].bias.add_(paddle.full([16], 1e-7))
    try:
        require_same_weights(trainer)
    except RanksDifferError as error:
        return str(error)
    return ""


def differing_snapshot():
    """Move a weight of a snapshot that LAWA keeps, on one rank only."""
    trainer = make_trainer(shared_reader(40, 8), network=PlainNet, num_epochs=1)
    trainer.train()
    require_same_weights(trainer)
    if ranks.rank() == 1:
        trainer.averages["latest"].state_dict()["snapshots"][0]["body.1.bias"].add_(
            paddle.full([16], 1e-3)
        )
    try:
        require_same_weights(trainer)
    except RanksDifferError as error:
        return str(error)
    return ""


def signalled():
    """Send a signal to the second rank, and see where both leave their work."""
    done = []
    with StopSignals(SignalAgreement()) as signals:
        signals.leave_if_asked()
        if ranks.rank() == 1:
            signals._note(15, None)
        try:
            # The second rank lacks an item in the last round.
            for item in watched(range(30 - ranks.rank()), num_rounds=30):
                done.append(item)
        except StopRequest:
            return [len(done), int(signals.received)]
    return [len(done), 0]


def rounded():
    """Round the weights after each step, as SWALP does."""
    trainer = make_trainer(shared_reader(40, 8), network=PlainNet, num_epochs=1)
    trainer.rounding = BlockFloatingPoint(trainer.model, bits=6, seed=3)
    trainer.train()
    return digest(trainer)


def recomputed():
    """Compute the BN statistics of an average over all images, with more batches than there are."""
    trainer = make_trainer(shared_reader(40, 8), num_epochs=1, recompute_batches=100)
    trainer.train()
    trainer.refresh_averages()
    average = trainer.averages["recomputed"]
    found = [average.averaged_state_dict()]
    with ranks.alone():
        average.recompute_statistics(make_reader(40, 4).batches(trainer.epoch))
        found.append(average.averaged_state_dict())
    names = ("body.2._mean", "body.2._variance")
    return [{name: state[name].numpy().tolist() for name in names} for state in found]


def buffers():
    """Bring buffers of all kinds together: of no axis, of half precision, empty, complex."""
    model, own = paddle.nn.Layer(), ranks.rank()
    kinds = {
        "count": paddle.to_tensor(3 + own),
        "mask": paddle.to_tensor([bool(own), True]),
        "narrow": paddle.to_tensor([1.0 + own]).astype("bfloat16"),
        "nothing": paddle.zeros([0, 2]),
        "turns": paddle.to_tensor([[1 + 1j * own], [2 - 1j]]),
    }
    for name, value in kinds.items():
        model.register_buffer(name, value)
    synchronize_buffers(model)
    return {name: str(value.numpy().tolist()) for name, value in model.named_buffers()}


def nothing_evaluated_by_a_rank():
    """Evaluate a single batch, of which one rank has none."""
    model, loss_fn = PlainNet(), paddle.nn.CrossEntropyLoss()
    ranks.barrier()
    paddle.DataParallel(model)
    found = evaluate(model, loss_fn, make_reader(4, 8, shuffle=False))
    with ranks.alone():
        return [repr(found), repr(evaluate(model, loss_fn, make_reader(4, 8, shuffle=False)))]


def non_finite():
    """Have one rank's images make the gradient NaN, which ends both."""
    trainer = make_trainer(shared_reader(40, 8), network=PlainNet)
    own = trainer.loss_fn
    trainer.loss_fn = lambda *given: own(*given) * (np.nan if ranks.rank() == 1 else 1.0)
    try:
        trainer.train()
    except NonFiniteError as error:
        return str(error)
    return ""


def main(folder):
    found = {
        "plain": plain(accumulate_steps=1),
        "accumulated": plain(accumulate_steps=2),
        "turned": plain(accumulate_steps=1, network=TurnedNet),
        "exchanged_both_ways": exchanged_both_ways(),
        "unused": [unused(find_unused_parameters=wanted) for wanted in (False, True)],
        "with_batch_norm": with_batch_norm(),
        "nan_of_one_rank": nan_of_one_rank(),
        "gated": gated(),
        "differing": differing(),
        "differing_snapshot": differing_snapshot(),
        "signalled": signalled(),
        "rounded": rounded(),
        "recomputed": recomputed(),
        "buffers": buffers(),
        "nothing": nothing_evaluated_by_a_rank(),
        "non_finite": non_finite(),
    }
    with open(f"{folder}/rank_{ranks.rank()}.json", "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    with joined("cpu"):
        main(sys.argv[1])
