"""The runs of a study: every variant with every seed, config checked, folder and command."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Sequence

from .. import builder
from ..builder.changes import default_values
from ..builder.parallel_averaging import parts_of
from ..builder.parts import run_length
from ..builder.run_data import make_train_reader
from ..config import Config
from ..engine.phases import SWAP
from ..errors import ConfigError
from .schema import RAW, SELECTED, Override, Study

# Of checkpoints: more than there can be.
_ALL = 10**9
# Before what the study says, which may want it otherwise.
_DEFAULTS = ("use_vdl=false",)
# What the number of batches depends on; loading takes a second.
_DATA_KEYS = (
    *("TrainDataset", "EvalDataset", "TrainReader", "EvalReader", "offline"),
    *("validation", "validation_seed", "train_samples", "train_samples_seed"),
)


@dataclass(frozen=True)
class Variant:
    """One choice of a label on each axis.

    Attributes:
        name: of its folder.
        labels: by axis.
        overrides: of these labels.
        config: of a run but for its seed and folder.
        options: what `-o` says of them all.
    """

    name: str
    labels: Mapping[str, str]
    overrides: Sequence[Override]
    config: Config
    options: Sequence[str]

    @property
    def title(self) -> str:
        """Return the labels as people read them."""
        return ", ".join(f"{axis} {label}" for axis, label in self.labels.items()) or self.name


@dataclass(frozen=True)
class PlannedRun:
    """One training run: a variant with a seed.

    Attributes:
        config: of the run.
        arguments: of tools/train.py.
    """

    variant: Variant
    seed: int
    config: Config
    arguments: Sequence[str]

    @property
    def folder(self) -> Path:
        """Return the run's folder."""
        return builder.run_folder(self.config)

    @property
    def parts(self) -> list[Config]:
        """Return the configs of what is trained for it: itself, or the phases of SWAP."""
        return parts_of(self.config)

    @property
    def title(self) -> str:
        """Return the run in a few words."""
        return f"{self.variant.title}, seed {self.seed}"

    @property
    def command(self) -> str:
        """Return the command that trains it, as typed."""
        return f"python tools/train.py {shlex.join(self.arguments)}"

    @property
    def fingerprint(self) -> str:
        """Return the digest of the run's config, which does not depend on where it lies."""
        return fingerprint(self.config.values())


@dataclass(frozen=True)
class Plan:
    """A study with its runs, those of one seed together, in the order in which they are started."""

    study: Study
    options: Sequence[str]
    folder: Path
    variants: Sequence[Variant]
    runs: Sequence[PlannedRun]

    def weights(self, variant: Variant) -> list[str]:
        """Return the names of all weights that a run of a variant ends with."""
        if variant.config.Swap is not None:
            # Averages of the config are of a worker each.
            return [RAW, SWAP]
        made = [posthoc_name(width) for width in self.study.posthoc]
        return [RAW, *variant.config.Averages, *made]

    def reference_of(self, variant: Variant) -> Variant:
        """Return the variant whose weights are the reference for those of another."""
        wanted = {**variant.labels, **self.study.reference.labels}
        return next(other for other in self.variants if other.labels == wanted)


def make_plan(study: Study, options: Sequence[str]) -> Plan:
    """Return the runs of a study, all configs checked.

    Args:
        study: what is to be run.
        options: `-o` texts that change the base config of all runs.

    Raises:
        ConfigError: a config is wrong; with the line of the study where it says so.
    """
    _refuse_axis_keys(study, options)
    folder = Path(_read(study, study.overrides, options, []).save_dir) / study.name
    variants = [_make_variant(study, labels, options) for labels in _label_choices(study)]
    names = [variant.name for variant in variants]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise study.error("axes", f"axes: two variants would have the folder {twice!r}")
    runs = [_make_run(study, variant, seed, folder) for seed in study.seeds for variant in variants]
    plan = Plan(study, options, folder, variants, runs)
    _check_names(plan)
    _check_reference(plan)
    return plan


