"""What a checkpoint of a run holds, and how a trainer is put back to it."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, Callable, Collection, Mapping, Sequence

import numpy as np

from ..averaging import WeightAverage, ranks, schedule_state, set_schedule_state
from ..averaging.fit import fitting_numbers
from ..checkpoint import (
    Checkpoint,
    load_strictly,
    load_structured_optimizer_state,
    require_finite,
    structured_optimizer_state,
)
from ..errors import CheckpointError
from .resume import is_open
from .rng import branch_off, rng_from_json, rng_to_json
from .totals import Totals
from .trainer import Trainer

logger = logging.getLogger(__name__)

MODEL_FILE = "model.pdparams"
OPTIMIZER_FILE = "optimizer.pdopt"
STATE_FILE = "state.pdstates"

# The role of an average whose BN statistics are of earlier weights: a signal left no time for them.
STALE = "stale average"

# Where a trainer stands: `samples` of the epoch's order are consumed.
_PROGRESS = ("step", "epoch", "samples")
_SKIPS = "skips_in_a_row"


def average_file(name: str) -> str:
    """Return the file that holds the average of this name."""
    return f"{name}.pdparams"


def rank_state(trainer: Trainer) -> dict[str, Any]:
    """Return what each rank has of its own: its share of the totals, its random numbers."""
    return {"totals": trainer.totals.state_dict(), "rng": rng_to_json()}


def checkpoint_files(
    trainer: Trainer, of_ranks: Sequence[Mapping[str, Any]] = ()
) -> dict[str, tuple[str, Callable[[], Any]]]:
    """Return name -> (role, maker of the contents) of every file of a checkpoint.

    `of_ranks` is the `rank_state` of each rank, that of this one without.

    Raises:
        RuntimeError: an average is applied at the moment.
        NonFiniteError: (from a maker) a weight is NaN or infinite; it is not written.
    """
    for name, average in trainer.averages.items():
        if average.is_applied:
            raise RuntimeError(
                f"a checkpoint needs the raw weights, but {name} or another average is applied; "
                "call restore() first"
            )
    files: dict[str, tuple[str, Callable[[], Any]]] = {
        MODEL_FILE: ("raw", lambda: _finite(trainer.model.state_dict()))
    }
    for name, average in trainer.averages.items():
        role = STALE if average.is_stale else "average"
        files[average_file(name)] = (role, partial(_finite_average, average))
    files[OPTIMIZER_FILE] = (
        "optimizer",
        lambda: _finite(structured_optimizer_state(trainer.optimizer, trainer.model)),
    )
    files[STATE_FILE] = (
        "state",
        lambda: _trainer_state(trainer, of_ranks or [rank_state(trainer)]),
    )
    return files


def restore(
    trainer: Trainer,
    checkpoint: Checkpoint,
    is_own: bool = True,
    anew: Collection[str] = (),
) -> None:
    """Put model, optimizer, averages, schedule, generators and place in the epoch back.

    An average that the checkpoint lacks starts from the weights loaded; one that the trainer
    lacks is dropped; both with a line in the log. Hooks remember only what is of this run's own
    folder (`is_own`): the best of another one is not to be found here.

    Args:
        trainer: of the same model; its weights may be any.
        checkpoint: whole.
        is_own: see above.
        anew: what is another one than the checkpoint's, and begins: the state of the
            `optimizer`, the `schedule` (at this step), the epoch in the `data`, and the search
            for the `best`.

    Raises:
        CheckpointError: a file is damaged or does not fit.
    """
    source = checkpoint.path.name
    load_strictly(trainer.model, checkpoint.read(MODEL_FILE), f"{source}/{MODEL_FILE}")
    if "optimizer" in anew:
        logger.info("the state of the optimizer starts anew")
    else:
        load_structured_optimizer_state(
            trainer.optimizer,
            trainer.model,
            checkpoint.read(OPTIMIZER_FILE),
            f"{source}/{OPTIMIZER_FILE}",
        )
    state = checkpoint.read(STATE_FILE)
    try:
        _restore_averages(trainer.averages, state["averages"], checkpoint)
        _restore_progress(trainer, state["progress"], checkpoint, "data" in anew)
        source_of_state = f"{source}/{STATE_FILE}"
        _restore_schedule(trainer, state["lr_scheduler"], source_of_state, "schedule" in anew)
        _restore_rest(trainer, state, is_own, anew)
    # A file that is whole to the byte may still hold a state that no ppema wrote.
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        text = ascii(str(error)[:200])[1:-1]
        raise CheckpointError(
            f"{source}/{STATE_FILE}: does not fit ({type(error).__name__}: {text})"
        ) from error


def _restore_progress(
    trainer: Trainer, progress: Mapping[str, Any], checkpoint: Checkpoint, is_data_new: bool
) -> None:
    numbers = fitting_numbers(dict.fromkeys((*_PROGRESS, _SKIPS), 0), progress)
    for key in _PROGRESS:
        setattr(trainer, key, numbers[key])
    trainer.guard.skips_in_a_row = int(numbers[_SKIPS])
    trainer.is_open = is_open(checkpoint)
    is_epoch_end = checkpoint.manifest["is_epoch_end"]
    if trainer.is_open:
        trainer.is_epoch_end = is_epoch_end
        trainer.is_run_end = is_epoch_end and trainer.epoch == trainer.num_epochs
    elif is_epoch_end:
        # Not by the samples: with another batch size, drop_last would find a few more to train on.
        trainer.epoch, trainer.samples = trainer.epoch + 1, 0
    elif is_data_new:
        logger.info("epoch %d begins anew, with the other data", trainer.epoch)
        trainer.samples = 0
    # Steps are counted as they are now: batches may have been of another size.
    steps_left = trainer.steps_after(trainer.samples)
    trainer.step_in_epoch = trainer.steps_per_epoch - steps_left
    if steps_left == 0 and not trainer.is_epoch_end:
        raise CheckpointError(
            f"{checkpoint.path.name}: {trainer.samples} samples of epoch {trainer.epoch} are done, "
            "and no full batch is left; set TrainReader.drop_last: false, or a batch_size of no "
            "more images a step than the run had"
        )


def _restore_schedule(
    trainer: Trainer, state: Mapping[str, Any], source: str, is_new: bool
) -> None:
    if trainer.lr_scheduler is None:
        return
    if not is_new:
        try:
            set_schedule_state(trainer.lr_scheduler, state)
        except ValueError as error:
            raise CheckpointError(f"{source}: {error}") from None
        return
    # One by one: some schedules take their rate from the last.
    for _ in range(trainer.step):
        trainer.lr_scheduler.step()
    logger.info(
        "the schedule begins, as it stands after %d steps, with the rate %g",
        trainer.step,
        trainer.optimizer.get_lr(),
    )


def _restore_rest(
    trainer: Trainer, state: Mapping[str, Any], is_own: bool, anew: Collection[str]
) -> None:
    if trainer.scaler is not None and state["scaler"]:
        trainer.scaler.load_state_dict(state["scaler"])
    if trainer.gate is not None and state["gate"]:
        trainer.gate.set_state_dict(state["gate"])
    for hook in trainer.hooks:
        if is_own and hook.name in state["hooks"]:
            if hook.is_of_data and "best" in anew:
                logger.info("the best so far was so on other data; it does not count any more")
            else:
                hook.set_state_dict(state["hooks"][hook.name])
    _restore_rank(trainer, [state, *state.get("other_ranks", [])])


def _restore_rank(trainer: Trainer, of_ranks: Sequence[Mapping[str, Any]]) -> None:
    """Put back what this rank had of its own; where there were more or fewer, share it out anew."""
    if len(of_ranks) == ranks.num_ranks():
        own = of_ranks[ranks.rank()]
        trainer.totals = Totals.from_state(own["totals"])
        rng_from_json(own["rng"])
        return
    rng_of_first = of_ranks[0]["rng"]
    totals = Totals.from_states([own["totals"] for own in of_ranks])
    if ranks.is_first():
        trainer.totals = totals
        rng_from_json(rng_of_first)
    else:
        # As many steps as the first has: all log together, or none.
        trainer.totals = totals.without_sums()
        # Of the first rank's random numbers none may come twice in a step.
        branch_off(rng_of_first, ranks.rank())


def _trainer_state(trainer: Trainer, of_ranks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    schedule = schedule_state(trainer.lr_scheduler) if trainer.lr_scheduler else {}
    return {
        "progress": {
            **{key: getattr(trainer, key) for key in _PROGRESS},
            _SKIPS: trainer.guard.skips_in_a_row,
        },
        "totals": of_ranks[0]["totals"],
        "averages": {name: _average_state(avg) for name, avg in trainer.averages.items()},
        "lr_scheduler": _plain(schedule),
        "scaler": _plain(trainer.scaler.state_dict()) if trainer.scaler else {},
        "gate": trainer.gate.state_dict() if trainer.gate else {},
        "hooks": {hook.name: _plain(hook.state_dict()) for hook in trainer.hooks if hook.name},
        "rng": of_ranks[0]["rng"],
        **({"other_ranks": list(of_ranks[1:])} if of_ranks[1:] else {}),
    }


def _average_state(average: WeightAverage) -> dict[str, Any]:
    """Return the average's state without the shadows that its own weight file holds already."""
    state, model = average.state_dict(), average.model.state_dict()
    # Where the dtypes are the same, what is served is the shadow, bit for bit.
    kept = {name: s for name, s in state["shadow"].items() if s.dtype != model[name].dtype}
    return {**state, "shadow": kept}


