"""The results that docs/evidence keeps: taken from finished studies, and checked against them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

from ppema.checkpoint.files import replace_file
from ppema.config.convert import suggest
from ppema.errors import CheckpointError, ConfigError
from ppema.study import Plan, make_plan, read_study
from ppema.study.report import RESULT
from ppema.study.table import LEAST_SEEDS

# From the repository's folder on, as the commands in a result are.
STUDIES = Path("configs/studies")
KEPT = Path("docs/evidence")


@dataclass(frozen=True)
class Result:
    """A study as it is planned now, and what its result.json says.

    Attributes:
        sha256: of the file.
    """

    plan: Plan
    path: Path
    facts: Mapping[str, Any]
    sha256: str

    @property
    def variants(self) -> Sequence[Mapping[str, Any]]:
        """Return the summaries of the variants."""
        variants: Sequence[Mapping[str, Any]] = self.facts["variants"]
        return variants

    def require_sound(self) -> None:
        """Require that the result is whole and of the study as it is planned now.

        Raises:
            CheckpointError: a run is missing, the seeds are too few, or the study was changed.
        """
        fault = self._fault()
        if fault is not None:
            raise CheckpointError(f"{self.path}: {fault}")

    def _fault(self) -> Optional[str]:
        """Return what is wrong with the result, None where nothing is."""
        study = self.plan.study
        if self.facts["file"] != study.text:
            return f"is of another text of {study.path}; run the study again"
        missing = self.facts["missing"]
        if missing:
            more = f" and {len(missing) - 1} more" if missing[1:] else ""
            return f"lacks {missing[0]}{more}; run the study to its end"
        fewest = min(variant["n"] for variant in self.variants)
        if fewest < LEAST_SEEDS:
            return f"has {fewest} seeds of a variant; evidence needs {LEAST_SEEDS} or more"
        raw = self.variants[0]["weights"]["raw"]
        if "reliability" not in raw or (study.reach and "curve" not in raw):
            return f"is of an earlier version; write it anew: {self.facts['command']} --report"
        for planned, variant in zip(self.plan.variants, self.variants):
            data = planned.config.EvalDataset.name
            if variant["data"]["kind"] == "digits" and data != "Digits":
                return f"is of the embedded digits, not of {data}; run it where the data are"
        return self._fault_of_runs()

    def _fault_of_runs(self) -> Optional[str]:
        found = {(run["variant"], run["seed"]): run for run in self.facts["runs"]}
        for run in self.plan.runs:
            kept = found.get((run.variant.name, run.seed))
            if kept is None:
                return f"lacks {run.title}; run the study again"
            if kept["config_sha256"] != run.fingerprint:
                return f"{run.title}: was trained by another config than is planned now"
            if kept["command"] != run.command:
                return f"{run.title}: was trained by another command than is planned now"
        return None


class Results:
    """The results that are kept, each read once."""

    def __init__(self) -> None:
        if not STUDIES.is_dir():
            raise ConfigError(f"there is no {STUDIES} here; run this in the repository's folder")
        self.names = sorted(path.stem for path in STUDIES.glob("*.yml"))
        self._known: dict[str, Result] = {}
        self._plans: dict[str, Plan] = {}

    def read(self, name: str) -> Result:
        """Return the kept result of a study.

        Raises:
            CheckpointError: none is kept, or it is damaged.
        """
        if name not in self._known:
            path = kept_path(name)
            if not path.is_file():
                raise CheckpointError(
                    f"no result of {name} is kept as {path}; run the study, then "
                    "python tools/make_evidence.py --take output"
                )
            self._known[name] = self._load(name, path)
        return self._known[name]

    def has(self, name: str) -> bool:
        """Tell whether a result of a study is kept."""
        return kept_path(name).is_file()

    def take(self, folder: Path, names: Sequence[str]) -> list[Path]:
        """Keep the results that studies left in their folders; return the files that are new.

        Args:
            folder: `save_dir` of the studies.
            names: of the studies; empty for all that have a result there.

        Raises:
            CheckpointError: one is not fit to be kept; none is taken then.
        """
        wanted = names or [name for name in self.names if (folder / name / RESULT).is_file()]
        for name in wanted:
            require_known(name, self.names, "study", ConfigError)
        if not wanted:
            raise CheckpointError(f"{folder}: no study has a {RESULT} there")
        found = {name: self._load(name, folder / name / RESULT) for name in wanted}
        for result in found.values():
            result.require_sound()
        for name, result in found.items():
            replace_file(kept_path(name), result.path.read_bytes())
            self._known.pop(name, None)
        return [kept_path(name) for name in found]

    def _load(self, name: str, path: Path) -> Result:
        try:
            content = path.read_bytes()
            facts = json.loads(content)
            is_result = facts["study"] == name and {"variants", "runs", "missing"} <= set(facts)
        except FileNotFoundError:
            raise CheckpointError(f"{path}: there is no such file; run the study") from None
        except (ValueError, TypeError, KeyError):
            is_result = False
        if not is_result:
            raise CheckpointError(f"{path}: is no result of the study {name}")
        return Result(self._plan(name), path, facts, hashlib.sha256(content).hexdigest())

    def _plan(self, name: str) -> Plan:
        if name not in self._plans:
            self._plans[name] = make_plan(read_study(str(STUDIES / f"{name}.yml")), [])
        return self._plans[name]


def kept_path(name: str) -> Path:
    """Return where the result of a study is kept."""
    return KEPT / f"{name}.json"


def require_known(
    name: str, known: Sequence[str], what: str, error: Callable[[str], Exception]
) -> None:
    """Require that something is among what there is.

    Raises:
        Exception: as `error` makes it of a line with the nearest name.
    """
    if name not in known:
        raise error(f"there is no {what} {name!r}{suggest(name, known)}")
