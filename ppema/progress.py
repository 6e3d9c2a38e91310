"""How far something is: one line at the bottom of a terminal, redrawn in place, wiped at the end.

It says what takes longer than two seconds, on stderr, so that results can be redirected. Where
stderr is no terminal, or `--quiet` is given, nothing of it is written.
"""

from __future__ import annotations

import contextlib
import datetime
import shutil
import sys
import time
from typing import Iterable, Iterator, Optional, TextIO, TypeVar

Item = TypeVar("Item")

_WAIT_S = 2.0
_REDRAW_S = 0.1
_WIDTH = 20


class ProgressLine:
    """Show a title, a bar and some figures, at most ten times a second, once two seconds are over.

    Args:
        title: what is being done.
        stream: where to; None for stderr.
        wait_s: what is done by then is not shown at all; two seconds if None.
    """

    def __init__(
        self, title: str, stream: Optional[TextIO] = None, wait_s: Optional[float] = None
    ) -> None:
        self.title, self.text = title, ""
        self._stream = stream
        self._next_s = time.monotonic() + (_WAIT_S if wait_s is None else wait_s)

    def __enter__(self) -> ProgressLine:
        """Return the line itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wipe the line."""
        self.close()

    def show(self, done: int, total: int) -> None:
        """Redraw the line where the last drawing is a tenth of a second old."""
        now = time.monotonic()
        stream = self._stream if self._stream is not None else sys.stderr
        if now < self._next_s or not _SCREEN.takes(stream):
            return
        self._next_s = now + _REDRAW_S
        share = min(max(done / max(total, 1), 0.0), 1.0)
        filled = int(_WIDTH * share)
        bar = "#" * filled + "." * (_WIDTH - filled)
        _SCREEN.draw(f"{self.title} [{bar}] {int(100 * share):3d} %  {self.text}".rstrip(), stream)

    def show_bytes(self, done: int, total: int) -> None:
        """Redraw the line with the megabytes that are done; `total` is 0 where nobody knows it."""
        of_total = f" of {total / 1e6:.1f}" if total else ""
        self.text = f"{done / 1e6:.1f}{of_total} MB"
        self.show(done, total)

    def close(self) -> None:
        """Wipe the line, if it is there."""
        wipe()


def track(items: Iterable[Item], total: int, title: str) -> Iterator[Item]:
    """Yield the items, and show how many of `total` are done and how long the rest will take."""
    started = time.monotonic()
    with ProgressLine(title) as line:
        for done, item in enumerate(items):
            if done:
                left_s = (time.monotonic() - started) / done * max(total - done, 0)
                line.text = f"eta {datetime.timedelta(seconds=round(left_s))}"
            line.show(done, total)
            yield item


def enable(is_enabled: bool) -> None:
    """Let lines be shown, or none from here on."""
    _SCREEN.is_enabled = is_enabled


def can_be_shown() -> bool:
    """Tell whether lines go to a terminal, and so may stand for what a log would say."""
    return _SCREEN.takes(sys.stderr)


def wipe() -> None:
    """Wipe whatever line is there, so that other output starts on a clean one."""
    _SCREEN.wipe()


class _Screen:
    """The one bottom line that a process has."""

    def __init__(self) -> None:
        self.is_enabled = True
        self._drawn_on: Optional[TextIO] = None

    def takes(self, stream: Optional[TextIO]) -> bool:
        try:
            return self.is_enabled and stream is not None and stream.isatty()
        except ValueError:
            # It was closed.
            return False

    def draw(self, text: str, stream: TextIO) -> None:
        self._write(f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}", stream)
        self._drawn_on = stream

    def wipe(self) -> None:
        stream, self._drawn_on = self._drawn_on, None
        if stream is not None:
            self._write("\r\x1b[K", stream)

    def _write(self, text: str, stream: TextIO) -> None:
        # A terminal that has gone away is no reason to end what is being done.
        with contextlib.suppress(OSError, ValueError):
            stream.write(text)
            stream.flush()


_SCREEN = _Screen()
