"""How an average moves: call by call, by the optimizer it is attached to, in the background."""

from __future__ import annotations

from typing import Any, Optional

from .attach import Attachment, attachment_of
from .background import BackgroundUpdate
from .fit import Counters
from .shadow import ShadowStore
from .together import update_together


class UpdatedAverage:
    """What updates an average and counts them, and what waits for an update in the background.

    The tensors (`_store`) and the counts (`_counters`) are reached through here alone, so that
    nothing is read or written while a helper thread moves them.
    """

    # Where the caller has looked at every weight already, looking again is a waste.
    checks_finite = True

    _attachment: Optional[Attachment] = None
    _background: Optional[BackgroundUpdate] = None

    @property
    def num_updates(self) -> int:
        """Return how often `update` was called since `register`: the t of the schedules."""
        return int(self._counters["num_updates"])

    @property
    def num_steps(self) -> int:
        """Return how often `update` or `skip` was called: the clock of `start` and `every`."""
        return self.num_updates + int(self._counters["num_skipped"])

    @property
    def first_step(self) -> int:
        """Return the step, from 1, at which weights are first averaged."""
        return 1

    def update(self) -> float:
        """Fold the model's current weights in; call it after each `optimizer.step()`.

        Returns the share of the old average that was kept (the decay); 1.0 where `update_every`
        left this call out.

        Raises:
            RuntimeError: the average is applied at the moment, or attached to an optimizer.
            FloatingPointError: a weight is NaN or infinite; the average stays what it was. Not
                where `checks_finite` is set to False by a caller that has looked itself.
        """
        return update_together([self])[0]

    def skip(self) -> None:
        """Count a step whose weights are left out, so that windows in steps go on.

        A point that was due at it is taken at the next call of `update`; t, which counts what is
        averaged, stays.
        """
        self._require_raw("skip()")
        self._counters["num_skipped"] += 1

    def attach(self, optimizer: Any, overlap: bool = True) -> None:
        """Update after each step of this optimizer, by itself, until `detach`.

        A step that an AMP scaler leaves out is a `skip`. With `overlap`, the update of a large
        model runs on a helper thread beside the next forward and backward pass, and is awaited
        before the next step and before anything of the average is read: the bits are the same,
        and the loop does not wait. What else writes to the parameters calls `wait` first. An
        average that follows a parameter which is not this optimizer's is updated in line.

        Averages that are attached to one optimizer are moved in one read of the weights.

        Args:
            optimizer: a paddle.optimizer.Optimizer, or what has a `step` as one does.
            overlap: False updates before `step` returns.

        Raises:
            RuntimeError: it is attached already.
            TypeError: the optimizer has no `step`.
        """
        if self._attachment is not None:
            raise RuntimeError("the average is attached already; call detach() first")
        self.wait()
        attachment = attachment_of(optimizer)
        attachment.add(self, overlap)
        self._attachment = attachment

    def detach(self) -> None:
        """Undo `attach`; an average that is not attached stays as it is."""
        attachment, self._attachment = self._attachment, None
        if attachment is not None:
            attachment.remove(self)
        self.wait()

    @property
    def is_attached(self) -> bool:
        """Tell whether an optimizer's steps update the average."""
        return self._attachment is not None

    def is_attached_to(self, optimizer: Any) -> bool:
        """Tell whether the steps of this optimizer update the average."""
        return self._attachment is not None and self._attachment.optimizer is optimizer

    def wait(self) -> None:
        """Wait for the update that runs in the background, where one does.

        Every method does so by itself. Call it before you write to the model's weights in any
        other way than by the optimizer that the average is attached to.

        Raises:
            FloatingPointError: a weight was NaN or infinite; the average stays what it was.
            RuntimeError: a weight was written to in the meantime; the average may be a mix.
        """
        background = self._background
        if background is not None:
            background.finish()
            # Not after an interrupt of that, as it may still run.
            self._background = None
            background.raise_error()

    @property
    def is_applied(self) -> bool:
        """Tell whether the model holds this or another average of it at the moment."""
        return self._store.is_model_swapped

    def _share_to_keep(self, t: int) -> float:
        """Return the share of the average that stays at call t of `update`; 1.0 changes nothing."""
        raise NotImplementedError

    def _fold(self, kept: float) -> float:
        """Count the shares of an update that keeps this share of the average.

        Returns the weight by which the average has to move towards the live weights; 0.0 where
        a subclass has moved it itself.
        """
        self._counters["initial_share"] *= kept
        squares = self._counters["share_squares"]
        self._counters["share_squares"] = kept**2 * squares + (1.0 - kept) ** 2
        return 1.0 - kept

    @property
    def _store(self) -> ShadowStore:
        self.wait()
        return self._settled_store

    @_store.setter
    def _store(self, store: ShadowStore) -> None:
        self.wait()
        self._settled_store = store

    @property
    def _counters(self) -> Counters:
        self.wait()
        return self._settled_counters

    @_counters.setter
    def _counters(self, counters: Counters) -> None:
        self.wait()
        self._set_counters(counters)

    def _set_counters(self, counters: Counters) -> None:
        """Replace the counts; the update in the background itself calls this."""
        self._settled_counters = counters

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy gets: no thread moves it, and no optimizer updates it."""
        self._require_raw("a copy of it")
        return {**self.__dict__, "_background": None, "_attachment": None}

    @property
    def _moves_itself(self) -> bool:
        # A `_fold` of its own may move tensors, which has to be done before `update` returns.
        return type(self)._fold is not UpdatedAverage._fold

    @property
    def _has_own_update(self) -> bool:
        # Asked of the object: a subclass may have replaced it, and so may the object's owner.
        return getattr(self.update, "__func__", None) is not UpdatedAverage.update

    def _require_updatable(self) -> None:
        if self._attachment is not None and not self._attachment.is_updating:
            raise RuntimeError(
                "the average is attached to an optimizer, whose steps update it; "
                "call detach() first"
            )
        self._require_raw("update()")

    def _require_raw(self, call: str) -> None:
        if self._store.is_model_swapped:
            which = "the average" if self._store.is_swapped else "another average of this model"
            raise RuntimeError(
                f"{call} needs the raw weights, but {which} is applied; call restore() first"
            )
