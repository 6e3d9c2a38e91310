"""Compare runs that are there, or run a study, and say what differs.

python tools/compare.py output/lenet_mnist output/lenet_bn_mnist
python tools/compare.py -c configs/studies/label_noise_small.yml
"""

from __future__ import annotations

import argparse
import math
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Mapping, Sequence

from ppema.console import ArgumentParser, Screen, import_paddle, log_to, run_tool, say
from ppema.errors import CheckpointError, ConfigError
from ppema.machine import num_cores


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments."""
    parser = ArgumentParser(__doc__, needs_config=False)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folders of runs")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="draw the curves of all in one picture (PNG)"
    )
    study = parser.add_argument_group("of a study, which -c names; -o is of its base config")
    study.add_argument(
        "--workers", type=_positive, metavar="N", help="runs at a time; one a core by default"
    )
    what = study.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="say what would be run, and stop")
    what.add_argument("--report", action="store_true", help="summarise what is done, run nothing")
    what.add_argument(
        "--measure", type=Path, metavar="RUN", help="evaluate one finished run on its test data"
    )
    arguments = parser.parse_args(argv)
    _refuse_mixtures(arguments)
    return arguments


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text!r}")
    return int(text)


def _refuse_mixtures(arguments: argparse.Namespace) -> None:
    of_study = ("opt", "workers", "check", "report", "measure")
    if arguments.config is None:
        if not arguments.runs:
            raise ConfigError("name the folders of runs, or a study by -c (see --help)")
        for name in of_study:
            if getattr(arguments, name):
                option = "-o" if name == "opt" else f"--{name}"
                raise ConfigError(f"{option} is of a study; name one by -c")
    elif arguments.runs or arguments.picture:
        raise ConfigError("-c runs a study, which draws its own pictures; name it alone")


def main(argv: Sequence[str]) -> int:
    """Compare runs, or run a study, as the arguments say; return the exit code."""
    arguments = parse_arguments(argv)
    log_to(Screen())
    if arguments.config is None:
        return compare_runs(arguments)
    return run_study(arguments)


def run_study(arguments: argparse.Namespace) -> int:
    """Run what is left of a study and summarise it, or a part of that; return the exit code."""
    # Its configs' classes need it, and it takes a second.
    import_paddle()
    from ppema import study
    from ppema.engine.run_folder import open_run_folder

    read = study.read_study(arguments.config)
    if arguments.measure is not None:
        print(f"written: {study.measure(read, arguments.measure)}")
        return 0
    plan = study.make_plan(read, arguments.opt)
    if arguments.check:
        _print_plan(plan, study.count_steps(plan))
        return 0
    if arguments.report:
        _report(plan, "are not done yet")
        return 0
    with open_run_folder(plan.folder):
        workers = arguments.workers or num_cores()
        steps = study.count_steps(plan)
        total = sum(steps[run.variant.name] for run in plan.runs)
        say(f"{plan.folder}: {len(plan.runs)} runs, {total:,} steps; {workers} at a time")
        tools = study.Tools(Path(__file__).with_name("train.py"), Path(__file__))
        runner = study.Runner(plan, tools, workers, steps)
        runner.run()
        failures = runner.failures
        if len(failures) == len(plan.runs):
            return study.exit_code(failures)
        _report(plan, "failed")
    return study.exit_code(failures)


def _print_plan(plan: Any, steps: Mapping[str, int]) -> None:
    seeds = plan.study.seeds
    for variant in plan.variants:
        weights = ", ".join(plan.weights(variant))
        each = f"{len(seeds)} runs of {steps[variant.name]:,} steps"
        print(f"{variant.title}: {each}; weights: {weights}")
    total = sum(steps[run.variant.name] for run in plan.runs)
    print(f"{len(plan.runs)} runs, {total:,} steps, in {plan.folder}")
    for run in plan.runs:
        print(run.command)


def _report(plan: Any, why_missing: str) -> None:
    from ppema.run_lock import in_turn
    from ppema.study import Report, as_text

    # A report that was asked for while the study ends must not write an older result over its own.
    with in_turn(plan.folder) if plan.folder.is_dir() else nullcontext():
        report = Report(plan)
        print(as_text(report.rows))
        say(report.protocol)
        written = report.write()
    num_missing, left = len(report.missing), ""
    if num_missing:
        left = f"; {num_missing} of {len(plan.runs)} runs {why_missing} and are left out"
    print(f"written: {', '.join(map(str, written))}{left}")


def compare_runs(arguments: argparse.Namespace) -> int:
    """Print a table of the runs' best figures, draw their curves, return the exit code."""
    if arguments.picture is not None and arguments.picture.is_dir():
        raise ConfigError(f"--picture {arguments.picture}: is a directory; a file is needed")
    # Imported once the arguments are right: Paddle takes a second.
    from ppema.plots import Run, plot_runs

    names = _names(arguments.runs)
    evaluated = [_read(folder) for folder in arguments.runs]
    best = [max(records, key=_rank) for records in evaluated]
    print(_table(names, evaluated, best))
    _warn_of_mixture(names, best)
    if arguments.picture is not None:
        runs = [
            Run(name, records, record["average"])
            for name, records, record in zip(names, evaluated, best)
        ]
        plot_runs(runs, f"{len(runs)} runs", arguments.picture)
        print(f"drawn: {arguments.picture}")
    return 0


