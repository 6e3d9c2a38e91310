"""The file or folder that somebody may have meant who typed a path that is not there."""

from __future__ import annotations

import difflib
import itertools
import os
from pathlib import Path
from typing import Union

# Comparing more names would take longer than it helps.
_MOST_NAMES = 10_000


def near_path(path: Union[str, Path], only_folders: bool = False) -> str:
    """Return `; did you mean images?`, where something of a similar name lies in that place.

    Empty where nothing does, or the place cannot be read.
    """
    wanted = Path(os.path.expanduser(path))
    missing = wanted
    while not os.path.isdir(missing.parent) and missing.parent != missing:
        missing = missing.parent
    try:
        with os.scandir(missing.parent) as entries:
            names = [
                entry.name
                for entry in itertools.islice(entries, _MOST_NAMES)
                # Of what follows, all but the last are folders.
                if entry.name.isprintable()
                and (entry.is_dir() or not (only_folders or missing != wanted))
            ]
    # A name with NUL in it is a ValueError.
    except (OSError, ValueError):
        return ""
    by_lower = {name.lower(): name for name in sorted(names)}
    near = difflib.get_close_matches(missing.name.lower(), by_lower, 1)
    if not near:
        return ""
    found = missing.parent / by_lower[near[0]]
    whole = found / wanted.relative_to(missing)
    is_there = whole.is_dir() if only_folders else whole.exists()
    return f"; did you mean {whole if is_there else found}?"
