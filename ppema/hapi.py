"""Average the weights in `paddle.Model.fit`; evaluate, predict and save with the average."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any, Callable, Iterable, Iterator, Mapping, Optional, Union

import paddle

from .averaging import ArgumentError, WeightAverage
from .averaging.decay import require_whole
from .checkpoint import read_weight_file, replace_weight_file
from .errors import CheckpointError

logger = logging.getLogger(__name__)

_LOOP = "_run_one_epoch"


class WeightAverageCallback(paddle.callbacks.Callback):
    """Move an average in `Model.fit`; put it into the model in evaluation and prediction.

    The average moves once after each step of the optimizer given to `prepare`, before any callback
    looks: not on a batch that only accumulates gradients, nor on a step that the AMP scaler left
    out. One without updates starts from the weights that the model has when training begins.

    From the first to the last batch of an evaluation, in `fit`, `evaluate` or `predict`, the model
    holds the average; at any other time, and whatever is raised, it holds the raw weights. So the
    figures that Paddle reports, and stops early by, are the average's, and what it saves is raw,
    `best_model` too. The order of the callbacks does not matter.

    With `save_dir` the average is saved at the end of epochs, before they are evaluated, and of the
    training: `<epoch>_average.pdparams` and `final_average.pdparams` are the model's weights,
    ready to serve; from `…_average.pdstates` beside them `load` continues.

    Args:
        average: made over `model.network`.
        save_dir: a folder, which may be the one given to `fit`; None saves nothing.
        save_freq: save at every so many epochs, counted from the first.
        recompute_loader: what `update_bn` takes, and can run through again and again; for an
            average with `buffers="recompute"`, whose BN statistics are computed on all of it
            before an evaluation and before a save.

    Raises:
        TypeError: not an average.
        ArgumentError: save_freq is not a whole number above 0, or a recompute_loader is missing
            or can be run through only once.
    """

    def __init__(
        self,
        average: WeightAverage,
        save_dir: Optional[Union[str, Path]] = None,
        save_freq: int = 1,
        *,
        recompute_loader: Optional[Iterable[Any]] = None,
    ) -> None:
        super().__init__()
        if not isinstance(average, WeightAverage):
            raise TypeError(f"average must be a ppema.WeightAverage, got {type(average).__name__}")
        require_whole("save_freq", save_freq)
        if average.recomputes and not _can_repeat(recompute_loader):
            raise ArgumentError(
                "recompute_loader",
                'given for an average with buffers="recompute": a DataLoader or a list of batches',
                recompute_loader,
            )
        self.average = average
        self.save_dir = None if save_dir is None else Path(save_dir)
        self.save_freq = save_freq
        self.recompute_loader = recompute_loader

    def load(self, path: Union[str, Path]) -> None:
        """Continue the average that was saved under `path`, and nothing else of the run.

        `path` is what `model.load` takes for the raw weights: `<save_dir>/<epoch>` or
        `<save_dir>/final`. The file is read without running what it asks for. `fit` then counts
        epochs from 0 again: another folder keeps the files of before.

        Raises:
            CheckpointError: no such file, damaged, or of another average or model.
            RuntimeError: the average is applied at the moment.
        """
        file = _file(Path(path), "pdstates")
        state = read_weight_file(file)
        try:
            self.average.set_state_dict(state)
        except ValueError as error:
            raise CheckpointError(f"{file}: {error}") from None

    def set_model(self, model: Any) -> None:
        """Take the model from `fit`, `evaluate` or `predict`, and have its loop run with averages.

        Raises:
            RuntimeError: static-graph mode, or an average is applied at the moment.
            ValueError: the average is of another model.
        """
        if not paddle.in_dynamic_mode():
            raise RuntimeError(
                "WeightAverageCallback needs dynamic-graph mode; "
                "call paddle.disable_static() before building the network"
            )
        if self.average.model is not model.network:
            raise ValueError("the average is of another model; make it over model.network")
        if self.average.is_applied:
            raise RuntimeError("an average is applied to this model; call its restore() first")
        super().set_model(model)
        _watch_loop(model)

    def on_epoch_end(self, epoch: int, logs: Optional[Mapping[str, Any]] = None) -> None:
        """Save the epoch's average."""
        if epoch % self.save_freq == 0:
            self._save(str(epoch))

    def on_train_end(self, logs: Optional[Mapping[str, Any]] = None) -> None:
        """Save the last average."""
        self._save("final")

    @contextmanager
    def _around_loop(self, mode: str) -> Iterator[None]:
        """Hold for one pass over the data: update in mode train, else put the average in."""
        if self.average.num_updates == 0:
            # Made before the model was loaded, it would remember weights of before.
            self.average.register()
        if mode != "train":
            self._refresh()
            with self.average.average_parameters():
                yield
            return
        # Without an optimizer, Model.train_batch says what is missing.
        optimizer = self.model._optimizer
        if optimizer is None or self.average.is_attached_to(optimizer):
            yield
            return
        # In line: a callback of the user's may write to the weights after each batch.
        self.average.attach(optimizer, overlap=False)
        try:
            yield
        finally:
            self.average.detach()

    def _refresh(self) -> None:
        if self.average.is_stale:
            assert self.recompute_loader is not None
            self.average.recompute_statistics(self.recompute_loader)

    def _save(self, name: str) -> None:
        if self.save_dir is None:
            return
        self._refresh()
        if paddle.distributed.ParallelEnv().local_rank != 0:
            return
        prefix = self.save_dir / name
        contents = {
            "pdparams": self.average.averaged_state_dict(),
            "pdstates": self.average.state_dict(),
        }
        for kind, content in contents.items():
            replace_weight_file(_file(prefix, kind), content)
            logger.info("saved %s", _file(prefix, kind))


def _watch_loop(model: Any) -> None:
    """Have the model run every pass over data, of whatever mode, through `_run_with_average`."""
    # Paddle tells no callback that a pass ended by an exception. On the model itself, not on its
    # class, because other models are none of our business; it holds no callback and so no average.
    run = MethodType(getattr(type(model), _LOOP), model)
    setattr(model, _LOOP, partial(_run_with_average, run))


def _run_with_average(
    run: Callable[..., Any], data_loader: Any, callbacks: Any, mode: str, *arguments: Any
) -> Any:
    """Run a model's own loop, inside the average of the callback that takes part in it."""
    ours = [callback for callback in callbacks if isinstance(callback, WeightAverageCallback)]
    if not ours:
        return run(data_loader, callbacks, mode, *arguments)
    if len(ours) > 1:
        raise RuntimeError(
            f"{len(ours)} WeightAverageCallbacks in one call, but a model holds one average at a "
            "time; keep one, and evaluate the others on their own"
        )
    with ours[0]._around_loop(mode):
        return run(data_loader, callbacks, mode, *arguments)


def _can_repeat(loader: Any) -> bool:
    """Tell whether a loader yields batches more than once; a generator does not."""
    is_iterable = isinstance(loader, Iterable) and not isinstance(loader, paddle.io.Dataset)
    return is_iterable and not isinstance(loader, Iterator)


def _file(prefix: Path, kind: str) -> Path:
    # No dot before the kind: Model.load refuses a prefix such as 0.average.
    return prefix.with_name(f"{prefix.name}_average.{kind}")
