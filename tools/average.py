"""Make averages after training: python tools/average.py posthoc|soup … (each has --help)."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from ppema.console import ArgumentParser, Screen, import_paddle, log_to, run_tool, say
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
    parser.add_argument(
        "--leave_out",
        metavar="NAME",
        action="append",
        default=[],
        help="do without this average's snapshots; may be repeated",
    )
    _add_output(parser)
    arguments = parser.parse_args(argv)
    if arguments.verify is not None and arguments.output is not None:
        raise ConfigError("--verify writes nothing, so --output has no meaning with it")
    if arguments.overwrite and arguments.output is None:
        raise ConfigError("--overwrite is about the file of --output; name one")
    return arguments


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
    _require_free(arguments.output, arguments.overwrite, (".pdparams", ".json", ".png"))
    # Once the arguments are right: it takes a second.
    import_paddle()
    from ppema import builder
    from ppema.engine.posthoc import SnapshotSet, try_targets, verify
    from ppema.engine.resume import find_checkpoint

    config = builder.read_config(arguments.config, arguments.opt)
    place = builder.select_place(config)
    weights = config.weights if config.weights is not None else builder.run_folder(config)
    checkpoint = find_checkpoint(Path(weights or "''"))
    left_out = [*arguments.leave_out, *([arguments.verify] if arguments.verify else [])]
    run, manifest = checkpoint.path.parent, checkpoint.manifest
    snapshots = SnapshotSet(run, manifest, arguments.step, left_out)
    note = builder.note_on_run(manifest)
    say(f"{run}: {snapshots}; place: {place}{note}")
    if arguments.verify:
        print(verify(arguments.verify, snapshots, manifest))
        return 0
    widths = [arguments.sigma_rel] if arguments.sweep is None else arguments.sweep or SWEEP_WIDTHS
    targets = builder.posthoc_targets(manifest, widths, arguments.half_life)
    candidates = builder.make_candidates(config, checkpoint)
    tries: list[Any] = []
    for trial in try_targets(targets, snapshots, candidates):
        print(f"{trial}{note}")
        _warn_of_residual(trial, snapshots)
        tries.append(trial)
    written = _write_best(tries, snapshots, candidates, checkpoint, arguments)
    print(f"written: {', '.join(map(str, written))}")
    return 0


def _write_best(
    tries: Sequence[Any],
    snapshots: Any,
    candidates: Any,
    checkpoint: Any,
    arguments: argparse.Namespace,
) -> list[Path]:
    """Write the best weights, a record of all, and of several a picture; return the files."""
    best = max(tries, key=lambda trial: trial.evaluation.rank)
    without = [f"_without_{name}" for name in arguments.leave_out]
    tail = f"_step_{snapshots.step:09d}{''.join(without)}"
    folder, is_sweep = checkpoint.path.parent / "posthoc", len(tries) > 1
    output = arguments.output or folder / f"{best.target.file_stem}{tail}.pdparams"
    report = folder / f"sweep{tail}" if is_sweep and not arguments.output else output
    candidates.load(snapshots.combine(best.coefficients), str(best.target))
    candidates.save(output)
    data = checkpoint.manifest["data"]
    facts = {
        "step": snapshots.step,
        "update": snapshots.time,
        "left_out": arguments.leave_out,
        "data": data.get("validation", data["eval"]),
        "best": best.facts(),
        "tries": [trial.facts() for trial in tries],
    }
    written = [output, _write_json(facts, _beside(report, ".json"))]
    if is_sweep:
        print(f"best: {best}")
        written.append(_plot(tries, best, checkpoint, snapshots.step, _beside(report, ".png")))
    return written


def soup(argv: Sequence[str]) -> int:
    """Make the mean of weight files, of all or of those that help, and write it."""
    arguments = soup_arguments(argv)
    output = arguments.output or Path("soup.pdparams")
    if output.resolve() in {Path(file).resolve() for file in arguments.files}:
        raise ConfigError(f"{output} goes into the soup; name another --output")
    _require_free(output, arguments.overwrite, (".pdparams", ".json"))
    import_paddle()
    from ppema.checkpoint import replace_weight_file
    from ppema.engine.soup import cook_uniformly, has_batch_norm, read_ingredients

    states = read_ingredients(arguments.files)
    if arguments.config is not None:
        return _soup_with_config(arguments, states, output)
    replace_weight_file(output, cook_uniformly(states))
    record = _write_json({"ingredients": list(states)}, _beside(output, ".json"))
    print(f"uniform soup of {len(states)}\nwritten: {output}, {record}")
    if has_batch_norm(states):
        logger.warning(
            "the BatchNorm statistics are means too; with -c they are computed for the soup"
        )
    return 0


def _soup_with_config(arguments: argparse.Namespace, states: Any, output: Path) -> int:
    from ppema import builder
    from ppema.engine.soup import cook_greedily, cook_uniformly

    config = builder.read_config(arguments.config, arguments.opt)
    place = builder.select_place(config)
    candidates = builder.make_candidates(config)
    say(f"place: {place}; data: {candidates.source}")
    if candidates.recomputes:
        batches = config.recompute_batches
        say(f"BatchNorm statistics are computed anew for each on {batches} training batches")
    if arguments.greedy:
        state, ingredients = cook_greedily(states, candidates, print)
    else:
        state, ingredients = cook_uniformly(states), list(states)
        for name, ingredient in states.items():
            print(f"{name}: {candidates.evaluate(ingredient, name)}")
    evaluation = candidates.evaluate(state, "the soup")
    candidates.save(output)
    facts = {"ingredients": ingredients, "data": candidates.source, **evaluation.as_dict()}
    record = _write_json(facts, _beside(output, ".json"))
    print(f"soup: {evaluation}\nwritten: {output}, {record}")
    return 0


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, metavar="FILE", help="where the weights go")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the file that --output names"
    )


def _require_free(output: Optional[Path], overwrite: bool, kinds: Sequence[str]) -> None:
    """Refuse to write over files that were not made for this."""
    if output is None:
        return
    if output.is_dir() or not output.name:
        raise ConfigError(f"--output {output}: is a directory; a file is needed")
    folder = output.absolute().parent
    if (folder / "manifest.json").exists() or folder.name == "snapshots":
        raise ConfigError(f"{output} is a file of a run, or lies among them; name another --output")
    for kind in kinds:
        there = output if kind == ".pdparams" else _beside(output, kind)
        if there.exists() and not overwrite:
            raise ConfigError(f"{there} is there already; name another --output, or --overwrite")


def _warn_of_residual(trial: Any, snapshots: Any) -> None:
    if trial.residual <= LARGE_RESIDUAL:
        return
    near = snapshots.steps_near()
    advice = "another width among the Averages, or a smaller posthoc_every, would reach it"
    if snapshots.step not in near:
        advice = f"take a step at which there is a snapshot ({', '.join(map(str, near))})"
    logger.warning(
        "%s is not met (residual %.3g %%); %s", trial.target, 100 * trial.residual, advice
    )


def _beside(path: Path, suffix: str) -> Path:
    """Return the file of another kind that belongs to a weight file."""
    return path.with_name(path.name.removesuffix(".pdparams") + suffix)


def _write_json(facts: Mapping[str, Any], path: Path) -> Path:
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return path


def _plot(tries: Sequence[Any], best: Any, checkpoint: Any, step: int, path: Path) -> Path:
    from ppema.builder import note_on_run
    from ppema.plots import SweepPoint, plot_sweep

    points = [SweepPoint(t.target.sigma_rel, t.residual, t.evaluation.top1) for t in tries]
    # Figures of the same step only: others would be of other weights.
    metrics = checkpoint.manifest["metrics"] if checkpoint.step == step else {}
    others = {name: figures["top1"] for name, figures in metrics.items()}
    name = f"{checkpoint.manifest['config']}{note_on_run(checkpoint.manifest)}"
    title = f"{name}: averages made after the run, as of step {step}"
    plot_sweep(points, points[tries.index(best)], others, title, path)
    return path


if __name__ == "__main__":
    run_tool(main)
