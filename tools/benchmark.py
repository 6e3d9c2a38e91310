"""Measure speed and memory against the limit and the rivals: python tools/benchmark.py update"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import logging
from pathlib import Path
from typing import Any, Iterator, Optional, Sequence

from benchmarks.remote import Remote, RemoteError

from ppema.console import PlainParser, import_paddle, log_to, run_tool, say
from ppema.errors import ConfigError

# What each measures; the module of the same name in benchmarks/subjects does it.
SUBJECTS = {
    "update": "an update of an average, and of several at once",
    "growth": "an update of more tensors, more weights, more averages",
    "step": "a training step, and the share of it that an average takes",
    "train": "training with data and an average, and the whole process",
    "eval": "an evaluation",
    "swap": "an average put into the model and taken out",
    "checkpoint": "a checkpoint and the finite check",
    "memory": "what an average takes beside the model",
    "processes": "several processes of one thread each, and an average in each",
}
ALL = "all"


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments."""
    lines = [f"  {name:<12}{what}" for name, what in SUBJECTS.items()]
    parser = PlainParser("\n".join([__doc__, "", *lines]))
    parser.add_argument("subject", choices=[*SUBJECTS, ALL], metavar="SUBJECT")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything, each sample")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the rows (PNG)")
    parser.add_argument("--rounds", type=_positive, metavar="N", help="samples of each row")
    parser.add_argument("--quick", action="store_true", help="small and short: does it run?")
    parser.add_argument("--torch", metavar="PYTHON", help="an interpreter that has torch")
    parser.add_argument("--dataset_dir", type=Path, metavar="DIR", help="where MNIST's .gz are")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Measure what the arguments say, print tables, return the exit code."""
    arguments = parse_arguments(argv)
    for path in (arguments.json, arguments.picture):
        if path is not None and not path.absolute().parent.is_dir():
            raise ConfigError(f"{path}: its folder does not exist")
    # A subject's own log would stand between the tables.
    log_to(logging.NullHandler())
    # Once the arguments are right: it takes a second.
    import_paddle()
    from benchmarks import machine, report
    from benchmarks.picture import draw
    from benchmarks.settings import Settings

    with _torch_process(arguments.torch) as (torch, version):
        facts = machine.facts(argv, version)
        say(machine.describe(facts))
        settings = Settings(arguments.rounds, arguments.quick, torch, arguments.dataset_dir)
        names = list(SUBJECTS) if arguments.subject == ALL else [arguments.subject]
        found = {}
        for name in names:
            say(f"\n== {name}: {SUBJECTS[name]}")
            found[name] = _subject(name).measure(settings)
            print(report.table(found[name]), flush=True)
            # After each, so that what took minutes is not lost with what comes later.
            if arguments.json is not None:
                report.write_json(report.as_json(facts, found), arguments.json)
    if arguments.picture is not None:
        draw(found, facts, arguments.picture)
    return 0


@contextlib.contextmanager
def _torch_process(python: Optional[str]) -> Iterator[tuple[Optional[Remote], str]]:
    """Yield the process that torch is asked in, None where there is none, and its version.

    Raises:
        ConfigError: the interpreter that was named cannot import torch.
    """
    if python is None and importlib.util.find_spec("torch") is None:
        yield None, "not installed here (see --torch)"
        return
    remote = None
    try:
        try:
            remote = Remote("torch_process", python=python)
            version = str(remote.ask("version"))
        except (RemoteError, OSError) as error:
            raise ConfigError(f"--torch {python}: {error}") from None
        yield remote, version
    finally:
        if remote is not None:
            remote.close()


def _subject(name: str) -> Any:
    return importlib.import_module(f"benchmarks.subjects.{name}")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    run_tool(main)
