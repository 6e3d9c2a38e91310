"""A progress bar for a terminal: one line, redrawn in place, gone when the run ends."""

from __future__ import annotations

import shutil
import time
from typing import TextIO

_REDRAW_S = 0.1
_WIDTH = 20


class ProgressBar:
    """Show how far something is, and the newest figures, at the bottom of a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._text = ""
        self._drawn_at = 0.0

    def describe(self, text: str) -> None:
        """Set the text behind the bar."""
        self._text = text

    def show(self, done: int, total: int, title: str) -> None:
        """Redraw where the last drawing is a tenth of a second old, or all is done."""
        now = time.monotonic()
        if now - self._drawn_at < _REDRAW_S and done < total:
            return
        self._drawn_at = now
        filled = _WIDTH * done // max(total, 1)
        bar = "#" * filled + "." * (_WIDTH - filled)
        columns = shutil.get_terminal_size().columns
        line = f"{title} [{bar}] {100 * done // max(total, 1):3d} %  {self._text}"
        self._stream.write(f"\r\x1b[K{line[: columns - 1]}")
        self._stream.flush()

    def clear(self) -> None:
        """Take the bar off the screen, so that other output starts on a clean line."""
        self._stream.write("\r\x1b[K")
        self._stream.flush()