def _restore_averages(
    averages: Mapping[str, WeightAverage], states: Mapping[str, Any], checkpoint: Checkpoint
) -> None:
    for name in states:
        if name not in averages:
            logger.info("average %s is not in the config any more; it is dropped", name)
    for name, average in averages.items():
        if name not in states:
            # Its start and points are of the run, which may be past them.
            average.register(checkpoint.step)
            logger.info("average %s is new; it starts from the weights of this checkpoint", name)
            continue
        served = checkpoint.read(average_file(name))
        state = dict(states[name])
        wanted = average.state_dict()["shadow"]
        filled = {key: served[key] for key in wanted if key in served}
        state["shadow"] = {**filled, **state["shadow"]}
        try:
            average.set_state_dict(state)
        except ValueError as error:
            raise CheckpointError(
                f"{checkpoint.path.name}: average {name}: {error}; under another name it "
                "starts anew"
            ) from None


def _served_state(average: WeightAverage) -> dict[str, Any]:
    """Return what `averaged_state_dict` does, but the memory of the tensors, where no cast is due.

    A copy of every weight would be as large as the file that it is written to.
    """
    model = average.model.state_dict()
    served = {}
    for name, shadow in average.state_dict()["shadow"].items():
        live = model[name]
        tensor = shadow if shadow.dtype == live.dtype else shadow.astype(live.dtype)
        # Paddle saves this name too.
        tensor.name = live.name
        served[id(live)] = tensor
    return {name: served.get(id(live), live) for name, live in model.items()}


def _finite_average(average: WeightAverage) -> dict[str, Any]:
    return _finite(_served_state(average))


def _finite(state: dict[str, Any]) -> dict[str, Any]:
    require_finite(state, "save")
    return state


def _plain(value: Any) -> Any:
    """Return the value in Python's own types: only those may stand in a checkpoint.

    Raises:
        TypeError: it holds something else.
    """
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")
