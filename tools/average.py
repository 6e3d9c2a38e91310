"""Make averages after training: python tools/average.py posthoc|soup … (each has --help)."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from ppema.console import ArgumentParser, Screen, log_to, run_tool
from ppema.errors import ConfigError

logger = logging.getLogger("ppema.average")

# A profile met worse than this is another average than the one asked for.
LARGE_RESIDUAL = 0.05
# Of a sweep: from a fiftieth to a quarter of the run.
SWEEP_WIDTHS = (0.02, 0.025, 0.032, 0.04, 0.05, 0.063, 0.08, 0.1, 0.125, 0.16, 0.2, 0.25)


def posthoc_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of `posthoc`."""
    parser = ArgumentParser(
        "Make an EMA of any length, as of any step of a run, from the run's snapshots.",
        prog="average.py posthoc",
    )
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument(
        "--sigma_rel", type=float, metavar="WIDTH", help="relative width, below 0.2887"
    )
    wanted.add_argument(
        "--half_life", metavar="DURATION", help="updates, or such as '5 %%', '2 epochs'"
    )
    wanted.add_argument(
        "--sweep",
        nargs="*",
        type=float,
        metavar="WIDTH",
        help="many widths: a table, a plot, and the best of them",
    )
    wanted.add_argument(
        "--verify", metavar="NAME", help="make a tracked average from the others, and compare"
    )
    parser.add_argument("--step", type=int, metavar="N", help="as of this step; default: the last")
    parser.add_argument("--leave_out", metavar="NAME", help="do without this average's snapshots")
    _add_output(parser)
    return parser.parse_args(argv)


def soup_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of `soup`."""
    parser = ArgumentParser(
        "Make the mean of finished weights that share one architecture and one start.",
        prog="average.py soup",
        needs_config=False,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="weight files (.pdparams)")
    parser.add_argument(
        "--greedy", action="store_true", help="best first, keeping those that help (needs -c)"
    )
    _add_output(parser)
    arguments = parser.parse_args(argv)
    if arguments.config is None and (arguments.greedy or arguments.opt):
        raise ConfigError(f"{'--greedy' if arguments.greedy else '-o'} needs a config (-c)")
    return arguments


def main(argv: Sequence[str]) -> int:
    """Run the command that comes first; return the exit code."""
    commands = {"posthoc": posthoc, "soup": soup}
    if argv and argv[0] in commands:
        log_to(Screen())
        return commands[argv[0]](argv[1:])
    if argv and argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    found = repr(argv[0]) if argv else "nothing"
    raise ConfigError(f"the first argument must be posthoc or soup, got {found}")


def posthoc(argv: Sequence[str]) -> int:
    """Make averages of a run's snapshots; evaluate them, and write the best."""
    arguments = posthoc_arguments(argv)
    _require_free(arguments)
    # Imported once the arguments are right: Paddle takes a second.
    from ppema import builder
    from ppema.engine.posthoc import SnapshotSet, try_targets, verify
    from ppema.engine.resume import find_checkpoint

    config = builder.read_config(arguments.config, arguments.opt)
    place = builder.select_place(config)
    checkpoint = find_checkpoint(Path(config.weights or builder.run_folder(config)))
    run, manifest = checkpoint.path.parent, checkpoint.manifest
    left_out = arguments.verify or arguments.leave_out
    snapshots = SnapshotSet(run, manifest, arguments.step, left_out)
    print(f"{run}: {snapshots}; place: {place}{builder.note_on_run(manifest)}")
    if arguments.verify:
        print(verify(arguments.verify, snapshots, manifest))
        return 0
    widths = [arguments.sigma_rel] if arguments.sweep is None else arguments.sweep or SWEEP_WIDTHS
    targets = builder.posthoc_targets(config, manifest, widths, arguments.half_life)
    candidates = builder.make_candidates(config, checkpoint)
    at_step = f"step_{snapshots.step:09d}"
    tries, best = [], None
    for trial, state in try_targets(targets, snapshots, candidates):
        print(trial)
        if trial.residual > LARGE_RESIDUAL:
            logger.warning(
                "%s is not met (residual %.3g %%); take a step at which there is a snapshot (%s), "
                "a longer average, or train with a smaller posthoc_every",
                trial.target,
                100 * trial.residual,
                ", ".join(map(str, snapshots.steps_near())),
            )
        tries.append(trial)
        if best is None or trial.evaluation.rank > best[0].evaluation.rank:
            best = (trial, state)
    assert best is not None
    candidates.load(best[1], str(best[0].target))
    output = arguments.output or run / "posthoc" / f"{best[0].target.file_stem}_{at_step}.pdparams"
    is_sweep = len(tries) > 1
    report = output.with_name(f"sweep_{at_step}") if is_sweep and not arguments.output else output
    candidates.save(output)
    facts = {"step": snapshots.step, "update": snapshots.time, "data": manifest["data"]["eval"]}
    facts = {**facts, "best": best[0].facts(), "tries": [trial.facts() for trial in tries]}
    written = [output, _write_json(facts, _beside(report, ".json"))]
    if is_sweep:
        written.append(_plot(tries, best[0], manifest, snapshots.step, _beside(report, ".png")))
        print(f"best: {best[0]}")
    print(f"written: {', '.join(map(str, written))}")
    return 0