def count_steps(plan: Plan) -> dict[str, int]:
    """Return the steps of a run of each variant; all data are loaded, and so are at hand then.

    Of one with the section Swap they are those of all its parts, the most that phase 1 can take.

    Raises:
        DataError: data are missing or damaged.
    """
    counted: dict[str, int] = {}
    known: dict[str, int] = {}
    for variant in plan.variants:
        counted[variant.name] = 0
        for config in parts_of(variant.config):
            data_keys = fingerprint({name: config.values()[name] for name in _DATA_KEYS})
            if data_keys not in known:
                with _located([*plan.study.overrides, *variant.overrides], plan.options):
                    data = builder.load_data(config, None)
                    known[data_keys] = len(make_train_reader(config, data.train))
            steps_per_epoch = -(-known[data_keys] // config.accumulate_steps)
            counted[variant.name] += run_length(config, steps_per_epoch).num_steps
    return counted


def fingerprint(values: Mapping[str, Any]) -> str:
    """Return the sha256 of a config's values, but for its folder and what is at its default.

    So a key that comes with a later version leaves it as it was.
    """
    known = {**default_values(), "save_dir": values.get("save_dir")}
    kept = {name: v for name, v in values.items() if name not in known or v != known[name]}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def posthoc_name(width: float) -> str:
    """Return the name of an average made after a run."""
    return f"posthoc_{width:g}"


def _label_choices(study: Study) -> list[dict[str, str]]:
    return [dict(zip(study.axes, labels)) for labels in itertools.product(*study.axes.values())]


def _make_variant(study: Study, labels: Mapping[str, str], options: Sequence[str]) -> Variant:
    chosen = [o for axis, label in labels.items() for o in study.axes[axis][label]]
    name = "-".join(f"{_slug(axis)}_{_slug(label)}" for axis, label in labels.items()) or "base"
    config = _read(study, study.overrides, options, chosen, builder.check)
    if config.validation is None:
        raise study.error(
            "set",
            "a study selects on images kept out of the training data; put validation into set, "
            "such as {validation: 0.1}",
        )
    if config.Swap is not None:
        _refuse_of_swap(study)
    if study.posthoc and config.posthoc_every is None:
        raise study.error("posthoc", "posthoc needs snapshots; set posthoc_every, such as '2 %'")
    texts = [*_DEFAULTS, *map(str, study.overrides), *options, *map(str, chosen)]
    if study.checkpoint == "best":
        # Each epoch may be the best of some weights, and checkpoints within epochs count as well.
        texts += ["snapshot_epoch=1", f"keep_checkpoint_max={_ALL}"]
        config = replace(config, snapshot_epoch=1, keep_checkpoint_max=_ALL)
    return Variant(name, labels, chosen, config, texts)


def _make_run(study: Study, variant: Variant, seed: int, folder: Path) -> PlannedRun:
    save_dir = folder / "runs" / variant.name / f"seed_{seed}"
    alone = variant.config.of_workers
    of_workers = alone and replace(alone, save_dir=str(save_dir))
    config = replace(variant.config, seed=seed, save_dir=str(save_dir), of_workers=of_workers)
    options = [*variant.options, f"seed={seed}", f"save_dir={save_dir}"]
    arguments = ["-c", study.base, "--eval", "-r", "auto", "-o", *options]
    return PlannedRun(variant, seed, config, arguments)


def _read(
    study: Study,
    overrides: Sequence[Override],
    options: Sequence[str],
    chosen: Sequence[Override],
    check: Callable[[Config], None] = lambda config: None,
) -> Config:
    """Return the config of some overrides; what is wrong with one has its line in the study."""
    texts = [*_DEFAULTS, *map(str, overrides), *options, *map(str, chosen)]
    with _located([*overrides, *chosen], options):
        config = builder.read_config(study.base, texts)
        check(config)
    return config


@contextlib.contextmanager
def _located(overrides: Sequence[Override], options: Sequence[str]) -> Iterator[None]:
    """Let an error of a config name the line of the study that it comes from.

    Raises:
        ConfigError: in place of one that names the override.
    """
    typed = {option.partition("=")[0].strip() for option in options}
    try:
        yield
    except ConfigError as error:
        # Of a key that is set twice the last counts.
        for override in reversed(overrides):
            start = f"-o {override.key}"
            if str(error).startswith((f"{start}: ", f"{start}=")) and override.key not in typed:
                raise ConfigError(f"{override.origin}{str(error)[len(start) :]}") from None
        raise


def _refuse_axis_keys(study: Study, options: Sequence[str]) -> None:
    varied = {
        override.key: axis
        for axis, labels in study.axes.items()
        for overrides in labels.values()
        for override in overrides
    }
    for option in options:
        name = option.partition("=")[0].strip()
        if name == "seed":
            raise ConfigError(f"-o {name}: the study gives each run its seed")
        for key, axis in varied.items():
            if f"{name}.".startswith(f"{key}.") or f"{key}.".startswith(f"{name}."):
                raise ConfigError(f"-o {name}: is what the axis {axis!r} varies")


def _check_names(plan: Plan) -> None:
    """Raise ConfigError where two rows of a result would have one name, and one be lost."""
    for variant in plan.variants:
        names = [*plan.weights(variant), SELECTED]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(
                    f"{plan.study.path}: two rows of {variant.title} would have the name {name!r}; "
                    "rename an average, or change posthoc"
                )


def _check_reference(plan: Plan) -> None:
    reference = plan.study.reference
    for variant in plan.variants:
        known = plan.weights(plan.reference_of(variant))
        if reference.weights not in known:
            raise ConfigError(
                f"{reference.origin}: reference must be one of {', '.join(known)}, got "
                f"{reference.weights!r}"
            )


def _refuse_of_swap(study: Study) -> None:
    """Refuse what SWAP's mean of workers has not: epochs, steps of its own, snapshots.

    Raises:
        ConfigError: with the line of the study.
    """
    asked = {
        "checkpoint": study.checkpoint == "best",
        "reach": bool(study.reach),
        "posthoc": bool(study.posthoc),
    }
    for name, is_asked in asked.items():
        if is_asked:
            raise study.error(name, f"{name} is not of runs with the section Swap; leave it out")


def _slug(label: str) -> str:
    """Return a label as a part of a folder's name."""
    return re.sub(r"[^\w.]+", "_", label).strip("_.") or "x"
