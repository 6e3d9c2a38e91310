"""An optimizer whose steps move averages: no call in the loop, and none forgotten."""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any, Callable, Optional

from .together import update_all

if TYPE_CHECKING:
    from .updated import UpdatedAverage

# What users call: `minimize` is a step of its own, which in some optimizers calls `step`.
_METHODS = ("step", "minimize")


class Attachment:
    """The averages that one optimizer updates after each of its steps, and how to undo that.

    Args:
        optimizer: a paddle.optimizer.Optimizer, or what has a `step` as one does.

    Raises:
        TypeError: it has no `step`.
    """

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        # Of each average, whether it is asked to be updated beside what follows the step.
        self._overlaps: list[tuple[UpdatedAverage, bool]] = []
        # While it is, averages take an update although they are attached.
        self.is_updating = False
        if not callable(getattr(optimizer, "step", None)):
            raise TypeError(f"optimizer must have a step(), got {type(optimizer).__name__}")
        self._before = {name: vars(optimizer).get(name) for name in _METHODS}
        for name in _METHODS:
            if hasattr(optimizer, name):
                setattr(optimizer, name, _Method(self, name, getattr(optimizer, name)))

    def add(self, average: UpdatedAverage, overlap: bool) -> None:
        """Update this average too, overlapped where asked for and where nothing else moves it."""
        self._overlaps.append((average, overlap))

    def remove(self, average: UpdatedAverage) -> None:
        """Leave this average alone; without any, the optimizer is what it was.

        A method that something else has wrapped since stays, and only passes calls on.
        """
        self._overlaps = [item for item in self._overlaps if item[0] is not average]
        if self._overlaps:
            return
        for name, method in self._before.items():
            present = vars(self.optimizer).get(name)
            if not isinstance(present, _Method) or present.attachment is not self:
                continue
            if method is not None:
                setattr(self.optimizer, name, method)
            else:
                delattr(self.optimizer, name)

    def step(self, original: Callable[..., Any], arguments: Any, named: Any) -> Any:
        """Call the optimizer's own method, then update the averages, once a step."""
        # Waits for the update of the step before, too.
        for average, _ in self._overlaps:
            average._require_raw("a step of the optimizer")
        counts = [average.num_steps for average, _ in self._overlaps]
        result = original(*arguments, **named)
        # Where one method calls the other, that has updated them. Told by the counts, as a mark
        # that is set before the call and taken away after it would outlast an interrupt.
        if counts == [average.num_steps for average, _ in self._overlaps]:
            self._update()
        return result

    def _update(self) -> None:
        if _was_skipped(self.optimizer):
            for average, _ in self._overlaps:
                average.skip()
            return
        try:
            self.is_updating = True
            # Asked at each step: a parameter may be unfrozen, and another optimizer's to change.
            own = {id(parameter) for parameter in _parameters(self.optimizer)}
            is_beside = [overlaps and _moves_only(a, own) for a, overlaps in self._overlaps]
            averages = [average for average, _ in self._overlaps]
            update_all([a for a, beside in zip(averages, is_beside) if not beside])
            update_all([a for a, beside in zip(averages, is_beside) if beside], overlap=True)
        finally:
            self.is_updating = False


class _Method:
    """A method of an optimizer that updates averages; a copy of the optimizer gets its own back."""

    def __init__(self, attachment: Attachment, name: str, original: Callable[..., Any]) -> None:
        self._attachment, self._name, self._original = attachment, name, original

    @property
    def attachment(self) -> Attachment:
        return self._attachment

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._attachment.step(self._original, arguments, named)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = memo.get(id(self._attachment.optimizer), self._attachment.optimizer)
        return MethodType(getattr(type(copied), self._name), copied)


def attachment_of(optimizer: Any) -> Attachment:
    """Return the attachment of an optimizer, a new one where it has none."""
    method = getattr(optimizer, "step", None)
    return method.attachment if isinstance(method, _Method) else Attachment(optimizer)


def _was_skipped(optimizer: Any) -> bool:
    # The AMP scaler calls some optimizers on an overflow as well, and leaves word of it.
    look_up = getattr(optimizer, "_get_auxiliary_var", None)
    return look_up is not None and bool(look_up("found_inf"))


def _moves_only(average: UpdatedAverage, own: set[int]) -> bool:
    """Tell whether every parameter that the average follows is among these ids."""
    return own.issuperset(map(id, average._store.trained_parameters()))


def _parameters(optimizer: Any) -> list[Any]:
    given: Optional[list[Any]] = getattr(optimizer, "_parameter_list", None)
    parameters: list[Any] = []
    for item in given or []:
        parameters += list(item["params"]) if isinstance(item, dict) else [item]
    return parameters