def soup(argv: Sequence[str]) -> int:
    """Make the mean of weight files, of all or of those that help, and write it."""
    arguments = soup_arguments(argv)
    output = arguments.output or Path("soup.pdparams")
    _require_free(arguments, output)
    from ppema import builder
    from ppema.checkpoint import replace_weight_file
    from ppema.engine.soup import cook_greedily, cook_uniformly, read_ingredients

    states = read_ingredients(arguments.files)
    if arguments.config is None:
        replace_weight_file(output, cook_uniformly(states))
        print(f"uniform soup of {len(states)}\nwritten: {output}")
        return 0
    config = builder.read_config(arguments.config, arguments.opt)
    print(f"place: {builder.select_place(config)}")
    candidates = builder.make_candidates(config)
    if arguments.greedy:
        state = cook_greedily(states, candidates, print)
    else:
        state = cook_uniformly(states)
        for name, ingredient in states.items():
            print(f"{name}: {candidates.evaluate(ingredient, name)}")
    evaluation = candidates.evaluate(state, "the soup")
    candidates.save(output)
    print(f"soup: {evaluation}\nwritten: {output}")
    return 0


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, metavar="FILE", help="where the weights go")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the file that --output names"
    )


def _require_free(arguments: argparse.Namespace, output: Optional[Path] = None) -> None:
    """Refuse to write over a file that was not made for this."""
    path = output or arguments.output
    if path is None:
        return
    for there in (path, _beside(path, ".json"), _beside(path, ".png")):
        if there.exists() and not arguments.overwrite:
            raise ConfigError(f"{there} is there already; name another --output, or --overwrite")


def _beside(path: Path, suffix: str) -> Path:
    """Return the file of another kind that belongs to a weight file."""
    return path.with_name(path.name.removesuffix(".pdparams") + suffix)


def _write_json(facts: Mapping[str, Any], path: Path) -> Path:
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return path


def _plot(
    tries: Sequence[Any], best: Any, manifest: Mapping[str, Any], step: int, path: Path
) -> Path:
    from ppema.plots import SweepPoint, plot_sweep

    points = [SweepPoint(t.target.sigma_rel, t.residual, t.evaluation.top1) for t in tries]
    # Figures of the same step only: others would be of other weights.
    metrics = manifest["metrics"] if manifest["step"] == step else {}
    others = {name: figures["top1"] for name, figures in metrics.items()}
    title = f"{manifest['config']}: averages made after the run, as of step {step}"
    plot_sweep(points, points[tries.index(best)], others, title, path)
    return path


if __name__ == "__main__":
    run_tool(main)
