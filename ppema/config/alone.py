"""The section Swap.alone: keys that are others for a worker alone, over those of the whole run."""

from __future__ import annotations

from typing import Any, Mapping

from ..errors import ConfigError
from .merge import merge
from .schema import ALONE, NOT_ALONE
from .strict_yaml import Mapping as MappingNode

# Behind each message about the merged keys of phase 2, which stand somewhere in both.
IN_ALONE = f" (in {ALONE})"


def tree_of_workers(tree: MappingNode) -> MappingNode:
    """Return the tree of a worker's config: that of the whole run without Swap, `alone` on top.

    Args:
        tree: of a config whose section Swap was found right.

    Raises:
        ConfigError: `alone` has no epoch, or a key that cannot differ.
    """
    alone = alone_of(tree)
    for name, fault in NOT_ALONE.items():
        if name in alone.items:
            raise ConfigError(f"{alone.key_origins[name]}: '{ALONE}.{name}' {fault}")
    if "epoch" not in alone.items:
        # Of the whole run it is the most that phase 1 takes, which says nothing of a worker.
        raise ConfigError(f"{alone.origin}: '{ALONE}.epoch' is missing")
    rest = MappingNode(tree.origin, dict(tree.items), dict(tree.key_origins))
    for name in ("Swap", "pretrain_weights"):
        rest.items.pop(name, None)
    return merge(rest, alone)


def alone_of(tree: MappingNode) -> MappingNode:
    """Return the tree of `alone` itself."""
    swap = tree.items["Swap"]
    assert isinstance(swap, MappingNode)
    alone = swap.items["alone"]
    assert isinstance(alone, MappingNode)
    return alone


def typed(node: MappingNode, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that stand in `node` with their typed values, from those of a whole config.

    As YAML alone has it, a folder that is named 2024 would be a number.
    """
    found = {}
    for name, child in node.items.items():
        value = values[name]
        is_section = isinstance(child, MappingNode) and isinstance(value, dict)
        found[name] = typed(child, value) if is_section else value  # type: ignore[arg-type]
    return found
