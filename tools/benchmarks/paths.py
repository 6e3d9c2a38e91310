"""Which way ppema's updates go, decided here and not by what the process has spent so far."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any, Iterator, Optional

from ppema.averaging import kernels


def load_compiled() -> Optional[Any]:
    """Return ppema's compiled kernels, None where numba is missing."""
    try:
        return importlib.import_module("ppema.averaging.compiled")
    except ImportError:
        return None


@contextlib.contextmanager
def by_kernels(compiled: Optional[Any]) -> Iterator[None]:
    """Let updates take these kernels inside the `with` block; None for the plain path."""
    state = kernels._State
    before = state.is_decided, state.kernels
    state.is_decided, state.kernels = True, compiled
    try:
        yield
    finally:
        state.is_decided, state.kernels = before
