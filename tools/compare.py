"""Compare runs: python tools/compare.py output/lenet_mnist output/lenet_bn_mnist"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any, Sequence

from ppema.console import PlainParser, Screen, log_to, run_tool
from ppema.errors import CheckpointError, ConfigError


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments."""
    parser = PlainParser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="draw the curves of all in one picture (PNG)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Print a table of the runs' best figures, draw their curves, return the exit code."""
    arguments = parse_arguments(argv)
    log_to(Screen())
    if arguments.picture is not None and arguments.picture.is_dir():
        raise ConfigError(f"--picture {arguments.picture}: is a directory; a file is needed")
    # Imported once the arguments are right: Paddle takes a second.
    from ppema.plots import Run, plot_runs

    names = _names(arguments.runs)
    evaluated = [_read(folder) for folder in arguments.runs]
    best = [max(records, key=_rank) for records in evaluated]
    print(_table(names, evaluated, best))
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
