"""Average the weights of a PaddlePaddle model while it trains."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .averaging import (
        SWALR,
        ArgumentError,
        AveragedModel,
        BlockFloatingPoint,
        CyclicSWALR,
        ExponentialMovingAverage,
        ExponentialMovingAverageModel,
        FlatSlices,
        GreedySoup,
        LatestWeightAverage,
        LossGate,
        PowerFunctionEMA,
        RunLength,
        ShardedAverage,
        StochasticWeightAverage,
        WeightAverage,
        combine_states,
        greedy_soup,
        posthoc_coefficients,
        posthoc_residual,
        uniform_soup,
        update_all,
        update_bn,
    )

__all__ = [
    "SWALR",
    "ArgumentError",
    "AveragedModel",
    "BlockFloatingPoint",
    "CyclicSWALR",
    "ExponentialMovingAverage",
    "ExponentialMovingAverageModel",
    "FlatSlices",
    "GreedySoup",
    "LatestWeightAverage",
    "LossGate",
    "PowerFunctionEMA",
    "RunLength",
    "ShardedAverage",
    "StochasticWeightAverage",
    "WeightAverage",
    "__version__",
    "combine_states",
    "greedy_soup",
    "posthoc_coefficients",
    "posthoc_residual",
    "uniform_soup",
    "update_all",
    "update_bn",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Looked up on first use, so that a tool can say what is wrong with its arguments at once:
    # importing Paddle takes a second.
    if name in __all__:
        from . import averaging

        return getattr(averaging, name)
    raise AttributeError(f"module 'ppema' has no attribute {name!r}")
