"""Average the weights of a PaddlePaddle model while it trains."""

from .averaging import ArgumentError, ExponentialMovingAverage, WeightAverage

__all__ = ["ArgumentError", "ExponentialMovingAverage", "WeightAverage", "__version__"]

__version__ = "0.1.0"
