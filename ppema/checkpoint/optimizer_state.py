"""The optimizer's accumulators under the model's own names.

Paddle keys them by automatic global names, which change when another layer was built before;
the same names in another order even load without an error and are wrong.
"""

from __future__ import annotations

from typing import Any, Mapping

import paddle

from ..errors import CheckpointError
from .strict import copy_strictly, not_weights

_MASTER_WEIGHT = "master_weight"


def structured_optimizer_state(optimizer: Any, model: Any) -> dict[str, Any]:
    """Return the accumulators as ``{"features.0.weight/moment1": tensor}``, without copying."""
    structured = _structured_names(model)
    state = {
        f"{structured[parameter]}/{kind}": tensor
        for kind, tensors in optimizer._accumulators.items()
        for parameter, tensor in tensors.items()
    }
    for parameter, tensor in optimizer._master_weights.items():
        state[f"{structured[parameter]}/{_MASTER_WEIGHT}"] = tensor
    return state


def load_structured_optimizer_state(
    optimizer: Any, model: Any, state: Mapping[str, Any], source: str
) -> None:
    """Put the accumulators back; nothing is written where they do not fit.

    Raises:
        CheckpointError: names, shapes or dtypes that do not fit; the text begins with `source`.
    """
    others = not_weights(state)
    if others:
        raise CheckpointError(f"{source}: not an optimizer's state (holds {', '.join(others)})")
    trained = {name.rsplit("/", 1)[0] for name in state}
    parameters = dict(model.named_parameters())
    unknown = sorted(trained - set(parameters))
    if unknown:
        raise CheckpointError(f"{source}: the model has no {', '.join(unknown)}")
    if trained:
        # Paddle makes accumulators at the first step; they are made here, under whatever
        # automatic name, so that they can be filled by structured name.
        block = paddle.base.framework.default_main_program().global_block()
        optimizer._create_accumulators(
            block, [parameter for name, parameter in parameters.items() if name in trained]
        )
    copy_strictly(structured_optimizer_state(optimizer, model), state, source)


def _structured_names(model: Any) -> dict[str, str]:
    names: dict[str, str] = {}
    for name, parameter in model.named_parameters():
        names.setdefault(parameter.name, name)
    return names
