"""Strict YAML in, a typed config out; knows no class of ppema or Paddle."""

from ..errors import ConfigError
from .json_schema import json_schema
from .load import Config, find_run_folder, load_config, render
from .named import Choices, Named

__all__ = [
    "Choices",
    "Config",
    "ConfigError",
    "Named",
    "find_run_folder",
    "json_schema",
    "load_config",
    "render",
]
