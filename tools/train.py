"""Train a model and its averages: python tools/train.py -c configs/lenet_mnist.yml --eval"""

from __future__ import annotations

import argparse
import logging
from contextlib import nullcontext
from typing import Any, Sequence

from ppema.console import (
    ArgumentParser,
    Screen,
    import_paddle,
    log_to,
    parse_bool,
    run_tool,
)
from ppema.launch import launched_rank

logger = logging.getLogger("ppema.train")


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments; flags that set config keys are appended to `-o`."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--eval", action="store_true", help="evaluate at the end of each epoch")
    parser.add_argument(
        "-r",
        "--resume",
        metavar="PATH",
        help="continue: a run folder, a checkpoint, or auto (this run's newest, if any)",
    )
    parser.add_argument(
        "--accept",
        nargs="+",
        action="extend",
        default=[],
        choices=("model", "optimizer", "schedule", "data"),
        metavar="PART",
        help="with -r, go on although this is another one than the checkpoint's: model (where all "
        "weights fit), optimizer (its state starts anew), schedule (as it stands at this step), "
        "data (the epoch starts anew)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="drop the checkpoints that are in the way"
    )
    parser.add_argument(
        "--use_vdl", nargs="?", const=True, type=parse_bool, metavar="BOOL", help="write VisualDL"
    )
    parser.add_argument("--vdl_log_dir", metavar="DIR", help="where VisualDL's records go")
    parser.add_argument("--amp", action="store_true", help="mixed precision, amp: O1")
    parser.add_argument(
        "--check", action="store_true", help="print the merged config and where each value is from"
    )
    arguments = parser.parse_args(argv)
    if arguments.accept and arguments.resume is None:
        parser.error("--accept says what may differ from the checkpoint of -r; give -r too")
    if arguments.use_vdl is not None:
        arguments.opt.append(f"use_vdl={str(arguments.use_vdl).lower()}")
    if arguments.vdl_log_dir is not None:
        arguments.opt.append(f"vdl_log_dir={arguments.vdl_log_dir}")
    if arguments.amp:
        arguments.opt.append("amp=O1")
    return arguments


def main(argv: Sequence[str]) -> int:
    """Train, or check the config, as the arguments say; return the exit code."""
    arguments = parse_arguments(argv)
    if arguments.check:
        return check(arguments)
    if launched_rank() > 0:
        # Folder, lock and log are the first process's.
        import_paddle()
        from ppema import builder

        run(builder.read_config(arguments.config, arguments.opt), arguments)
        return 0
    from ppema.config import find_run_folder
    from ppema.run_lock import hold_if_used

    # Who comes second is told at once: Paddle, which a config's classes need, takes a second.
    with hold_if_used(find_run_folder(arguments.config, arguments.opt)) as lock:
        import_paddle()
        from ppema import builder
        from ppema.engine.run_folder import open_run_folder

        config = builder.read_config(arguments.config, arguments.opt)
        with open_run_folder(builder.run_folder(config), lock):
            run(config, arguments)
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Print the merged config, where it is right; return the exit code."""
    import_paddle()
    from ppema import builder
    from ppema.config import render

    config = builder.read_config(arguments.config, arguments.opt)
    builder.check(config)
    if config.of_workers is not None:
        builder.check(config.of_workers)
    print(render(config), end="")
    if config.of_workers is not None:
        print(f"---\n# Swap: each worker alone\n{render(config.of_workers)}", end="")
    return 0


def run(config: Any, arguments: argparse.Namespace) -> None:
    """Train in the run's folder, which this process or the first of several holds."""
    from ppema import builder

    log_to(Screen())
    with builder.joined(builder.select_place(config)):
        if config.Swap is None:
            train(config, arguments)
        else:
            train_in_phases(config, arguments)


