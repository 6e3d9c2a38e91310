"""Stochastic weight averaging in parallel: the phases of a config with the section Swap.

Source: Gupta, Serrano, DeCoste, https://arxiv.org/abs/2001.02312.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Callable, Optional

from ..averaging import ranks
from ..checkpoint import BEST, FINAL, Checkpoint, CheckpointStore
from ..checkpoint.files import replace_file
from ..checkpoint.store import remove
from ..config import Config
from ..data.seeding import seed_of_worker
from ..engine.phases import (
    PHASE_1,
    find_ended,
    find_final,
    is_worker_name,
    training_accuracy,
    weights_facts,
    worker_name,
)
from ..engine.record import METRICS
from ..engine.resume import find_start, finish, is_finished, prepare_folder
from ..engine.run_facts import require_continued_facts
from ..engine.run_folder import CONFIG, LOG
from ..engine.view_hooks import CURVES
from ..errors import CheckpointError, ConfigError
from .parts import check, run_length
from .run import run_folder
from .run_data import load_data
from .workers_mean import save_mean

logger = logging.getLogger(__name__)

# Between looks for what other processes have done.
_LOOK_S = 0.5
# Trains, or continues, the run of a config in its folder; one that starts does so from the
# weights, and on the data, of the checkpoint where one is given.
TrainRun = Callable[[Config, Optional[Checkpoint]], None]


def phase_1_config(config: Config) -> Config:
    """Return the config of phase 1: an ordinary run, but for the goal that ends it."""
    return replace(config, name=f"{config.name}/{PHASE_1}")


def worker_config(config: Config, worker: int) -> Config:
    """Return the config of one worker, counted from 0: an ordinary run with a seed of its own."""
    alone = config.of_workers
    assert alone is not None
    name = f"{config.name}/{worker_name(worker)}"
    return replace(alone, name=name, seed=seed_of_worker(alone.seed, worker))


def parts_of(config: Config) -> list[Config]:
    """Return the configs of the runs that make one: phase 1 and each worker, or the run itself."""
    if config.Swap is None:
        return [config]
    workers = (worker_config(config, worker) for worker in range(config.Swap.workers))
    return [phase_1_config(config), *workers]


class ParallelAveraging:
    """Run the phases of a config with the section Swap.

    `prepare`, then `run_phase_1`, then each worker by `run_worker`, then `average_workers`; `run`
    calls the last three. Nothing but files goes from one to the next, so each may be called in
    another process, once those before it are done. What is done already is left as it is.

    Args:
        config: with the section Swap.
        train: see TrainRun.
        with_evaluation: evaluate the mean, and the weights it is to be compared with.
    """

    def __init__(self, config: Config, train: TrainRun, with_evaluation: bool) -> None:
        assert config.Swap is not None
        assert config.of_workers is not None
        self._config, self._swap, self._alone = config, config.Swap, config.of_workers
        self._train, self._with_evaluation = train, with_evaluation
        self._folder = run_folder(config)
        self._store = CheckpointStore(self._folder, config.keep_checkpoint_max)

    def run(self) -> None:
        """Run all phases; of several processes, the first averages what all have trained."""
        self.run_phase_1()
        is_first = ranks.is_first()
        own = range(ranks.rank(), self._swap.workers, ranks.num_ranks())
        with ranks.alone():
            for worker in own:
                self.run_worker(worker)
            if is_first:
                self._wait_for_workers()
                self.average_workers()

    def prepare(self, resume: Optional[str], overwrite: bool) -> None:
        """Check the configs of all phases, and see to what the folder holds.

        `resume` is what `-r` says. Without it a folder with a checkpoint is refused, or cleared
        where `overwrite` allows it.

        Raises:
            ConfigError: a config is wrong, or the folder holds what may not be lost.
            DataError: (before anything is cleared) there are no data to start with.
        """
        if resume not in (None, "auto") and Path(resume).resolve() != self._folder.resolve():
            raise ConfigError(
                f"-r {resume}: a run with the section Swap goes on from what its own folder "
                "holds; give -r auto, or pretrain_weights to begin at other weights"
            )
        check(self._config)
        check(self._alone)
        self._store.put_back()
        if resume is None:
            self._begin(overwrite)
        newest = self._store.newest()
        if newest is not None and "workers" not in newest.manifest:
            raise ConfigError(
                f"{self._folder} holds a run without the section Swap; give another save_dir, or "
                "start again with --overwrite"
            )
        self._store.clear_leftovers()
        replace_file(self._folder / CONFIG, self._config.dump().encode())

    def run_phase_1(self) -> None:
        """Train all together, until the goal or the last epoch."""
        config, goal = self._config, self._swap.until_accuracy
        part = phase_1_config(config)
        ended = find_ended(run_folder(part))
        if ended is None:
            logger.info(
                "phase 1 of 3, %s: until a training accuracy of %g %%, at most %d epochs; %d "
                "images a step",
                *(run_folder(part), 100 * goal, config.epoch, _images_per_step(config)),
            )
            self._train(part, None)
        else:
            if ranks.is_first():
                # What a kill between a save and its links left out.
                store = CheckpointStore(run_folder(part), config.keep_checkpoint_max)
                prepare_folder(store, ended, is_done=True)
            ranks.barrier()
        start = self._end_of_phase_1()
        accuracy = training_accuracy(start)
        logger.info(
            "phase 1 ended with epoch %d, step %d: training accuracy %.2f %%, %s %g %%",
            *(start.manifest["epoch"], start.step, 100 * accuracy),
            *("which reaches" if accuracy >= goal else "short of", 100 * goal),
        )

    def run_worker(self, worker: int) -> None:
        """Train one worker, counted from 0, alone from the weights that phase 1 ends with.

        Raises:
            CheckpointError: phase 1 has not ended, or the worker began at other weights.
        """
        start, part = self._end_of_phase_1(), worker_config(self._config, worker)
        store = CheckpointStore(run_folder(part), part.keep_checkpoint_max)
        newest = store.newest()
        if newest is not None and newest.manifest.get("parent") != weights_facts(start):
            raise CheckpointError(
                f"{newest.path}: did not begin at the weights of {start.path}; take its folder "
                "away, or start again with --overwrite"
            )
        if newest is not None and is_finished(newest, part.epoch):
            finish(store, newest, part.epoch)
            return
        logger.info(
            "phase 2 of 3, %s: one of %d workers, alone for %d epochs; %d images a step, seed %d",
            *(run_folder(part), self._swap.workers, part.epoch, _images_per_step(part), part.seed),
        )
        self._train(part, start)

    def average_workers(self) -> None:
        """Average what the workers end with, compute BN anew, evaluate, and save it.

        Raises:
            CheckpointError: a phase has not ended, or a file is damaged.
            NonFiniteError: the mean, or a BN statistic of it, is not finite.
        """
        start = self._end_of_phase_1()
        finals = [find_final(run_folder(part)) for part in parts_of(self._config)[1:]]
        for final in finals:
            require_continued_facts(final)
        save_mean(self._config, self._store, start, finals, self._with_evaluation)

    def _wait_for_workers(self) -> None:
        """Wait for the workers of other processes; should one of those die, the launcher ends all.

        By the files alone: what waits for a message gives up after half an hour.
        """
        for worker in range(self._swap.workers):
            while not _is_done(worker_config(self._config, worker)):
                time.sleep(_LOOK_S)

    def _end_of_phase_1(self) -> Checkpoint:
        folder = run_folder(phase_1_config(self._config))
        ended = find_ended(folder)
        if ended is None:
            raise CheckpointError(f"{folder}: has not ended; continue it with -r auto")
        require_continued_facts(ended)
        return ended

    def _parts(self) -> list[Path]:
        """Return the folders of runs in the folder, also of workers that are no more."""
        entries = self._folder.iterdir() if self._folder.is_dir() else ()
        workers = sorted(entry for entry in entries if is_worker_name(entry.name))
        return [self._folder / PHASE_1, *workers]

    def _begin(self, overwrite: bool) -> None:
        """Clear the folder, where nothing is lost or `overwrite` allows it."""
        stores = [self._store, *(CheckpointStore(folder, keep=1) for folder in self._parts())]
        for store in stores:
            # Refuses a folder that holds a checkpoint.
            find_start(store, None, overwrite)
        if any(store.steps() for store in stores):
            # What there is should not be lost to data that are missing.
            load_data(self._config, None)
        for link in (BEST, FINAL):
            self._store.unlink(link)
        for step in self._store.steps():
            remove(self._store.path(step))
        # The last first: what a kill leaves is a beginning, which -r auto takes up.
        for folder in reversed(self._parts()):
            remove(folder)
        for name in (METRICS, LOG, CURVES):
            remove(self._folder / name)


def _is_done(config: Config) -> bool:
    """Tell whether a run has come to the end that its config says, and not to an earlier one."""
    # Its process may be at work in the folder at this moment.
    with contextlib.suppress(CheckpointError):
        final = CheckpointStore(run_folder(config), keep=1).linked(FINAL)
        return final is not None and is_finished(final, config.epoch)
    return False


def _images_per_step(config: Config) -> int:
    return run_length(config, steps_per_epoch=1).images_per_step
