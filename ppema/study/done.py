"""Whether a run of a study is done, and of the config that it is planned with."""

from __future__ import annotations

import json
from typing import Any, Mapping

from ..builder.changes import default_values
from ..checkpoint import FINAL, CheckpointStore
from ..engine.resume import is_finished
from ..engine.run_facts import require_continued_facts
from ..errors import CheckpointError, ConfigError
from .plan import PlannedRun, fingerprint

_SHOWN = 5


def is_trained(run: PlannedRun) -> bool:
    """Tell whether a run is at its end.

    Raises:
        ConfigError: its folder is of another config.
    """
    store = CheckpointStore(run.folder, keep=1)
    try:
        newest = store.newest()
        if newest is None:
            return False
        if run.config.Swap is None:
            require_continued_facts(newest)
    except CheckpointError:
        # tools/train.py says what is wrong with it.
        return False
    before = newest.manifest["config_values"]
    if fingerprint(before) != run.fingerprint:
        raise ConfigError(
            f"{run.folder} was trained by another config (other: {_differences(run, before)}); "
            "take the study's folder away, or name another one by -o save_dir=…"
        )
    # SWAP saves nothing in the folder itself before the mean of its workers, the end.
    is_at_end = run.config.Swap is not None or is_finished(newest, run.config.epoch)
    return is_at_end and (run.folder / FINAL).exists()


def _differences(run: PlannedRun, before: Mapping[str, Any]) -> str:
    # As a manifest has them: tuples are lists there.
    now = json.loads(json.dumps(run.config.values()))
    # A key that came with a later version meant its default.
    before = {**default_values(), **before}
    keys = [key for key in {**now, **before} if before.get(key) != now.get(key)]
    return ", ".join([key for key in keys if key != "save_dir"][:_SHOWN]) or "in detail"
