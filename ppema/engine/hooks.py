"""What watches a training run: log lines, evaluation, checkpoints."""

from __future__ import annotations

import datetime
import logging
from typing import Any, Literal, Mapping, Optional, Sequence

from ..averaging import Diagnostics, ranks
from ..checkpoint import BEST, FINAL, CheckpointStore
from ..metrics import Evaluation
from ..progress import ProgressLine
from .agreement import require_same_weights
from .evaluate import RAW, choose, evaluate_all, table
from .old_records import drop_old_records
from .predictions import Predictions
from .record import Recorder
from .run_state import checkpoint_files, rank_state
from .snapshots import SnapshotHook
from .totals import Totals
from .trainer import Hook, Trainer

logger = logging.getLogger(__name__)

# Of the surest mistakes of each set of weights, shown at each evaluation.
_NUM_MISTAKES = 12


class LogHook(Hook):
    """Write a line and a record every `log_iter` steps; move the progress line at each."""

    def __init__(self, recorder: Recorder, log_iter: int, line: Optional[ProgressLine]) -> None:
        self._recorder, self._log_iter, self._line = recorder, log_iter, line

    def before_run(self, trainer: Trainer) -> None:
        """Drop what the record holds from after this step."""
        self._recorder.start(trainer.step, trainer.is_open)

    def after_step(self, trainer: Trainer) -> None:
        """Log where `log_iter` or the end of the epoch says so."""
        is_due = trainer.step_in_epoch % self._log_iter == 0 or trainer.is_epoch_end
        # Nothing is new where the step was logged before a signal broke off what follows.
        if is_due and trainer.totals.num_steps:
            self._log(trainer)
        if self._line is not None:
            self._line.title = f"epoch {trainer.epoch}/{trainer.num_epochs}"
            self._line.show(trainer.step_in_epoch, trainer.steps_per_epoch)

    def after_run(self, trainer: Trainer) -> None:
        """Wipe the progress line and flush the records."""
        if self._line is not None:
            self._line.close()
        self._recorder.close()

    def _log(self, trainer: Trainer) -> None:
        totals, trainer.totals = trainer.totals.of_all_ranks(), Totals()
        found = {name: average.diagnostics() for name, average in trainer.averages.items()}
        record: dict[str, Any] = {
            "step": trainer.step,
            "epoch": trainer.epoch,
            "split": "train",
            "loss": totals.mean_loss(),
            "top1": totals.accuracy(),
            "lr": trainer.rate,
            "ips": totals.num_samples / totals.step_s,
            "decay": dict(trainer.decays),
            "distance": {name: d.distance for name, d in found.items()},
            "window": {name: d.effective_window for name, d in found.items()},
            "initial_share": {name: d.initial_share for name, d in found.items()},
            "never_moved": {name: d.never_moved_share for name, d in found.items()},
        }
        if trainer.gate is not None:
            record["left_out"] = trainer.gate.num_left_out
        self._recorder.write(record)
        eta = _time_left(trainer, totals)
        if self._line is not None:
            self._line.text = (
                f"loss {record['loss']:.4f}  acc {record['top1']:.4f}  eta {eta}  "
                f"{record['ips']:.0f} images/s"
            )
        # On a terminal the line stands for this line; the file has it in any case.
        logger.info(_training_line(trainer, totals, record, eta), extra={"is_step": True})
        if trainer.is_epoch_end:
            for name, diagnostics in found.items():
                first_step = trainer.averages[name].first_step
                text = f"begins at step {first_step}: until then it is the weights of now"
                if trainer.step >= first_step:
                    text = _diagnostics_line(diagnostics)
                logger.info("%s: %s", name, text)
            if trainer.gate is not None and trainer.gate.num_left_out:
                num_left_out = trainer.gate.num_left_out
                logger.warning(
                    "%d of %d steps are left out of the averages", num_left_out, trainer.step
                )


