"""A terminal for tests."""

from __future__ import annotations

import io


class Terminal(io.StringIO):
    """Keep all that was written to it."""

    def isatty(self):
        return True

    def frames(self):
        """Return what stood on its bottom line, one after the other."""
        return self.getvalue().split("\r\x1b[K")
