"""Parameters that Paddle cuts into flat slices, one for each rank: level `p_g_os` of
`paddle.distributed.sharding.group_sharded_parallel`.

Written from the code of GroupShardedStage3 in Paddle 3.3.1, which needs GPUs; it was tested on
slices that were cut by hand, and never on GPUs.
"""

from __future__ import annotations

from typing import Any, Mapping, Optional

import paddle
import paddle.distributed as dist

from . import ranks
from .batch_norm import batch_norm_layers
from .place import at_place


class FlatSlices(paddle.nn.Layer):
    """Hold what this rank has of a model whose parameters are cut into flat slices.

    Its parameters have the names of the model's. Of one that is cut it is a copy of this rank's
    slice, of shape [padded size / number of ranks]; of one that is whole, the model's own. An
    average of this layer is one of the slices: `ShardedAverage` makes it follow them, and whole.

    Args:
        model: the layer that was given to `group_sharded_parallel`, after that call.
        group: of Paddle, the ranks that share the parameters; None means all.

    Raises:
        RuntimeError: a parameter is not cut at the moment, as within a forward pass.
        ValueError: no parameter of the model is cut, or not for this group.
    """

    def __init__(self, model: Any, group: Optional[Any] = None) -> None:
        super().__init__()
        # Within a list, as a layer would become a part of this one.
        self._models = [model]
        self._group = group
        # By the names of each parameter that is cut: the parameter, and the copy of its slice.
        self._cut: dict[str, tuple[Any, Any]] = {}
        state = model.state_dict(use_hook=False)
        copies: dict[int, Any] = {}
        for name, parameter in state.items():
            if hasattr(parameter, "fw_storage"):
                if id(parameter) not in copies:
                    copies[id(parameter)] = self._copy_of_slice(name, parameter)
                self._cut[name] = parameter, copies[id(parameter)]
        if not self._cut:
            raise ValueError(
                "no parameter of the model is cut into slices; average the model itself"
            )
        _mirror(model, self, copies)

    @property
    def model(self) -> Any:
        """Return the model whose slices these are."""
        return self._models[0]

    def refresh(self) -> None:
        """Copy the slices anew, as they are after a step of the optimizer."""
        with paddle.no_grad():
            for name, (parameter, held) in self._cut.items():
                held.copy_(_slice_of(name, parameter).astype(held.dtype), True)
                held.stop_gradient = parameter.stop_gradient

    def gather(self, name: str, held: Any) -> Any:
        """Return, on the CPU, the whole that a tensor in place of this parameter is the slice of.

        All ranks of the group must call it.
        """
        if name not in self._cut:
            return held
        if ranks.num_ranks() == 1:
            parts = [held]
        else:
            parts = []
            # NCCL sends from a GPU only, where an average need not lie.
            sent = at_place(held.detach(), paddle.framework._current_expected_place())
            dist.all_gather(parts, sent.contiguous(), group=self._group)
        # One after the other: the whole model need not fit into the memory of a GPU.
        flat = paddle.concat([at_place(part, paddle.CPUPlace()) for part in parts])
        parameter, _ = self._cut[name]
        return flat[: parameter.size].reshape(parameter.shape)

    def take(self, name: str, whole: Any) -> Any:
        """Return this rank's slice, padded with 0, of a whole tensor in place of this parameter."""
        if name not in self._cut:
            return whole
        tensor = whole if paddle.is_tensor(whole) else paddle.to_tensor(whole, place="cpu")
        (size,) = self._cut[name][1].shape
        part = tensor.reshape([-1])[size * self._rank : size * (self._rank + 1)]
        padding = at_place(paddle.zeros([size - part.size], part.dtype), part.place)
        return paddle.concat([part, padding])

    @property
    def _rank(self) -> int:
        return ranks.rank() if self._group is None else int(self._group.rank)

    def _copy_of_slice(self, name: str, parameter: Any) -> Any:
        copy = _slice_of(name, parameter).detach().clone()
        num_ranks = ranks.num_ranks() if self._group is None else int(self._group.nranks)
        if copy.size * num_ranks < parameter.size:
            raise ValueError(
                f"{name}: slices of {copy.size:,} on {num_ranks} of the processes are fewer than "
                f"its {parameter.size:,} weights; give the group that it was cut for"
            )
        held = paddle.base.framework.EagerParamBase.from_tensor(copy)
        held.stop_gradient = parameter.stop_gradient
        return held


class SlicedLayout:
    """What `ShardedAverage` asks of an average of `FlatSlices`."""

    can_apply = False

    def __init__(self, slices: FlatSlices) -> None:
        self._slices = slices

    def own(self, whole: Mapping[str, Any]) -> dict[str, Any]:
        """Return what of whole tensors, by name, this rank holds."""
        return {name: self._slices.take(name, tensor) for name, tensor in whole.items()}

    def whole(self, held: Mapping[str, Any], keep: bool) -> dict[str, Any]:
        """Return whole tensors of those this rank holds; none where it is not to keep them."""
        gathered = {}
        for name, tensor in held.items():
            whole = self._slices.gather(name, tensor)
            if keep:
                gathered[name] = whole
        return gathered

    def whole_state(self, state: dict[str, Any], keep: bool) -> dict[str, Any]:
        """Return the model's state, of that of the slices; empty where it is not to be kept."""
        model_state = self._slices.model.state_dict(use_hook=False)
        firsts: dict[int, str] = {}
        for name, live in model_state.items():
            firsts.setdefault(id(live), name)
        wholes: dict[int, Any] = {}
        for key, name in firsts.items():
            live = model_state[name]
            whole = self._slices.gather(name, state[name]) if name in state else live.clone()
            if keep:
                wholes[key] = whole.astype(live.dtype)
                # Paddle saves this name too.
                wholes[key].name = live.name
        return {name: wholes[id(live)] for name, live in model_state.items()} if keep else {}


def _slice_of(name: str, parameter: Any) -> Any:
    if parameter.fw_storage is None:
        raise RuntimeError(
            f"{name} is whole at the moment; average its slices after a step of the optimizer, "
            "before the next forward pass"
        )
    return parameter.fw_storage


def _mirror(model: Any, layer: Any, copies: Mapping[int, Any]) -> None:
    """Give a layer the parameters that a model has, under the same names in the same order.

    Args:
        copies: by the id of each parameter that is cut, what takes its place.
    """
    for name, parameter in model.named_parameters(include_sublayers=False):
        layer.add_parameter(name, copies.get(id(parameter), parameter))
    batch_norms = set(map(id, batch_norm_layers(model)))
    for name, part in model._sub_layers.items():
        if part is None:
            continue
        # A BN layer that is whole is taken itself, which tells what its statistics are.
        is_whole = copies.keys().isdisjoint(map(id, part.parameters()))
        if id(part) in batch_norms and is_whole:
            layer.add_sublayer(name, part)
        else:
            _mirror(part, layer.add_sublayer(name, paddle.nn.Layer()), copies)
