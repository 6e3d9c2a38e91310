"""An update on the helper thread, beside the forward and backward pass of the next step.

The weights change in `optimizer.step()` alone, so the update reads them while the next gradients
are computed, and has to be done before the next step: nothing is copied, and the bits are those
of an update in line. Whatever reads the average waits first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Optional, Sequence

from . import kernels

if TYPE_CHECKING:
    from .updated import UpdatedAverage


class BackgroundUpdate:
    """One update of some averages.

    Args:
        averages: that wait for it.
        move: moves and counts all of them, or raises.
    """

    def __init__(self, averages: Sequence[UpdatedAverage], move: Callable[[], None]) -> None:
        self._averages, self._move = averages, move
        self._is_done = False
        self._error: Optional[BaseException] = None

    def start(self) -> None:
        """Hand the update over to the helper thread."""
        # First, so that an interrupt in between cannot leave an update that nothing waits for.
        for average in self._averages:
            average._background = self
        kernels.start_in_background(self._run)

    def finish(self) -> None:
        """Wait until it is done; one that never reached the helper thread moves nothing."""
        if not self._is_done:
            kernels.finish_background()

    def raise_error(self) -> None:
        """Raise what `move` raised.

        A FloatingPointError once, as nothing moved then; all else whenever this is called, which
        each average does.
        """
        error = self._error
        if isinstance(error, FloatingPointError):
            self._error = None
        if error is not None:
            raise error

    def _run(self) -> None:
        try:
            self._move()
        # Kept for the thread that waits: whatever it is, it must not pass in silence.
        except BaseException as error:
            self._error = error
        finally:
            self._is_done = True
