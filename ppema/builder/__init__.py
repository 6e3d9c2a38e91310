"""From a config to the objects of a run: the only package that knows both."""

from .after_run import make_candidates, posthoc_targets
from .catalog import CATALOG, read_config
from .parallel_averaging import ParallelAveraging, worker_config
from .parts import check, identity, make_loss, make_model, select_place
from .plots import NUM_MISTAKES, chosen, plot_evaluation, plots_folder
from .processes import find_together, joined, load_in_turn, make_signals
from .run import describe_run, is_schedule_other, make_hooks, make_trainer, run_folder
from .run_data import (
    RunData,
    load_data,
    load_eval_data,
    load_validation_data,
    make_eval_reader,
    note_on,
    note_on_run,
)
from .served import Served, check_images, load_served
from .trial import try_one_batch

__all__ = [
    "CATALOG",
    "NUM_MISTAKES",
    "ParallelAveraging",
    "RunData",
    "Served",
    "check",
    "check_images",
    "chosen",
    "describe_run",
    "find_together",
    "identity",
    "is_schedule_other",
    "joined",
    "load_data",
    "load_eval_data",
    "load_in_turn",
    "load_served",
    "load_validation_data",
    "make_candidates",
    "make_eval_reader",
    "make_hooks",
    "make_loss",
    "make_model",
    "make_signals",
    "make_trainer",
    "note_on",
    "note_on_run",
    "plot_evaluation",
    "plots_folder",
    "posthoc_targets",
    "read_config",
    "run_folder",
    "select_place",
    "try_one_batch",
    "worker_config",
]
