"""The parts that a config divides its training data into, and how they differ from a run's."""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping, Optional

from ..config import Config
from ..data import Dataset, PartFault, PartWords, divide


def _words_of(config: Config) -> PartWords:
    return PartWords(**{f.name: getattr(config, f.name) for f in dataclasses.fields(PartWords)})


def divided(config: Config, dataset: Dataset) -> tuple[Dataset, Optional[Dataset]]:
    """Return what is trained on, and what validation takes.

    Raises:
        ConfigError: there are not so many images; with its line.
    """
    try:
        return divide(dataset, _words_of(config))
    except PartFault as fault:
        raise config.error(fault.key, str(fault)) from None


def other_words(config: Config, manifest: Mapping[str, Any], keys: str = "") -> str:
    """Return which keys divide the data otherwise than in a run, as the end of a message.

    `keys` is how those begin that matter.
    """
    before = manifest.get("config_values")
    if not isinstance(before, Mapping):
        return ""
    changed = []
    for key, value in dataclasses.asdict(_words_of(config)).items():
        # A run that began before there was such a key had its default.
        old = before.get(key, getattr(Config, key))
        if old != value and key.startswith(keys):
            changed.append(f"{key} was {_said(old)}, is {_said(value)}")
    return f"; {', '.join(changed)}" if changed else ""


def _said(value: Any) -> str:
    return "not set" if value is None else str(value)
