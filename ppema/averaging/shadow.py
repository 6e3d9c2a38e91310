"""The tensors of an average: which are averaged, where they lie, how they move."""

from __future__ import annotations

import fnmatch
import operator
from typing import Any, Literal, Mapping, Optional, Sequence, get_args

import numpy as np
import paddle

from . import kernels
from .batch_norm import batch_norm_statistics
from .decay import ArgumentError
from .moving import MovingTensors, Shadow
from .place import at_place, parse_place
from .swap import Exchange, alias_of, is_any_exchanged

BufferPolicy = Literal["average", "copy", "recompute"]
ShadowDtype = Literal["float32", "float64"]
Part = Literal["all", "trained", "frozen"]

# The float types a weight may have, each with its width in bits.
_WIDTHS = {
    paddle.bfloat16: 16,
    paddle.float16: 16,
    paddle.float32: 32,
    paddle.float64: 64,
}


class ShadowStore:
    """Keep a float32 (or wider) average of every weight of a model.

    Parameters, frozen ones too, have a shadow, and so have BN statistics unless `buffers` is
    "copy"; where it is "recompute", only `set_statistics` moves those. All else (integer
    buffers, excluded parameters, BN statistics that are copied) has none: the average takes it
    from the live model whenever it is read.

    Raises:
        ArgumentError: a pattern that matches nothing, an unknown dtype, policy or place.
        ValueError: nothing is left to average.
    """

    def __init__(
        self,
        model: Any,
        buffers: BufferPolicy,
        include: Sequence[str],
        exclude: Sequence[str],
        shadow_dtype: ShadowDtype,
        device: Optional[str],
    ) -> None:
        if buffers not in get_args(BufferPolicy):
            raise ArgumentError("buffers", f"one of {', '.join(get_args(BufferPolicy))}", buffers)
        if shadow_dtype not in ("float32", "float64"):
            raise ArgumentError("shadow_dtype", "float32 or float64", shadow_dtype)
        self._model = model
        self._policy = (buffers, tuple(include), tuple(exclude))
        self._dtype = getattr(paddle, shadow_dtype)
        self._place = parse_place(device)
        self._exchange: Optional[Exchange] = None
        self._latest: Optional[Exchange] = None
        # What moves the averages of this store alone, and together with so many others.
        self._moving_tensors: dict[tuple[int, Part], MovingTensors] = {}
        self.shadows = [
            Shadow(names, live, self._copy_of(live), is_statistic)
            for names, live, is_statistic in self._averaged_tensors()
        ]
        if not self.shadows:
            raise ValueError("nothing to average: the model has no floating-point weight selected")
        # What the model consisted of, held so that no other tensor can pass for one of these.
        self._layers = model.sublayers(include_self=True)
        self._parameters = model.parameters()
        # What an update moves: all, or all but the BN statistics that are recomputed.
        self._moving = [s for s in self.shadows if buffers != "recompute" or not s.is_statistic]
        self._frozen: list[bool] = []
        # What trains, and frozen parameters: see `moving_tensors`.
        self._parts: list[list[Shadow]] = [[], []]

    @property
    def is_swapped(self) -> bool:
        """Tell whether the model holds the averages and the shadows the raw weights."""
        return self._exchange is not None

    @property
    def is_model_swapped(self) -> bool:
        """Tell whether this or another store has its averages in these very tensors."""
        return is_any_exchanged(shadow.live for shadow in self.shadows)

    def moving_tensors(
        self, others: Sequence[ShadowStore] = (), part: Part = "all"
    ) -> MovingTensors:
        """Return what moves the averages of this store and of `others`, as they lie just now.

        `part`: all; those that train (with BN statistics), to be moved beside training; or the
        frozen parameters.
        """
        stores = [self, *others]
        columns = [store._column(part) for store in stores]
        key = len(stores), part
        moving = self._moving_tensors.get(key)
        if moving is None or not moving.is_current(columns):
            if moving is not None:
                # What else is kept may hold the memory of tensors that lie elsewhere by now.
                self._moving_tensors.clear()
                self._latest = None
            moving = MovingTensors(columns, beside_training=part == "trained")
            self._moving_tensors[key] = moving
        return moving

    def trained_parameters(self) -> list[Any]:
        """Return the live parameters that updates average and that train at the moment."""
        return [s.live for s in self._moving if not (s.is_statistic or s.is_frozen)]

    def live_copies(self) -> dict[str, Any]:
        """Return copies of the live tensors by first name, in their shadows' dtypes and places."""
        return {shadow.name: self._copy_of(shadow.live) for shadow in self.shadows}

    def set_mean(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Make every average the equal-weight mean of what `states` hold under its name.

        A parameter that is frozen at this moment is copied.
        """
        with paddle.no_grad():
            for shadow in self._moving:
                mean = states[0][shadow.name].clone()
                for count, state in enumerate(states[1:], start=2):
                    # A running mean: a sum of many would lose digits of a float32.
                    mean += (state[shadow.name] - mean) * (1.0 / count)
                value = self._as_shadow(shadow.live) if shadow.is_frozen else mean
                shadow.average.copy_(value, True)

    def statistics(self) -> dict[str, Any]:
        """Return the BN statistics of the average, by first name, without copying."""
        averages = self.averages()
        return {s.name: averages[s.name] for s in self.shadows if s.is_statistic}

    def live_statistics(self) -> dict[str, Any]:
        """Return copies of the BN statistics that the model holds at the moment, by first name."""
        return {
            shadow.name: self._copy_of(shadow.live)
            for shadow in self.shadows
            if shadow.is_statistic
        }

    def set_statistics(self, statistics: Mapping[str, Any]) -> None:
        """Make these the BN statistics of the average."""
        with paddle.no_grad():
            for shadow in self.shadows:
                if shadow.name in statistics:
                    shadow.average.copy_(statistics[shadow.name], True)

    def moving_averages(self) -> dict[str, Any]:
        """Return the averages that updates move, by first name: not those of frozen weights."""
        averages = self.averages()
        moving = [s for s in self._moving if not s.is_frozen and s.live.size]
        return {shadow.name: averages[shadow.name] for shadow in moving}

    def swap_in(self) -> None:
        """Put the averages into the model by exchanging storage; `swap_out` puts them back."""
        # Another average of this model may still be reading the weights.
        kernels.finish_background()
        if self._latest is None or not self._latest.is_current():
            lives = [shadow.live for shadow in self.shadows]
            partners = [self._partner_of(shadow) for shadow in self.shadows]
            # A partner that was cast is thrown away; what writes to it harms no average.
            watched = {
                s.name: partner
                for s, partner in zip(self.shadows, partners)
                if partner is s.average
            }
            self._latest = Exchange(lives, partners, watched, self._layers)
        self._exchange = self._latest
        try:
            self._exchange.begin()
        except BaseException:
            self.swap_out()
            raise

    def written_while_swapped(self) -> list[str]:
        """Return the names of the tensors that were written to since `swap_in`, as far as seen."""
        return self._exchange.written() if self._exchange is not None else []

    def swap_out(self) -> None:
        """Put the raw weights back into the model."""
        if self._exchange is not None:
            self._exchange.undo()
            if any(p is not s.average for p, s in zip(self._exchange.partners, self.shadows)):
                # Partners that were cast hold the average of that moment.
                self._latest = None
        self._exchange = None

    def copy_to_live(self) -> None:
        """Write every average into its live tensor."""
        # Another average of this model may still be reading them.
        kernels.finish_background()
        with paddle.no_grad():
            for shadow in self.shadows:
                live = shadow.live
                live.copy_(at_place(shadow.average.astype(live.dtype), live.place), True)

    def averages(self) -> dict[str, Any]:
        """Return the average of each tensor by its first name, without copying."""
        if self._exchange is None:
            return {shadow.name: shadow.average for shadow in self.shadows}
        # Where the storage was exchanged, the live tensor holds the average.
        return {
            shadow.name: shadow.live if partner is shadow.average else shadow.average
            for shadow, partner in zip(self.shadows, self._exchange.partners)
        }

    def aliases(self) -> dict[str, Any]:
        """Return tensors over the memory of the averages, right whatever is swapped later."""
        return {name: alias_of(average) for name, average in self.averages().items()}

    def model_state(self, in_model_dtypes: bool = True) -> dict[str, Any]:
        """Return copies of the model's state with the averages in it."""
        averages = self.averages()
        copies: dict[int, Any] = {}
        with paddle.no_grad():
            for shadow in self.shadows:
                average, live = averages[shadow.name], shadow.live
                dtype = live.dtype if in_model_dtypes else average.dtype
                copies[id(live)] = at_place(average.astype(dtype), live.place)
                # Of an empty tensor the address says nothing.
                if live.size and copies[id(live)].data_ptr() == average.data_ptr():
                    copies[id(live)] = average.detach().clone()
            state = self._model.state_dict(use_hook=False)
            for live in state.values():
                if id(live) not in copies:
                    if is_any_exchanged([live]):
                        raise RuntimeError(
                            "this average takes some tensors from the model, where another "
                            "average is applied; call its restore() first"
                        )
                    copies[id(live)] = live.detach().clone()
                # Paddle saves this name too; a new one each time would change the file's bytes.
                copies[id(live)].name = live.name
        return {name: copies[id(live)] for name, live in state.items()}

    def copied_names(self) -> list[str]:
        """Return the names in the model's state whose tensors no update averages."""
        averaged = {id(shadow.live) for shadow in self._moving}
        state = self._model.state_dict(use_hook=False)
        return [name for name, live in state.items() if id(live) not in averaged]

    def check_model(self) -> None:
        """Raise RuntimeError where the model no longer consists of the tensors registered."""
        parameters = self._model.parameters()
        if len(parameters) == len(self._parameters) and all(
            map(operator.is_, parameters, self._parameters)
        ):
            return
        registered = {id(shadow.live): shadow.name for shadow in self.shadows}
        present = {id(live): names[0] for names, live, _ in self._averaged_tensors()}
        changed = [name for key, name in registered.items() if key not in present]
        changed += [name for key, name in present.items() if key not in registered]
        if changed:
            raise RuntimeError(
                f"the model's tensors are not those registered ({', '.join(sorted(set(changed)))} "
                "replaced, added or removed); call register() to start again from its weights"
            )

    def distance(self) -> float:
        """Return the L2 norm of the difference between the live weights and the averages."""
        averages = self.averages()
        total = 0.0
        with paddle.no_grad():
            for shadow in self._moving:
                difference = self._as_shadow(shadow.live) - averages[shadow.name]
                total += float((difference.astype("float64") ** 2).sum())
        return float(np.sqrt(total))

    def _column(self, part: Part) -> list[Shadow]:
        """Return what an update moves of this part, in the same list while that is the same."""
        if part == "all":
            return self._moving
        frozen = [shadow.is_frozen for shadow in self._moving]
        if frozen != self._frozen:
            self._frozen = frozen
            self._parts = [[], []]
            for shadow, is_frozen in zip(self._moving, frozen):
                self._parts[is_frozen].append(shadow)
        return self._parts[part == "frozen"]

    def _averaged_tensors(self) -> list[tuple[list[str], Any, bool]]:
        """Return (names, tensor, whether BN's) of all that is averaged; a tied one comes once."""
        buffers, include, exclude = self._policy
        statistics = batch_norm_statistics(self._model)
        parameters = {id(parameter) for parameter in self._model.parameters()}
        tensors: dict[int, tuple[list[str], Any]] = {}
        for name, live in self._model.state_dict(use_hook=False).items():
            is_candidate = id(live) in parameters and live.dtype in _WIDTHS
            if is_candidate and (buffers != "copy" or id(live) not in statistics):
                tensors.setdefault(id(live), ([], live))[0].append(name)
        candidates = list(tensors.values())
        included = _matching("include", include, candidates) if include else None
        excluded = _matching("exclude", exclude, candidates)
        return [
            (names, live, id(live) in statistics)
            for names, live in candidates
            if (included is None or id(live) in included) and id(live) not in excluded
        ]

    def _partner_of(self, shadow: Shadow) -> Any:
        """Return the average in the live tensor's dtype and place; itself where they agree."""
        live, average = shadow.live, shadow.average
        if average.dtype == live.dtype and average.place == live.place:
            return average
        return at_place(average.astype(live.dtype), live.place)

    def _copy_of(self, live: Any) -> Any:
        with paddle.no_grad():
            return self._as_shadow(live).clone().contiguous()

    def _as_shadow(self, live: Any) -> Any:
        """Return the live tensor in its shadow's dtype and place; itself where they agree."""
        dtype = live.dtype if _WIDTHS[live.dtype] > _WIDTHS[self._dtype] else self._dtype
        converted = live.detach() if live.dtype == dtype else live.detach().astype(dtype)
        return at_place(converted, self._place)


def _matching(
    argument: str, patterns: Sequence[str], tensors: list[tuple[list[str], Any]]
) -> set[int]:
    found: set[int] = set()
    for pattern in patterns:
        matches = {
            id(live)
            for names, live in tensors
            if any(fnmatch.fnmatchcase(name, pattern) for name in names)
        }
        if not matches:
            names_allowed = ", ".join(names[0] for names, _ in tensors[:3])
            raise ArgumentError(
                argument, f"patterns that match a weight's name (such as {names_allowed})", pattern
            )
        found |= matches
    return found
