"""What every average of a model's weights has: register, update, swap, save and load."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, ClassVar, Iterable, Iterator, Mapping, Optional, Sequence

import paddle

from . import ranks
from .batch_norm import compute_statistics
from .decay import ArgumentError
from .diagnostics import Diagnostics, Movement
from .fit import Counters, describe_misfit, fitting_numbers, require_names, require_tensors
from .shadow import BufferPolicy, ShadowDtype, ShadowStore
from .updated import UpdatedAverage

# Of the initial weights, and the sum of the squares of all: see `diagnostics`.
_SHARES: Counters = {"initial_share": 1.0, "share_squares": 1.0}


class WeightAverage(UpdatedAverage):
    """Keep an average of a model's weights beside the model; a subclass says which.

    Parameters that train are averaged, frozen ones copied, and a parameter changes its role
    when its `stop_gradient` does. Integer and other buffers are taken from the live model.
    A tensor with several names is averaged once.

    Args:
        model: a paddle.nn.Layer of any dtype, on any place.
        buffers: BN statistics are averaged with the weights, taken from the live model (copy),
            or computed anew for the average by `recompute_statistics` before it is used
            (recompute).
        include: average only the parameters whose names match one of these glob patterns.
        exclude: take the parameters that match from the live model.
        shadow_dtype: float32 or float64; a shadow is never narrower than its weight. Take float64
            for decays above 0.9999, where what float32 rounds off at each update adds up.
        device: where the shadows lie: cpu, gpu, gpu:N; None means where the weight lies.

    Raises:
        ArgumentError: an argument out of range, or a pattern that matches no parameter.
        ValueError: the model has nothing to average.
    """

    # What a subclass counts beside the updates, and where that starts.
    _COUNTERS: ClassVar[Counters] = {}

    def __init__(
        self,
        model: Any,
        *,
        buffers: BufferPolicy = "average",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        shadow_dtype: ShadowDtype = "float32",
        device: Optional[str] = None,
    ) -> None:
        if not isinstance(model, paddle.nn.Layer):
            raise TypeError(f"model must be a paddle.nn.Layer, got {type(model).__name__}")
        for argument, patterns in (("include", include), ("exclude", exclude)):
            if isinstance(patterns, str):
                raise ArgumentError(argument, "a list of patterns", patterns)
        self._selection = (model, buffers, include, exclude, shadow_dtype, device)
        self._store = ShadowStore(*self._selection)
        self._recomputes = buffers == "recompute" and bool(self._store.live_statistics())
        self._counters = self._initial_counters()
        self._movement = Movement(self._store.averages())

    @property
    def model(self) -> Any:
        """Return the model whose weights are averaged."""
        return self._selection[0]

    def register(self, num_steps: int = 0) -> None:
        """Start again from the model's current weights, at t = 0.

        Args:
            num_steps: of the run, that were done before; to `start` and `every` they count as
                skipped.
        """
        self._require_raw("register()")
        self._store = ShadowStore(*self._selection)
        self._counters = {**self._initial_counters(), "num_skipped": num_steps}
        self._movement = Movement(self._store.averages())

    @property
    def recomputes(self) -> bool:
        """Tell whether the average's BN statistics are left to `recompute_statistics`."""
        return self._recomputes

    @property
    def is_stale(self) -> bool:
        """Tell whether `recompute_statistics` has to run before the average can be used."""
        return self._recomputes and self._counters["recomputed_at"] != self.num_updates

    def all_reduce_statistics(self) -> None:
        """Make the average's BN statistics their mean over all processes of a distributed run.

        The weights of an average are the same on all, as the gradients are; statistics are of
        what each process saw. What follows is not disturbed: the mean of all stays what it would
        have been. Every process must call it; one alone need not.

        Raises:
            RuntimeError: the average is applied at the moment.
        """
        self._require_raw("all_reduce_statistics()")
        self._store.check_model()
        ranks.all_reduce_mean(list(self._store.statistics().values()))

    def recompute_statistics(self, loader: Iterable[Any], over_ranks: bool = False) -> None:
        """Compute the BN statistics of the average over one pass of `loader`.

        The live model's own statistics, modes and random numbers are put back; see `update_bn`
        for what a loader may yield, and for `over_ranks`. Without `buffers="recompute"`, or
        without BN, it does nothing.

        Raises:
            RuntimeError: the average is applied at the moment.
            ValueError: the loader yields nothing.
        """
        self._require_raw("recompute_statistics()")
        if not self._recomputes:
            return
        self._store.check_model()
        self._store.swap_in()
        try:
            compute_statistics(loader, self.model, over_ranks=over_ranks)
            statistics = self._store.live_statistics()
        finally:
            self._store.swap_out()
        self._store.set_statistics(statistics)
        self._counters["recomputed_at"] = self.num_updates

    def apply(self) -> None:
        """Put the average into the model; `restore` puts the raw weights back.

        Storage is exchanged, nothing is copied (but weights narrower than their shadow are cast,
        and shadows that lie elsewhere are brought to the weights).
        A backward pass whose forward ran before the exchange raises Paddle's error.

        Raises:
            RuntimeError: it is applied already, the model's tensors are not those registered, or
                its BN statistics have to be recomputed first.
        """
        if self._store.is_swapped:
            raise RuntimeError("the average is applied already; call restore() first")
        self._require_raw("apply()")
        self._require_usable()
        self._store.swap_in()

    def restore(self) -> None:
        """Put the raw weights back.

        Raises:
            RuntimeError: the average is not applied; or it was written to while it was, by an
                optimizer step, loaded weights or BN in train mode, and is no average any more.
        """
        if not self._store.is_swapped:
            raise RuntimeError("there is nothing to restore; call apply() first")
        written = self._store.written_while_swapped()
        self._store.swap_out()
        if written:
            raise RuntimeError(
                f"the average was written to while it was in the model ({', '.join(written[:3])}"
                f"{', …' if len(written) > 3 else ''}); evaluate with model.eval() and do not "
                "train or load there. The raw weights are back; set_state_dict() or register() "
                "mends the average"
            )

    def switch(self) -> None:
        """Copy the average into the model, which goes on training from there (switch EMA).

        Raises:
            RuntimeError: the average is applied at the moment, the model's tensors are not those
                registered, or the average's BN statistics have to be recomputed first.
        Source: https://arxiv.org/abs/2402.09240, where it is done at the end of each epoch.
        """
        self._require_raw("switch()")
        self._require_usable()
        self._store.copy_to_live()

    @contextmanager
    def average_parameters(self) -> Iterator[None]:
        """Hold the average in the model for the length of a `with` block, whatever it raises."""
        self.apply()
        try:
            yield
            self.restore()
        except BaseException:
            # What the body raised says more than what it did to the average.
            self._store.swap_out()
            raise

    def averaged_state_dict(self) -> dict[str, Any]:
        """Return copies of the model's state with the averages in it, in the model's dtypes.

        It fits `model.set_state_dict` and `paddle.save`, and is right while applied too.

        Raises:
            RuntimeError: the model's tensors are not those registered, or the average's BN
                statistics have to be recomputed first.
        """
        self._require_usable()
        return self._store.model_state()

    def distance(self) -> float:
        """Return the L2 norm of raw minus averaged weights.

        Raises:
            RuntimeError: the average is applied at the moment.
        """
        self._require_raw("distance()")
        return self._store.distance()

    def diagnostics(self) -> Diagnostics:
        """Return what the average is made of at the moment.

        Raises:
            RuntimeError: the average is applied at the moment.
        """
        moving = self._store.moving_averages()
        return Diagnostics(
            effective_window=1.0 / self._counters["share_squares"],
            initial_share=float(self._counters["initial_share"]),
            distance=self.distance(),
            never_moved=self._movement.unmoved(moving),
            num_tensors=len(moving),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all that an exact continuation needs; right while applied too.

        `shadow` maps names to the memory of the shadows itself: a later update moves it.
        """
        self._store.check_model()
        return {
            "kind": type(self).__name__,
            **self._counters,
            "never_moved": list(self._movement.unmoved(self._store.averages())),
            "shadow": self._store.aliases(),
        }

    def set_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`; nothing changes where it does not fit.

        Raises:
            RuntimeError: the average is applied at the moment.
            ValueError: another kind of average, or names, shapes or dtypes that do not fit.
        """
        self._require_raw("set_state_dict()")
        if not isinstance(state, Mapping):
            raise ValueError(f"a state is a dict, got {type(state).__name__}")
        self._store.check_model()
        expected = self.state_dict()
        if state.get("kind", type(self).__name__) != type(self).__name__:
            # It may come from a stranger's file: a line of a message at most.
            kind = ascii(str(state["kind"])[:80])[1:-1]
            raise ValueError(f"the state is of {kind}, not {type(self).__name__}")
        if set(state) != set(expected):
            raise ValueError(
                f"the state of {type(self).__name__} has the keys {', '.join(sorted(expected))}, "
                f"got {', '.join(sorted(map(str, state))) or 'none'}"
            )
        counters = self._checked_counters(state)
        never_moved = require_names("never_moved", state["never_moved"])
        require_tensors(state["shadow"])
        misfit = describe_misfit(expected["shadow"], state["shadow"])
        if misfit:
            raise ValueError(misfit)
        self._counters = counters
        with paddle.no_grad():
            for name, average in expected["shadow"].items():
                stored = state["shadow"][name]
                average.copy_(
                    stored if paddle.is_tensor(stored) else paddle.to_tensor(stored), True
                )
        averages = self._store.averages()
        self._movement = Movement(
            {name: averages[name] for name in averages if name in never_moved}
        )

    def _initial_counters(self) -> Counters:
        counters: Counters = {"num_updates": 0, "num_skipped": 0, **self._COUNTERS}
        counters.update(_SHARES)
        if self._recomputes:
            counters["recomputed_at"] = 0
        return counters

    def _checked_counters(self, state: Mapping[str, Any]) -> Counters:
        counters = fitting_numbers(self._initial_counters(), state)
        if counters["initial_share"] > 1.0 or not 0.0 < counters["share_squares"] <= 1.0:
            raise ValueError("the shares of a state are above 0, and at most 1; these are not")
        return counters

    def _require_usable(self) -> None:
        self._store.check_model()
        if self.is_stale:
            raise RuntimeError(
                f"the BN statistics of this average are of update "
                f"{self._counters['recomputed_at']}, its weights of update {self.num_updates}; "
                "call recompute_statistics(loader) first"
            )
