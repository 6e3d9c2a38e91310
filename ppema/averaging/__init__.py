"""Averages of a model's weights over training; needs paddle and numpy, nothing else of ppema."""

from .average import WeightAverage
from .decay import ArgumentError
from .ema import ExponentialMovingAverage

__all__ = ["ArgumentError", "ExponentialMovingAverage", "WeightAverage"]
