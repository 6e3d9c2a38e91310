"""Averages that are spread over the ranks: each averages what it holds, saving gathers."""

from __future__ import annotations

import glob
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Iterator, Mapping, Protocol

import paddle

from . import kernels, ranks
from .average import WeightAverage
from .batch_norm import batch_norm_statistics
from .fit import describe_misfit, require_tensors
from .place import at_place
from .slices import FlatSlices, SlicedLayout
from .swap import Exchange


class Layout(Protocol):
    """How the tensors of an average are spread over the ranks."""

    can_apply: bool

    def own(self, whole: Mapping[str, Any]) -> dict[str, Any]: ...
    def whole(self, held: Mapping[str, Any], keep: bool) -> dict[str, Any]: ...
    def whole_state(self, state: dict[str, Any], keep: bool) -> dict[str, Any]: ...


class ShardedAverage:
    """Spread an average over the ranks of `paddle.distributed`, each with a part of it.

    Of a model that is whole on every rank (DataParallel, group_sharded level os or os_g) each
    rank keeps the averages of some tensors, about as many weights as any other, so that memory
    and time of an average are divided by the number of ranks. The whole is, to the bit, what
    one average of the model would be; of BN statistics it is the mean over the ranks. Of a model
    whose parameters are cut into slices (p_g_os) each averages its own: `average` is then of
    `FlatSlices`.

    Calls marked "all ranks" communicate: every rank makes them, in the same order. Others do not;
    an exception in them is of this rank alone, which should end then, and the launcher with it
    the others.

    Args:
        average: one of this library, of any kind and with any arguments, made on every rank from
            the same weights. What it has averaged so far is kept. It becomes this rank's part:
            `local`.

    Raises:
        RuntimeError: the average is applied at the moment.
        ValueError: fewer tensors than ranks, or one that recomputes BN statistics of slices.
    """

    def __init__(self, average: WeightAverage) -> None:
        average._require_raw("ShardedAverage()")
        self._local = average
        self._parameters = average.model.parameters()
        slices = average.model if isinstance(average.model, FlatSlices) else None
        if slices is not None and average.recomputes:
            raise ValueError(
                'buffers="recompute" needs the whole average on a rank; take average or copy'
            )
        self._model = average.model if slices is None else slices.model
        shadows = average._store.shadows
        lives = self._model.state_dict(use_hook=False)
        self._templates = {
            s.name: _Template(lives[s.name].shape, s.average.dtype, s.average.place)
            for s in shadows
        }
        self._layout: Layout
        if slices is not None:
            self._layout = SlicedLayout(slices)
            _refresh_at_updates(average, slices)
        else:
            sizes = {s.name: s.live.size for s in shadows if not s.is_statistic}
            owners = assign_owners(sizes, ranks.num_ranks())
            self._layout = _OwnedLayout(owners, self._templates)
            _keep_only(average, self._layout.own(self._templates))

    @property
    def local(self) -> WeightAverage:
        """Return the average of what this rank holds, for `attach`, `skip`, `num_updates`, …

        Its `apply` and `averaged_state_dict` would be of a part of the model only.
        """
        return self._local

    def update(self) -> float:
        """Fold this rank's part of the weights in; see `WeightAverage.update`."""
        return self._local.update()

    def averaged_state_dict(self, everywhere: bool = True) -> dict[str, Any]:
        """Return copies of the whole model's state with the averages in it. All ranks.

        The average's BN statistics become their mean over the ranks, here and in the other calls
        of all ranks; see `WeightAverage.all_reduce_statistics`.

        Args:
            everywhere: False gives ranks other than the first an empty dict.

        Raises:
            RuntimeError: an average is applied at the moment, the model's tensors are not those
                registered, or the average's BN statistics have to be recomputed first.
        """
        self._settle("averaged_state_dict()")
        self._local._require_usable()
        return self._whole_state(everywhere or ranks.is_first())

    def state_dict(self, everywhere: bool = True) -> dict[str, Any]:
        """Return the state that one average of the whole model would have. All ranks.

        It fits `set_state_dict` of this class with any number of ranks, and of the average's own
        class without any. What of `shadow` this rank holds is the memory of the shadows itself:
        save it before the next update.

        Args:
            everywhere: False gives ranks other than the first an empty dict.

        Raises:
            RuntimeError: the average is applied at the moment, or the model's tensors are not
                those registered.
        """
        self._settle("state_dict()")
        state = self._local.state_dict()
        keep = everywhere or ranks.is_first()
        moved = set(self._local._store.averages()).difference(state["never_moved"])
        # One that any rank has seen move has moved.
        all_moved = set().union(*ranks.gather(moved))
        state["never_moved"] = [name for name in self._templates if name not in all_moved]
        whole = _over_tensors(state, lambda held: self._layout.whole(held, keep))
        return whole if keep else {}

    def set_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the whole state that any number of ranks wrote; each takes its part.

        Tensors are found by their names in the model. Nothing changes where they do not fit.

        Raises:
            RuntimeError: the average is applied at the moment, or the model's tensors are not
                those registered.
            ValueError: another kind of average, or names, shapes or dtypes that do not fit.
        """
        self._check_model()
        if isinstance(state, Mapping):
            # Before any rank looks at its part, as all must refuse what one would.
            state = _over_tensors(state, self._part_of)
        self._local.set_state_dict(state)

    @contextmanager
    def average_parameters(self) -> Iterator[None]:
        """Hold the whole average in the model for the length of a `with` block. All ranks.

        It is brought to every rank, and costs a copy of the model meanwhile.

        Raises:
            RuntimeError: as `averaged_state_dict`, or the parameters are cut into slices.
        """
        self._require_whole_model("average_parameters()")
        state = self.averaged_state_dict()
        with self._of_others(state), self._local.average_parameters():
            yield

    def recompute_statistics(self, loader: Iterable[Any], over_ranks: bool = False) -> None:
        """Compute the average's BN statistics; see `WeightAverage.recompute_statistics`. All ranks.

        Raises:
            RuntimeError: the average is applied at the moment, or the parameters are slices.
            ValueError: the loader yields nothing.
        """
        self._require_whole_model("recompute_statistics()")
        self._settle("recompute_statistics()")
        if not self._local.recomputes:
            return
        with self._of_others(self._whole_state(True)):
            self._local.recompute_statistics(loader, over_ranks)

    def _settle(self, call: str) -> None:
        """Refuse on all ranks what one would refuse; make BN statistics the same on all."""
        self._local._require_raw(call)
        self._check_model()
        self._local.all_reduce_statistics()

    def _check_model(self) -> None:
        present = self._local.model.parameters()
        if list(map(id, present)) != list(map(id, self._parameters)):
            raise RuntimeError(
                "the model's parameters are not those that the average was spread over (replaced, "
                "added or removed); make it anew from the model as it is"
            )

    def _require_whole_model(self, call: str) -> None:
        if not self._layout.can_apply:
            raise RuntimeError(
                f"{call} needs the whole model on each rank, and here parameters are cut into "
                "slices; save averaged_state_dict() and load it where the model is whole"
            )

    def _whole_state(self, keep: bool) -> dict[str, Any]:
        state = self._local._store.model_state()
        statistics = batch_norm_statistics(self._local.model)
        averaged = {id(shadow.live) for shadow in self._local._store.shadows}
        lives = self._local.model.state_dict(use_hook=False)
        # With buffers="copy" they are each rank's own, of which the mean is what is saved.
        ranks.all_reduce_mean(
            [state[n] for n, live in lives.items() if id(live) in statistics - averaged]
        )
        return self._layout.whole_state(state, keep)

    @contextmanager
    def _of_others(self, state: Mapping[str, Any]) -> Iterator[None]:
        """Hold in the model what `state` has of all parameters that this rank does not average."""
        own = {id(shadow.live) for shadow in self._local._store.shadows}
        parameters = {id(p) for p in self._parameters} - own
        lives = self._model.state_dict(use_hook=False)
        pairs = {id(lives[n]): (lives[n], state[n]) for n in lives if id(lives[n]) in parameters}
        # Another average of this model may still be reading the weights.
        kernels.finish_background()
        exchange = Exchange(
            [live for live, _ in pairs.values()],
            [other for _, other in pairs.values()],
            {},
            self._model.sublayers(include_self=True),
        )
        try:
            exchange.begin()
            yield
        finally:
            exchange.undo()

    def _part_of(self, whole: Mapping[str, Any]) -> dict[str, Any]:
        require_tensors(whole)
        misfit = describe_misfit(self._templates, whole)
        if misfit:
            raise ValueError(misfit)
        return self._layout.own(whole)


def assign_owners(sizes: Mapping[str, int], num_ranks: int) -> dict[str, int]:
    """Return the rank that averages each tensor, by name: the same on all ranks.

    The largest comes first, each to the rank that has the fewest weights so far.

    Raises:
        ValueError: fewer tensors than ranks.
    """
    if len(sizes) < num_ranks:
        raise ValueError(
            f"{len(sizes)} averaged tensors cannot be spread over {num_ranks} processes; leave "
            "out ShardedAverage, so that each has the whole average"
        )
    loads = [0] * num_ranks
    counts = [0] * num_ranks
    owners = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owner = min(range(num_ranks), key=lambda rank: (loads[rank], counts[rank], rank))
        loads[owner] += sizes[name]
        counts[owner] += 1
        owners[name] = owner
    return owners


@dataclass(frozen=True)
class _Template:
    """What a tensor of the whole average is like."""

    shape: Any
    dtype: Any
    place: Any

    def empty(self) -> Any:
        """Return one to receive."""
        return at_place(paddle.empty(self.shape, self.dtype), self.place)


class _OwnedLayout:
    """Each rank averages tensors of its own, and BN statistics, which differ over the ranks."""

    can_apply = True

    def __init__(self, owners: Mapping[str, int], templates: Mapping[str, _Template]) -> None:
        self._owners, self._templates = owners, templates

    def own(self, whole: Mapping[str, Any]) -> dict[str, Any]:
        """Return what of whole tensors, by name, this rank averages."""
        rank = ranks.rank()
        return {name: whole[name] for name in whole if self._owners.get(name, rank) == rank}

    def whole(self, held: Mapping[str, Any], keep: bool) -> dict[str, Any]:
        """Return the tensors of all ranks."""
        tensors = {
            name: held[name] if name in held else template.empty()
            for name, template in self._templates.items()
        }
        return self.whole_state(tensors, keep)

    def whole_state(self, state: dict[str, Any], keep: bool) -> dict[str, Any]:
        """Return the state with what other ranks average written into it."""
        for source in range(ranks.num_ranks()):
            names = [name for name, owner in self._owners.items() if owner == source]
            ranks.broadcast_tensors([state[name] for name in names], source)
        return state if keep else {}


def _refresh_at_updates(average: WeightAverage, slices: FlatSlices) -> None:
    """Have an average look at the slices anew at each update, an attached optimizer's too."""

    def update() -> float:
        slices.refresh()
        return type(average).update(average)

    # What updates several averages at once asks one by its own where it has one.
    setattr(average, "update", update)  # noqa: B010 - to mypy a method is no variable


def _keep_only(average: WeightAverage, names: Iterable[str]) -> None:
    """Have an average go on with these of its tensors alone."""
    state = average.state_dict()
    model, buffers, _, _, shadow_dtype, device = average._selection
    patterns = [glob.escape(name) for name in names]
    average._selection = (model, buffers, patterns, (), shadow_dtype, device)
    average.register()
    kept = average.state_dict()["shadow"]
    average.set_state_dict(_over_tensors(state, lambda whole: {name: whole[name] for name in kept}))


def _over_tensors(
    state: Mapping[str, Any], change: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """Return the state of an average with each mapping from names to tensors changed."""
    changed = {}
    for key, value in state.items():
        if isinstance(value, Mapping):
            value = change(value)
        elif isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
            value = [change(item) for item in value]
        changed[key] = value
    return changed
