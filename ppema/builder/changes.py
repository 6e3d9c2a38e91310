"""What a config says otherwise than the one that the checkpoint of a run was made with."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, Iterator, Mapping, Optional

from ..averaging import ArgumentError, RunLength, to_steps
from ..config import Config, Named
from ..config.render import render_scalar
from ..config.schema import Keys
from .after_run import length_of_run

# Where an order of the images is drawn from.
_ORDER = ("seed", "TrainReader.shuffle")


def changed_values(config: Config, manifest: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return path -> (old, new) of each value that differs; None where there is none.

    Averages that came or went are left out: lines of their own tell of them.
    """
    now = config.values()
    # A key that came later meant its default.
    before = {**default_values(), **manifest["config_values"]}
    averages = {name: before["Averages"].get(name, new) for name, new in now["Averages"].items()}
    return dict(_differences({**before, "Averages": averages}, now, ""))


def changes_order(changed: Mapping[str, Any]) -> bool:
    """Tell whether the images of an epoch come in another order now."""
    return any(path in changed for path in _ORDER)


def moved_horizons(config: Config, manifest: Mapping[str, Any], run: RunLength) -> list[str]:
    """Return a line for each duration in epochs, images or percent that is other steps now."""
    before, old_run = manifest["config_values"], length_of_run(manifest)
    lines = [
        _moved("posthoc_every", before["posthoc_every"], config.posthoc_every, old_run, run),
    ]
    for named, old in _continued_sections(config, before):
        for path, was, value in _texts_and_numbers(named, old):
            lines.append(_moved(path, was, value, old_run, run))
        if named.arguments.get("decay_batch_size") == old.get("decay_batch_size"):
            lines.append(_moved_decay(named, old, old_run, run))
    return [line for line in lines if line is not None]


def _texts_and_numbers(named: Named, old: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield path, old and new value of each argument, of lists each item, with the defaults."""
    parameters = inspect.signature(named.cls).parameters.values()
    # Such as "1 epoch"; other defaults are the same steps in any run.
    texts = {p.name: p.default for p in parameters if isinstance(p.default, str)}
    for key, value in {**texts, **named.arguments}.items():
        path, was = f"{named.path}.{key}", old.get(key, texts.get(key))
        if isinstance(value, list) and isinstance(was, list):
            for index, (was_item, item) in enumerate(zip(was, value)):
                yield f"{path}.{index}", was_item, item
        else:
            yield path, was, value


def _continued_sections(
    config: Config, before: Mapping[str, Any]
) -> Iterator[tuple[Named, Mapping[str, Any]]]:
    """Yield each average and schedule that knows the run's length, and what it was."""
    pairs = [(named, before["Averages"].get(name)) for name, named in config.Averages.items()]
    pairs += zip(config.LearningRate.schedulers, before["LearningRate"]["schedulers"])
    for named, old in pairs:
        knows_run = "run" in inspect.signature(named.cls).parameters
        if old is not None and old["name"] == named.name and knows_run:
            yield named, old


def _moved(path: str, old: Any, new: Any, old_run: RunLength, run: RunLength) -> Optional[str]:
    before, now = _steps(old, old_run), _steps(new, run)
    if before is None or now is None or before == now or not isinstance(new, str):
        return None
    return f"{path}: {new} is {now:.6g} steps now, was {before:.6g}"


def _steps(duration: Any, run: RunLength) -> Optional[float]:
    """Return a duration in steps, None where the value is none."""
    if isinstance(duration, bool) or not isinstance(duration, (int, float, str)):
        return None
    try:
        return to_steps("", duration, run, allows_zero=True)
    except ArgumentError:
        return None


def _moved_decay(
    named: Named, old: Mapping[str, Any], old_run: RunLength, run: RunLength
) -> Optional[str]:
    size, decay = old.get("decay_batch_size"), named.arguments.get("decay")
    if not size or decay is None or decay != old.get("decay"):
        return None
    before, now = (decay ** (r.images_per_step / size) for r in (old_run, run))
    if before == now:
        return None
    return f"{named.path}.decay: {decay:g} for {size} images is {now:.6g} now, was {before:.6g}"


def default_values() -> dict[str, Any]:
    """Return the keys of a config that have a plain default, with it."""
    fields, plain = dataclasses.fields(Keys), (bool, int, float, str, type(None))
    return {f.name: f.default for f in fields if isinstance(f.default, plain)}


def _differences(old: Any, new: Any, path: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**new, **old}:
            below = f"{path}.{key}" if path else str(key)
            yield from _differences(old.get(key), new.get(key), below)
    elif old != new:
        yield path, (old, new)


def describe(value: Any) -> str:
    """Return a value as a config has it."""
    return "not set" if value is None else render_scalar(value)
