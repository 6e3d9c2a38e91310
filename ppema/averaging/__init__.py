"""Averages of a model's weights over training; needs paddle and numpy, nothing else of ppema."""

from .average import WeightAverage
from .averaged_model import AveragedModel, ExponentialMovingAverageModel
from .batch_norm import update_bn
from .block_floating_point import BlockFloatingPoint
from .decay import ArgumentError
from .diagnostics import Diagnostics
from .ema import ExponentialMovingAverage
from .gate import LossGate
from .horizon import RunLength, to_steps, to_whole_steps
from .lawa import LatestWeightAverage
from .posthoc import PowerFunctionEMA, posthoc_coefficients, posthoc_residual
from .profile import sigma_rel_to_gamma
from .schedule_state import schedule_state, set_schedule_state
from .sharded import ShardedAverage
from .slices import FlatSlices
from .soup import GreedySoup, combine_states, greedy_soup, uniform_soup
from .swa import StochasticWeightAverage
from .swa_lr import SWALR, CyclicSWALR
from .together import update_all

# What a config may name.
AVERAGES: dict[str, type[WeightAverage]] = {
    "ExponentialMovingAverage": ExponentialMovingAverage,
    "LatestWeightAverage": LatestWeightAverage,
    "PowerFunctionEMA": PowerFunctionEMA,
    "StochasticWeightAverage": StochasticWeightAverage,
}

# … and what may round the weights.
ROUNDINGS = {"BlockFloatingPoint": BlockFloatingPoint}

__all__ = [
    "AVERAGES",
    "ROUNDINGS",
    "SWALR",
    "ArgumentError",
    "AveragedModel",
    "BlockFloatingPoint",
    "CyclicSWALR",
    "Diagnostics",
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
    "combine_states",
    "greedy_soup",
    "posthoc_coefficients",
    "posthoc_residual",
    "schedule_state",
    "set_schedule_state",
    "sigma_rel_to_gamma",
    "to_steps",
    "to_whole_steps",
    "uniform_soup",
    "update_all",
    "update_bn",
]