def _read(folder: Path) -> list[dict[str, Any]]:
    """Return the evaluation records of a run.

    Raises:
        CheckpointError: it is no run's folder, or nothing was evaluated in it.
    """
    from ppema.engine.record import METRICS, read_records

    path = folder / METRICS
    if not path.is_file():
        raise CheckpointError(f"{folder}: no run's folder (it has no {METRICS})")
    found = [record for record in read_records(path) if record["split"] == "eval"]
    if not found:
        raise CheckpointError(f"{folder}: nothing was evaluated in it; train with --eval")
    return found


def _warn_of_mixture(names: Sequence[str], best: Sequence[Mapping[str, Any]]) -> None:
    """Say so where the figures of some runs are on validation images, and of others on test data.

    Records of an earlier version do not tell.
    """
    named: dict[str, list[str]] = {}
    for name, record in zip(names, best):
        if record.get("on") in ("validation", "test"):
            named.setdefault(record["on"], []).append(name)
    if len(named) > 1:
        each = "; ".join(f"on {on} images: {', '.join(runs)}" for on, runs in named.items())
        say(f"figures on other images are not to be compared: {each}")


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest names that tell the folders apart."""
    paths = [os.path.abspath(folder) for folder in folders]
    if len(paths) == 1:
        return [os.path.basename(paths[0])]
    if len(set(paths)) < len(paths):
        raise ConfigError("the same run is named twice")
    shared = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [os.path.relpath(path, shared) for path in paths]


def _rank(record: dict[str, Any]) -> tuple[float, float]:
    # A loss that was NaN is none in the record.
    loss = math.inf if record["loss"] is None else record["loss"]
    return (record["top1"], -loss)


def _table(
    names: Sequence[str],
    evaluated: Sequence[Sequence[dict[str, Any]]],
    best: Sequence[dict[str, Any]],
) -> str:
    """Return a line a run: its best weights and figures, and the raw ones of its last step."""
    lines = [("run", "best", "top1", "loss", "epoch", "step", "last raw top1")]
    order = sorted(range(len(names)), key=lambda index: _rank(best[index]), reverse=True)
    for index in order:
        record = best[index]
        raw = [r for r in evaluated[index] if r["average"] == "raw"]
        lines.append(
            (
                names[index],
                record["average"],
                f"{100 * record['top1']:.2f} %",
                "nan" if record["loss"] is None else f"{record['loss']:.4f}",
                str(record["epoch"]),
                str(record["step"]),
                f"{100 * raw[-1]['top1']:.2f} %" if raw else "-",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines
    )


if __name__ == "__main__":
    run_tool(main)
