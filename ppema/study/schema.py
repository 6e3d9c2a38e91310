"""What a study file says: strict YAML, each key known, each message with its file and line."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Literal, Mapping, Optional, Sequence, Union

from ..config.convert import plain, quote, suggest, wrong
from ..config.load import convert_fields
from ..config.render import render_scalar
from ..config.schema import key
from ..config.strict_yaml import Mapping as MappingNode
from ..config.strict_yaml import Node, Origin, Scalar, read_yaml
from ..config.strict_yaml import Sequence as SequenceNode
from ..errors import ConfigError

Metric = Literal["top1", "loss", "ece"]
# What a run's last, or each average's best, evaluation is of.
CheckpointChoice = Literal["last", "best"]
RAW = "raw"
# Beside the weights by name: of each run those that it would itself have chosen.
SELECTED = "selected"
# As of the config's key.
_LARGEST_SEED = 2**32 - 1
# The study gives each run its own.
_OWN_KEYS = ("seed", "save_dir")


@dataclass
class StudyKeys:
    """The keys of a study file."""

    base: str = key("the config of all runs, from the study's folder on")
    seeds: List[int] = key("of the runs, the same for each variant")
    set: Any = key("overrides for all runs, as -o takes them, or a mapping of them", {})
    axes: Dict[str, Dict[str, Dict[str, Any]]] = key(
        "what varies: by axis and label, a mapping of overrides; axes are crossed", {}
    )
    reference: Union[str, Dict[str, str]] = key(
        "what all is compared with: weights of the same variant, or {axis: label, weights: raw}",
        RAW,
    )
    metric: Metric = key("what validation selects by", "top1")
    checkpoint: CheckpointChoice = key(
        "of each run: the last, or for each set of weights the epoch that validates best", "last"
    )
    reach: List[float] = key("top-1s in (0, 1]: the steps and seconds to each are told", [])
    posthoc: List[float] = key(
        "relative widths of averages made after each run (needs posthoc_every)", []
    )


@dataclass(frozen=True)
class Override:
    """A config key with its value, as `-o` takes it, and where it was written."""

    key: str
    value: str
    origin: Origin

    def __str__(self) -> str:
        return f"{self.key}={self.value}"


@dataclass(frozen=True)
class Reference:
    """What everything is compared with: weights of the variant with these labels on some axes."""

    labels: Mapping[str, str]
    weights: str
    origin: Origin


@dataclass(frozen=True)
class Study:
    """A checked study file.

    Attributes:
        name: of the file, without its ending; the study's folder is named after it.
        path: of the file.
        text: the whole file.
        base: path of the config.
        overrides: for all runs.
        axes: by axis and label, what is set where the label is taken.
    """

    name: str
    path: str
    text: str
    base: str
    overrides: Sequence[Override]
    axes: Mapping[str, Mapping[str, Sequence[Override]]]
    seeds: Sequence[int]
    reference: Reference
    metric: Metric
    checkpoint: CheckpointChoice
    reach: Sequence[float]
    posthoc: Sequence[float]
    _origins: Mapping[str, Origin] = field(default_factory=dict, repr=False)

    def error(self, name: str, message: str) -> ConfigError:
        """Return an error that begins with where a key of the study stands."""
        return ConfigError(f"{self._origins.get(name, self.path)}: {message}")


def read_study(path: str) -> Study:
    """Read and check a study file; the configs that it makes are checked when they are planned.

    Raises:
        ConfigError: with the file and line of what is wrong.
    """
    tree = read_yaml(path)
    keys = StudyKeys(**convert_fields(StudyKeys, tree, "", {}))
    study = Study(
        name=Path(path).stem,
        path=path,
        text=Path(path).read_text(encoding="utf-8-sig"),
        base=os.path.normpath(os.path.join(os.path.dirname(path), keys.base)),
        overrides=_overrides_of(tree.items.get("set"), "set"),
        axes=_axes_of(tree.items.get("axes")),
        seeds=keys.seeds,
        reference=_reference_of(keys.reference, tree),
        metric=keys.metric,
        checkpoint=keys.checkpoint,
        reach=keys.reach,
        posthoc=keys.posthoc,
        _origins=tree.key_origins,
    )
    _check(study)
    return study


def _check(study: Study) -> None:
    seeds = study.seeds
    are_in_range = all(0 <= seed <= _LARGEST_SEED for seed in seeds)
    if not seeds or len(set(seeds)) < len(seeds) or not are_in_range:
        raise study.error(
            "seeds",
            f"seeds must be different whole numbers from 0 to {_LARGEST_SEED}, got {list(seeds)}",
        )
    levels = study.reach
    if len(set(levels)) < len(levels) or not all(0 < level <= 1 for level in levels):
        raise study.error(
            "reach", f"reach must be different shares in (0, 1], such as 0.985, got {levels}"
        )
    widths = study.posthoc
    if len(set(widths)) < len(widths) or not all(0 < width < math.inf for width in widths):
        raise study.error("posthoc", f"posthoc must be different widths above 0, got {widths}")
    if not os.path.isfile(study.base):
        raise study.error("base", f"base names {quote(study.base)}, and there is no such file")
    for axis, label in study.reference.labels.items():
        where = f"{study.reference.origin}: reference: "
        if axis not in study.axes:
            raise ConfigError(f"{where}there is no axis {quote(axis)}{suggest(axis, study.axes)}")
        if label not in study.axes[axis]:
            near = suggest(label, study.axes[axis])
            raise ConfigError(f"{where}axis {axis} has no label {quote(label)}{near}")


def _axes_of(node: Optional[Node]) -> dict[str, dict[str, list[Override]]]:
    if node is None:
        return {}
    assert isinstance(node, MappingNode)
    axes: dict[str, dict[str, list[Override]]] = {}
    for axis, labels in node.items.items():
        assert isinstance(labels, MappingNode)
        if axis == "weights":
            # It is what `reference` calls the average.
            raise ConfigError(f"{node.key_origins[axis]}: an axis cannot be named 'weights'")
        if not labels.items:
            raise ConfigError(f"{node.key_origins[axis]}: axes.{axis} has no labels")
        axes[axis] = {
            label: _overrides_of(entry, f"axes.{axis}.{label}")
            for label, entry in labels.items.items()
        }
    return axes


def _overrides_of(node: Optional[Node], path: str) -> list[Override]:
    """Return the overrides of a mapping `{key: value}`, or of a list of `key=value`."""
    if node is None:
        return []
    if isinstance(node, MappingNode):
        found = [
            Override(name, render_scalar(plain(child)), node.key_origins[name])
            for name, child in node.items.items()
        ]
    elif isinstance(node, SequenceNode):
        found = [_override_of(child, f"{path}.{index}") for index, child in enumerate(node.items)]
    else:
        raise wrong(node, path, "a mapping of config keys to values, or a list of KEY=VALUE")
    for override in found:
        if override.key in _OWN_KEYS:
            raise ConfigError(
                f"{override.origin}: {path} sets {override.key!r}, which the study gives each run"
            )
    return found


def _override_of(node: Node, path: str) -> Override:
    if not isinstance(node, Scalar) or "=" not in node.text:
        raise wrong(node, path, "KEY=VALUE, such as epoch=3")
    name, _, value = node.text.partition("=")
    return Override(name.strip(), value.strip(), node.origin)


def _reference_of(value: Union[str, Dict[str, str]], tree: MappingNode) -> Reference:
    origin = tree.key_origins.get("reference", tree.origin)
    if isinstance(value, str):
        return Reference({}, value, origin)
    labels = {axis: label for axis, label in value.items() if axis != "weights"}
    return Reference(labels, value.get("weights", RAW), origin)
