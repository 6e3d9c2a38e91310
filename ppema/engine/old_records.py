"""The figures and words of a run that another one takes the place of, kept until it has.

metrics.jsonl and train.log are begun anew, or cut, before the first checkpoint of the new run is
saved. Until then the old checkpoints stand, and `-r auto` continues them: with their own records.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..checkpoint import CheckpointStore
from ..checkpoint.files import replace_file
from .record import METRICS
from .run_folder import LOG

_OLD = ".old-"


def put_back_records(store: CheckpointStore) -> None:
    """Give a run its records again where what was to replace it never saved a checkpoint.

    Raises:
        OSError: the disk refused.
    """
    standing = store.digests()
    for path in sorted(store.folder.glob(f"{_OLD}*")):
        digest, _, name = path.name[len(_OLD) :].partition("-")
        if name in (METRICS, LOG):
            # The checkpoint that they were kept for is gone once a new one stands.
            if digest in standing:
                os.replace(path, store.folder / name)
            else:
                path.unlink()


def keep_records(store: CheckpointStore, *names: str) -> None:
    """Keep a copy of these files for the run whose checkpoints still stand, if there is one.

    Raises:
        OSError, StorageError: the disk refused.
    """
    for digest in store.digests()[:1]:
        for name in names:
            path = store.folder / name
            if path.is_file():
                replace_file(store.folder / f"{_OLD}{digest}-{name}", path.read_bytes())


def drop_old_records(folder: Path) -> None:
    """Delete what is kept; called once a checkpoint of the new run stands.

    Raises:
        OSError: the disk refused.
    """
    for name in (METRICS, LOG):
        for path in folder.glob(f"{_OLD}*-{name}"):
            path.unlink()
