"""Evaluate weights that were made rather than trained, one set after another in one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Iterable, Mapping

from ..averaging import update_bn
from ..averaging.batch_norm import batch_norm_layers
from ..checkpoint import load_strictly, replace_weight_file
from ..fast_cpu import FastLayers
from ..metrics import Evaluation
from .evaluate import evaluate


class Candidates:
    """Put sets of weights into a model and evaluate them; BN statistics are computed anew.

    Args:
        model: a paddle.nn.Layer, also an attribute; it holds the candidate that was loaded last.
        loss_fn: called with logits and labels, gives a scalar.
        eval_reader: the evaluation data.
        train_batches: gives the batches that a model with BN computes its statistics on: means
            of variances, and sums with negative coefficients, are none.
        source: what the evaluation data are, for people.
        fast_cpu: on a CPU, layers take the faster forms of `fast_cpu.py`; the bits are the same.
    """

    def __init__(
        self,
        model: Any,
        loss_fn: Callable[..., Any],
        eval_reader: Any,
        train_batches: Callable[[], Iterable[Any]],
        source: str,
        fast_cpu: bool = True,
    ) -> None:
        self.model, self._loss_fn = model, loss_fn
        self._eval_reader, self._train_batches = eval_reader, train_batches
        self.source = source
        self._fast_layers = FastLayers(model, fast_cpu)

    def evaluate(self, state: Mapping[str, Any], source: str) -> Evaluation:
        """Load the weights, in the model's own dtypes, compute BN anew, and evaluate.

        Raises:
            CheckpointError: they do not fit; the text begins with `source`.
            NonFiniteError: a weight is NaN or infinite.
        """
        self.load(state, source)
        return self.evaluate_loaded(source)

    def evaluate_loaded(self, source: str) -> Evaluation:
        """Evaluate what the model holds.

        Raises:
            NonFiniteError: a weight is NaN or infinite.
        """
        with self._fast_layers.in_use():
            return evaluate(self.model, self._loss_fn, self._eval_reader, name=source)

    def load(
        self, state: Mapping[str, Any], source: str, recomputes_statistics: bool = True
    ) -> None:
        """Load the weights, in the model's own dtypes, and compute BN anew.

        Without `recomputes_statistics`, take those that were trained with the weights.

        Raises:
            CheckpointError: they do not fit; the text begins with `source`.
        """
        dtypes = {name: tensor.dtype for name, tensor in self.model.state_dict().items()}
        cast = {
            name: tensor.astype(dtypes[name])
            if name in dtypes and tensor.is_floating_point()
            else tensor
            for name, tensor in state.items()
        }
        load_strictly(self.model, cast, source)
        if recomputes_statistics:
            with self._fast_layers.in_use():
                update_bn(self._train_batches(), self.model)

    @property
    def recomputes(self) -> bool:
        """Tell whether the model has BN statistics, which are computed anew."""
        return bool(batch_norm_layers(self.model))

    def state_dict(self) -> dict[str, Any]:
        """Return the weights that the model holds, which another `load` changes."""
        state: dict[str, Any] = self.model.state_dict()
        return state

    def save(self, path: Path) -> None:
        """Write the weights that the model holds; `path` is whole or as it was.

        Raises:
            StorageError: the disk refused.
        """
        replace_weight_file(path, self.model.state_dict())
