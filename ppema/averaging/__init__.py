"""Averages of a model's weights over training; needs paddle and numpy, nothing else of ppema."""

from .average import WeightAverage
from .averaged_model import AveragedModel, ExponentialMovingAverageModel
from .batch_norm import update_bn
from .decay import ArgumentError
from .ema import ExponentialMovingAverage
from .horizon import RunLength
from .lawa import LatestWeightAverage
from .posthoc import PowerFunctionEMA, posthoc_coefficients, posthoc_residual
from .schedule_state import schedule_state, set_schedule_state
from .soup import GreedySoup, greedy_soup, uniform_soup
from .swa import StochasticWeightAverage
from .swa_lr import SWALR, CyclicSWALR

# What a config may name.
AVERAGES: dict[str, type[WeightAverage]] = {
    "ExponentialMovingAverage": ExponentialMovingAverage,
    "LatestWeightAverage": LatestWeightAverage,
    "PowerFunctionEMA": PowerFunctionEMA,
    "StochasticWeightAverage": StochasticWeightAverage,
}

__all__ = [
    "AVERAGES",
    "SWALR",
    "ArgumentError",
    "AveragedModel",
    "CyclicSWALR",
    "ExponentialMovingAverage",
    "ExponentialMovingAverageModel",
    "GreedySoup",
    "LatestWeightAverage",
    "PowerFunctionEMA",
    "RunLength",
    "StochasticWeightAverage",
    "WeightAverage",
    "greedy_soup",
    "posthoc_coefficients",
    "posthoc_residual",
    "schedule_state",
    "set_schedule_state",
    "uniform_soup",
    "update_bn",
]