class EvaluateHook(Hook):
    """Evaluate raw weights and every average where an epoch ends; remember the best.

    Args:
        reader: the evaluation data.
        recorder: takes one record for each set of weights.
        select: raw, an average's name, or best, the one with the best evaluation.
        note: said beside the figures, where they are not of the data that was asked for.
        is_enabled: without it nothing is evaluated, and the best of an earlier part stays known.
        eval_iter: evaluate every so many steps too; 0 for not.
        on: what the data are, test or validation, for the record.
    """

    name = "evaluate"
    # Figures on other data cannot be beaten, nor lost to.
    is_of_data = True

    def __init__(
        self,
        reader: Any,
        recorder: Recorder,
        select: str,
        note: str = "",
        is_enabled: bool = True,
        eval_iter: int = 0,
        on: Literal["test", "validation"] = "test",
    ) -> None:
        self._reader, self.recorder, self._eval_iter, self._on = reader, recorder, eval_iter, on
        self.select, self.note, self._is_enabled = select, note, is_enabled
        self.evaluations: dict[str, Evaluation] = {}
        self.winner: Optional[str] = None
        self.best: dict[str, Any] = {}
        self.is_best = False

    def after_step(self, trainer: Trainer) -> None:
        """Evaluate where it is due; elsewhere forget the figures of an earlier step."""
        self.evaluations, self.winner, self.is_best = {}, None, False
        is_due = trainer.is_epoch_end
        is_due |= bool(self._eval_iter) and trainer.step % self._eval_iter == 0
        if not (self._is_enabled and is_due):
            return
        trainer.refresh_averages()
        model, averages, loss_fn = trainer.model, trainer.averages, trainer.loss_fn
        names = (RAW, *averages) if self.recorder.has_view else ()
        predictions = {name: Predictions(_NUM_MISTAKES) for name in names}
        with trainer.fast_layers.in_use():
            evaluations = evaluate_all(model, averages, loss_fn, self._reader, predictions)
        self.evaluations = evaluations
        self.winner = choose(evaluations, self.select)
        for name, evaluation in evaluations.items():
            self.recorder.write(
                {
                    "step": trainer.step,
                    "epoch": trainer.epoch,
                    "split": "eval",
                    "on": self._on,
                    "average": name,
                    **evaluation.as_dict(),
                }
            )
        for name, gathered in predictions.items():
            self.recorder.show_predictions(name, gathered, trainer.step)
        won = evaluations[self.winner]
        if not self.best or won.rank > (self.best["top1"], -self.best["loss"]):
            self.is_best = True
            self.best = {"step": trainer.step, "average": self.winner, **won.as_dict()}
        logger.info(
            "Eval: epoch %d, step %d%s\n%s",
            trainer.epoch,
            trainer.step,
            self.note,
            table(evaluations, self.winner, self.select),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the best so far."""
        return {"best": self.best}

    def set_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the best so far back."""
        self.best = dict(state["best"])


class CheckpointHook(Hook):
    """Save at the ends of epochs, every so many steps, at a new best and at the end.

    Args:
        store: where checkpoints go.
        snapshot_epoch: save at the end of every so many epochs.
        snapshot_iter: save every so many steps too; 0 for not.
        facts: what the manifest says of the run beside step, epoch and figures.
        evaluate: the hook whose figures the manifest and `best_model` go by.
        snapshots: the hook whose snapshots the manifest lists.
    """

    def __init__(
        self,
        store: CheckpointStore,
        snapshot_epoch: int,
        snapshot_iter: int,
        facts: Mapping[str, Any],
        evaluate: EvaluateHook,
        snapshots: SnapshotHook,
    ) -> None:
        self._store, self._facts = store, facts
        self._evaluate, self._snapshots = evaluate, snapshots
        self._snapshot_epoch, self._snapshot_iter = snapshot_epoch, snapshot_iter

    def after_step(self, trainer: Trainer) -> None:
        """Save where it is due."""
        is_due = trainer.is_epoch_end and trainer.epoch % self._snapshot_epoch == 0
        is_due |= bool(self._snapshot_iter) and trainer.step % self._snapshot_iter == 0
        is_best = self._evaluate.is_best
        if is_due or is_best or trainer.is_run_end:
            trainer.refresh_averages()
            self.save(trainer)
            if ranks.is_first():
                if is_best:
                    self._store.link(BEST, trainer.step)
                if trainer.is_run_end:
                    self._store.link(FINAL, trainer.step)
                self._store.prune()

    def save(self, trainer: Trainer, is_open: bool = False) -> None:
        """Commit a checkpoint of where the trainer stands; of several ranks, the first does.

        `is_open`: a run that goes on from it first does what follows the step, such as evaluating.

        Raises:
            RanksDifferError: the ranks do not hold the same weights; nothing is saved.
        """
        trainer.synchronize()
        require_same_weights(trainer)
        for hook in trainer.hooks:
            hook.gather()
        of_ranks = ranks.gather(rank_state(trainer))
        if ranks.is_first():
            self._write(trainer, is_open, of_ranks)
        # None goes on before the step is safe: at a signal the launcher ends all a moment later.
        ranks.barrier()

    def _write(self, trainer: Trainer, is_open: bool, of_ranks: Sequence[Any]) -> None:
        # The record of truth must not be behind a checkpoint that survives a power cut.
        self._evaluate.recorder.sync()
        evaluate = self._evaluate
        facts = {
            "epoch": trainer.epoch,
            "samples": trainer.samples,
            "is_epoch_end": trainer.is_epoch_end,
            "is_run_end": trainer.is_run_end,
            "is_open": is_open,
            "averages": list(trainer.averages),
            "metrics": {name: e.as_dict() for name, e in evaluate.evaluations.items()},
            "winner": evaluate.winner,
            "best": evaluate.best,
            "snapshots": self._snapshots.facts(),
            **self._facts,
        }
        path = self._store.save(trainer.step, checkpoint_files(trainer, of_ranks), facts)
        self._snapshots.commit()
        drop_old_records(self._store.folder)
        logger.info("step %d saved in %s", trainer.step, path)


def _time_left(trainer: Trainer, totals: Totals) -> datetime.timedelta:
    return datetime.timedelta(seconds=int(trainer.steps_left * totals.step_s / totals.num_steps))


def _diagnostics_line(diagnostics: Diagnostics) -> str:
    stuck = diagnostics.never_moved
    names = f" ({', '.join(stuck[:3])}{', …' if len(stuck) > 3 else ''})" if stuck else ""
    return (
        f"effective window {diagnostics.effective_window:.0f}, initial weights "
        f"{100 * diagnostics.initial_share:.1f} %, distance to raw {diagnostics.distance:.4g}, "
        f"{len(stuck)} of {diagnostics.num_tensors} tensors never moved{names}"
    )


def _training_line(
    trainer: Trainer, totals: Totals, record: Mapping[str, Any], eta: datetime.timedelta
) -> str:
    done, of = trainer.step_in_epoch, trainer.steps_per_epoch
    step_s = totals.step_s / totals.num_steps
    return (
        f"Epoch: [{trainer.epoch}/{trainer.num_epochs}] [{done:>{len(str(of))}}/{of}] "
        f"learning_rate: {record['lr']:.6f} loss: {record['loss']:.4f} acc: {record['top1']:.4f} "
        f"eta: {eta} batch_cost: {step_s:.4f} data_cost: {totals.data_s / totals.num_steps:.4f} "
        f"ips: {record['ips']:.1f} images/s"
    )