def train_in_phases(config: Any, arguments: argparse.Namespace) -> None:
    """Do what the section Swap says, in the folder of the whole.

    Of several processes all do phase 1 together, and each every so-manieth worker.
    """
    from ppema import builder
    from ppema.averaging import ranks
    from ppema.engine.run_folder import LOG, LateLogFile, open_run_folder

    folder = builder.run_folder(config)
    # A part that has begun goes on; what may be lost is seen to for all of them at once.
    of_part = {**vars(arguments), "resume": arguments.resume and "auto", "overwrite": False}

    def train_part(part: Any, parent: Any) -> None:
        # Of several processes that train the part, the first holds its folder.
        holding = open_run_folder(builder.run_folder(part)) if ranks.is_first() else nullcontext()
        with holding:
            train(part, argparse.Namespace(**of_part), parent)
        log_into_folder()

    def log_into_folder() -> None:
        if ranks.is_first():
            log_file = LateLogFile()
            log_to(Screen(), log_file)
            log_file.open(folder / LOG)

    phases = builder.ParallelAveraging(config, train_part, arguments.eval)
    if ranks.is_first():
        phases.prepare(arguments.resume, arguments.overwrite)
        log_into_folder()
    ranks.barrier()
    phases.run()


def train(config: Any, arguments: argparse.Namespace, parent: Any = None) -> None:
    """Train one run, with the other processes where they train together.

    A run that starts does so from the weights of `parent`, a checkpoint of another on the same
    data, where it is given.
    """
    from ppema import builder
    from ppema.averaging import ranks
    from ppema.checkpoint import CheckpointStore
    from ppema.engine import resume
    from ppema.engine.run_facts import require_continued_facts
    from ppema.engine.run_folder import LateLogFile
    from ppema.progress import ProgressLine

    log_file = LateLogFile()
    log_to(Screen(), log_file)
    place = builder.select_place(config)
    store = CheckpointStore(builder.run_folder(config), config.keep_checkpoint_max)
    start = builder.find_together(
        lambda: resume.find_start(store, arguments.resume, arguments.overwrite)
    )
    anew: set[str] = set()
    if start is not None:
        require_continued_facts(start)
        if resume.is_finished(start, config.epoch):
            if ranks.is_first():
                resume.finish(store, start, config.epoch)
            return
        anew = resume.changed_parts(
            start.manifest["identity"], builder.identity(config), arguments.accept
        )
    data = builder.load_in_turn(
        lambda: load_data(config, start or parent, "data" in arguments.accept)
    )
    if start is not None:
        anew |= resume.changed_data(start.manifest["data"], data.facts(config))
    signals = builder.make_signals()
    trainer = builder.make_trainer(config, data, start, parent)
    line = ProgressLine("training")
    trainer.hooks = builder.make_hooks(
        config, data, store, trainer.steps_per_epoch, line, arguments.eval, signals, parent
    )
    builder.try_one_batch(config, trainer, data)
    if start is not None:
        put_back(config, trainer, start, resume.is_of(start, store), anew)
    # All have read what may now be moved.
    ranks.barrier()
    if ranks.is_first():
        prepare_folder(config, store, start, log_file)
    builder.describe_run(config, trainer, data, place, start)
    with signals:
        trainer.train()


def prepare_folder(config: Any, store: Any, start: Any, log_file: Any) -> None:
    """Make the run's folder ready, with its log and config."""
    from ppema.checkpoint.files import replace_file
    from ppema.engine import resume
    from ppema.engine.run_folder import CONFIG, LOG

    resume.prepare_folder(store, start, is_done=False)
    log_file.open(store.folder / LOG)
    replace_file(store.folder / CONFIG, config.dump().encode())


def put_back(config: Any, trainer: Any, start: Any, is_own: bool, anew: set[str]) -> None:
    """Put the run back to where its checkpoint is; a schedule that moved begins, at this step."""
    from ppema import builder
    from ppema.engine.run_state import restore

    if builder.is_schedule_other(config, trainer, start):
        anew = {*anew, "schedule"}
    restore(trainer, start, is_own=is_own, anew=anew)


def load_data(config: Any, start: Any, accepts_others: bool) -> Any:
    """Return the data of the run; those of another are refused with the option that takes them."""
    from ppema import builder
    from ppema.engine.resume import ACCEPTABLE
    from ppema.errors import DataError, OtherDataError

    try:
        return builder.load_data(config, start, accepts_others)
    except OtherDataError as error:
        raise DataError(f"{error}; --accept data {ACCEPTABLE['data']}") from None


if __name__ == "__main__":
    run_tool(main, shares_work=True)
