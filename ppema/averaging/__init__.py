"""Averages of a model's weights over training; needs paddle and numpy, nothing else of ppema."""

from .average import WeightAverage
from .batch_norm import update_bn
from .decay import ArgumentError
from .ema import ExponentialMovingAverage

__all__ = ["ArgumentError", "ExponentialMovingAverage", "WeightAverage", "update_bn"]
