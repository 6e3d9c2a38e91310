"""The training loop and the hooks that watch it; it knows no config."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import time
from typing import Any, Callable, Iterator, Literal, Mapping, Optional, Sequence

import paddle

from ..averaging import BlockFloatingPoint, LossGate, WeightAverage, ranks, update_all
from ..averaging.batch_norm import synchronize_buffers
from ..fast_cpu import FastLayers
from ..metrics import num_correct
from ..progress import track
from ..stop_signals import StopRequest, leave_if_asked, watched
from .finite_guard import FiniteGuard, NonFinitePolicy
from .gradients import GradientExchange
from .totals import Totals

logger = logging.getLogger(__name__)

# So many steps that the gate leaves out get a line each; then each hundredth.
_LEFT_OUT_SHOWN = 10

AmpLevel = Literal["off", "O1", "O2"]


class Hook:
    """Do something beside the loop, which reads:

    for hook in hooks: hook.before_run(trainer)
    for each epoch, for each step of it:
        forward, loss, backward, finite check, optimizer.step(), rounding, clear_grad()
        averages update (of large models beside the next forward, backward);  lr.step();  step += 1
        for hook in hooks: hook.after_step(trainer)     # trainer.is_epoch_end, .is_run_end
    for hook in hooks: hook.after_run(trainer)          # also when the run ends in an exception

    At SIGINT or SIGTERM it goes on at once, from wherever it is but in a step, with:

    for hook in hooks: hook.on_stop(trainer)            # trainer.is_open: not all saw the step
    """

    name = ""
    # Whether what it remembers means nothing once the run goes on with other data.
    is_of_data = False

    def before_run(self, trainer: Trainer) -> None:
        """Act once before the first step."""

    def after_step(self, trainer: Trainer) -> None:
        """Act after each step; whatever reads an average waits until it is updated.

        One that writes to weights calls `wait()` of each average first. Where a signal broke off
        a hook, all of them are called again for the same step once the run is continued.
        """

    def on_stop(self, trainer: Trainer) -> None:
        """Act where a signal ends the run; what runs may have been left in `after_step`."""

    def after_run(self, trainer: Trainer) -> None:
        """Act once at the end, whether the run is done or broke off."""

    def gather(self) -> None:
        """Take in what the other ranks have counted; all call it before the first one saves."""

    def state_dict(self) -> dict[str, Any]:
        """Return what the hook must remember across a resume: numbers, text, dicts of them."""
        return {}

    def set_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""


class Trainer:
    """Train a model and keep its averages: one optimizer step per `run_step`.

    Of several ranks of `paddle.distributed` each has a trainer, and all do the same at each step,
    each on its part of the batch: the gradients, and so weights and averages, are the same.

    Args:
        model: a paddle.nn.Layer; called with images float32 [N, C, H, W], gives logits [N, K].
        loss_fn: called with logits and labels int64 [N], gives a scalar.
        optimizer: a paddle.optimizer.Optimizer over the model's parameters.
        reader: `batches(epoch, start)` yields each `Batch`, or this rank's part of it;
            `num_batches(start)` tells how many.
        averages: updated after each step that moved the weights, by name.
        hooks: called in this order.
        lr_scheduler: stepped once per step; None for a constant rate. One with `takes_loss` is
            told the loss of each step by `observe` before.
        accumulate_steps: batches whose gradients make one step.
        non_finite: a NaN or Inf in a gradient ends the run (error) or leaves the step out (skip).
        max_skips: steps left out in a row before the run ends all the same.
        amp: off, O1 or O2, by paddle.amp with a GradScaler.
        gate: asked after each step whether the averages may be updated; waits for the device.
        switch: an average that becomes the model's weights at the start of each later epoch.
        recompute_batches: training batches that averages with `buffers="recompute"` take.
        rounding: rounds the weights after each step that moved them, before averages see them.
        fast_cpu: on a CPU, layers take the faster forms of `fast_cpu.py`; the bits are the same.
        find_unused_parameters: of several ranks, look at each step which parameters the loss
            does not depend on, whose gradients are not waited for.
    """

    def __init__(
        self,
        model: Any,
        loss_fn: Callable[..., Any],
        optimizer: Any,
        reader: Any,
        averages: Mapping[str, WeightAverage],
        hooks: Sequence[Hook] = (),
        *,
        num_epochs: int,
        lr_scheduler: Optional[Any] = None,
        accumulate_steps: int = 1,
        non_finite: NonFinitePolicy = "error",
        max_skips: int = 10,
        amp: AmpLevel = "off",
        recompute_batches: int = 100,
        switch: Optional[str] = None,
        gate: Optional[LossGate] = None,
        rounding: Optional[BlockFloatingPoint] = None,
        fast_cpu: bool = True,
        find_unused_parameters: bool = False,
    ) -> None:
        self.model, self.loss_fn, self.optimizer = model, loss_fn, optimizer
        self.reader, self.averages, self.hooks = reader, dict(averages), list(hooks)
        self.num_epochs, self.lr_scheduler = num_epochs, lr_scheduler
        self.gate, self.rounding = gate, rounding
        self.fast_layers = FastLayers(model, fast_cpu)
        self._exchange = GradientExchange(model, find_unused_parameters)
        self.scaler = paddle.amp.GradScaler() if amp != "off" else None
        self.step, self.epoch, self.step_in_epoch, self.samples = 0, 1, 0, 0
        self.is_epoch_end = self.is_run_end = False
        self._synchronized_at: Optional[int] = None
        # Whether a step is done that not all hooks have seen to their end.
        self.is_open = False
        # Of the step done last: the learning rate, and the decay of each average.
        self.rate = math.nan
        self.decays: dict[str, float] = {}
        # … and of each batch of it the images, their mean loss, the right answers.
        self.figures: list[tuple[int, Any, Any]] = []
        self.totals = Totals()
        self._accumulate_steps, self._amp = accumulate_steps, amp
        self.guard = FiniteGuard(model, non_finite, max_skips, is_scaled=self.scaler is not None)
        if switch is not None and switch not in self.averages:
            raise ValueError(f"switch must be one of {', '.join(self.averages)}, got {switch!r}")
        self._recompute_batches, self._switch = recompute_batches, switch

    @property
    def steps_per_epoch(self) -> int:
        """Return the optimizer steps of one epoch."""
        return self.steps_after(0)

    @property
    def steps_left(self) -> int:
        """Return the optimizer steps from where the trainer stands to the end of the run."""
        left = (self.num_epochs - self.epoch) * self.steps_per_epoch
        return max(0, left + self.steps_after(self.samples))

    def steps_after(self, samples: int) -> int:
        """Return the optimizer steps of an epoch after so many samples of it."""
        num_batches = int(self.reader.num_batches(samples))
        return -(-num_batches // self._accumulate_steps)

    def train(self) -> None:
        """Run from where the trainer stands to the end of the last epoch.

        Raises:
            NonFiniteError: a NaN or Inf that the policy does not allow.
            StopRequest: a signal came, and no hook raised an error of its own `on_stop`.
        """
        self.model.train()
        # Each step looks at every weight once, for all averages.
        checks = {name: average.checks_finite for name, average in self.averages.items()}
        try:
            for average in self.averages.values():
                average.checks_finite = False
            for hook in self.hooks:
                hook.before_run(self)
            if self.is_open:
                logger.info("step %d: what follows it was left at a signal, and is done", self.step)
                self._call_hooks()
                if self.is_epoch_end:
                    self._next_epoch()
            while self.epoch <= self.num_epochs:
                self._train_epoch()
                self._next_epoch()
            for average in self.averages.values():
                average.wait()
        except StopRequest:
            for hook in self.hooks:
                hook.on_stop(self)
            raise
        finally:
            for name, average in self.averages.items():
                average.checks_finite = checks[name]
            for hook in self.hooks:
                hook.after_run(self)

    def run_step(self, batches: Sequence[Any]) -> None:
        """Do one optimizer step on one or more batches, then move the averages.

        Raises:
            NonFiniteError: a NaN or Inf that the policy does not allow.
        """
        kept = self.guard.copy_statistics()
        with self.fast_layers.in_use():
            figures = self._accumulate_gradients(batches)
        for average in self.averages.values():
            # The update of the step before may have run until now, beside all that.
            average.wait()
        has_moved = self._move_weights(kept)
        self.optimizer.clear_grad()
        self.figures = figures if has_moved else []
        self.totals.add(self.figures)
        self._update_averages(has_moved and self._is_admitted(figures))
        self.rate = float(self.optimizer.get_lr())
        if self.lr_scheduler is not None:
            if has_moved and getattr(self.lr_scheduler, "takes_loss", False):
                self.lr_scheduler.observe(_mean_loss(figures))
            self.lr_scheduler.step()
        self.step += 1
        self.step_in_epoch += 1

    def synchronize(self) -> None:
        """Make BN statistics and buffers, of the model and of its averages, the same on all ranks.

        Before they are evaluated or saved; training goes on as it would have.
        """
        if ranks.num_ranks() == 1 or self._synchronized_at == self.step:
            return
        synchronize_buffers(self.model)
        for average in self.averages.values():
            average.all_reduce_statistics()
        # A mean of what is the same may be rounded: what was evaluated is what is saved.
        self._synchronized_at = self.step

    def end_with_epoch(self) -> None:
        """Let the epoch at hand be the last one; a hook calls this before the others act."""
        self.num_epochs = self.epoch
        self.is_run_end = self.is_epoch_end

    def refresh_averages(self) -> None:
        """Recompute the BN statistics of the averages that ask for it and have moved since.

        What else the ranks must have in common to use the averages, they have then.
        """
        self.synchronize()
        # A round, the reader's batch, is one for each rank.
        num_rounds = min(-(-self._recompute_batches // ranks.num_ranks()), len(self.reader))
        for name, average in self.averages.items():
            if average.is_stale:
                batches = itertools.islice(self.reader.batches(self.epoch), num_rounds)
                own = (batch for batch in batches if batch.num_own)
                with self.fast_layers.in_use():
                    shown = track(
                        watched(own, num_rounds), num_rounds, f"BatchNorm statistics of {name}"
                    )
                    average.recompute_statistics(shown, over_ranks=True)

    def _next_epoch(self) -> None:
        self.epoch, self.step_in_epoch, self.samples = self.epoch + 1, 0, 0

    def _call_hooks(self) -> None:
        """Let the hooks act on the step done last; a signal that came since ends the run."""
        self.is_open = True
        for hook in self.hooks:
            hook.after_step(self)
        self.is_open = False
        # The last step of a run just ends it.
        if not self.is_run_end:
            leave_if_asked()

    def _train_epoch(self) -> None:
        self.is_epoch_end = False
        # At the start, not at the end: what was evaluated and saved at the end stays what it was.
        if self._switch is not None and self.epoch > 1 and self.samples == 0:
            self.refresh_averages()
            self.averages[self._switch].switch()
        started = time.perf_counter()
        for batches, is_last in self._grouped_batches():
            self.totals.data_s += time.perf_counter() - started
            self.run_step(batches)
            self.samples += sum(batch.num_total for batch in batches)
            self.is_epoch_end = is_last
            self.is_run_end = is_last and self.epoch == self.num_epochs
            self.totals.num_steps += 1
            self.totals.step_s += time.perf_counter() - started
            self._call_hooks()
            started = time.perf_counter()

    def _grouped_batches(self) -> Iterator[tuple[list[Any], bool]]:
        """Yield the batches of each step, and whether the epoch ends with it."""
        group: list[Any] = []
        for batch in self.reader.batches(self.epoch, self.samples):
            if len(group) == self._accumulate_steps:
                yield group, False
                group = []
            group.append(batch)
        if group:
            yield group, True

    def _update_averages(self, is_admitted: bool) -> None:
        if is_admitted:
            shares = update_all(list(self.averages.values()), overlap=True)
            self.decays = dict(zip(self.averages, shares))
            return
        for average in self.averages.values():
            average.skip()
        self.decays = dict.fromkeys(self.averages, 1.0)

    def _is_admitted(self, figures: Sequence[tuple[int, Any, Any]]) -> bool:
        """Ask the gate, where there is one, about the mean loss of a step."""
        if self.gate is None:
            return True
        is_admitted = self.gate.admits(_mean_loss(figures))
        # A limit that is too low must not fill the log.
        if not is_admitted and (
            self.gate.num_left_out <= _LEFT_OUT_SHOWN or self.gate.num_left_out % 100 == 0
        ):
            logger.warning(
                "step %d: %s; left out of the averages (%d so far)",
                self.step + 1,
                self.gate.reason,
                self.gate.num_left_out,
            )
        return is_admitted

    def _accumulate_gradients(self, batches: Sequence[Any]) -> list[tuple[int, Any, Any]]:
        """Return the number of images, the loss and the right answers of each batch."""
        figures = []
        total = sum(batch.num_total for batch in batches)
        for batch in batches:
            image, label = paddle.to_tensor(batch.image), paddle.to_tensor(batch.label)
            count = batch.num_own
            # Weighted by images, so that k batches give the gradient of one k times as large; and
            # k ranks, whose mean is taken.
            weight = count * ranks.num_ranks() / total
            with self._exchange.kept(batch is not batches[-1]):
                with self._autocast():
                    logits = self._exchange.forward(image)
                    loss = self.loss_fn(logits, label)
                share = loss if weight == 1.0 else loss * weight
                (self.scaler.scale(share) if self.scaler else share).backward()
            if count:
                with paddle.no_grad():
                    figures.append((count, loss.detach(), num_correct(logits, label, 1)))
        self._exchange.finish()
        return figures

    def _autocast(self) -> Any:
        if self._amp == "off":
            return contextlib.nullcontext()
        return paddle.amp.auto_cast(level=self._amp)

    def _move_weights(self, kept: Sequence[Any]) -> bool:
        """Step the optimizer where the gradients allow it; tell whether the weights moved.

        Where they did not, statistics are put back to `kept`.
        """
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        fault = self.guard.find_fault(self.step + 1)
        if self.scaler is not None:
            # The scaler leaves out steps whose gradients overflowed and lowers its scale.
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif fault is None:
            self.optimizer.step()
        if fault is not None:
            self.guard.leave_out(self.step + 1, fault, kept)
            return False
        self.guard.require_finite_weights(self.step + 1)
        if self.rounding is not None:
            self.rounding.round_weights(self.step + 1)
        return True


def _mean_loss(figures: Sequence[tuple[int, Any, Any]]) -> float:
    """Return the mean loss of an image of a step, over all ranks; waits for the device."""
    loss = sum(count * float(loss) for count, loss, _ in figures)
    loss, num_images = ranks.sum_of([loss, sum(count for count, *_ in figures)])
    return loss / num_images
