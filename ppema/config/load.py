"""From a config file and `-o` overrides to a typed, checked Config."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence, Union, get_args, get_origin

from ..errors import ConfigError
from .alone import IN_ALONE, alone_of, tree_of_workers, typed
from .convert import convert, hints_of_fields, quote, section_of, suggest, wrong
from .merge import read_tree
from .named import Choices, Named, convert_named
from .render import render_tree
from .schema import AVERAGE_NAME, FOREIGN_KEYS, Keys
from .strict_yaml import Mapping as MappingNode
from .strict_yaml import Node, Origin, Scalar
from .strict_yaml import Sequence as SequenceNode

# These name other things in a run's folder, in a table or on a command line.
_RESERVED = ("raw", "best", "all", "train", "eval", "model", "optimizer", "state", "manifest")

Catalog = Mapping[str, Choices]


@dataclass
class Config(Keys):
    """A checked config: its keys as attributes, and where each value was written."""

    # The file's, not a key: the same config read back from a run's folder is equal.
    name: str = field(default="", compare=False)
    # Of each worker alone, where there is a section Swap; it follows from the keys.
    of_workers: Optional[Config] = field(default=None, repr=False, compare=False)
    _origins: dict[str, Origin] = field(default_factory=dict, repr=False, compare=False)
    _root: Origin = field(default_factory=lambda: Origin(""), repr=False, compare=False)
    # What stands behind each error about a key.
    _note: str = field(default="", repr=False, compare=False)

    def origin(self, path: str) -> Optional[Origin]:
        """Return where the key at a dotted path was written, None where it is a default."""
        return self._origins.get(path)

    def error(self, path: str, message: str) -> ConfigError:
        """Return an error that begins with where the key, or the nearest key above it, stands."""
        while path and path not in self._origins:
            path = path.rpartition(".")[0]
        return ConfigError(f"{self._origins.get(path, self._root)}: {message}{self._note}")

    def values(self) -> dict[str, Any]:
        """Return all keys as plain values, defaults included, in the schema's order."""
        return {f.name: _plain_value(getattr(self, f.name)) for f in dataclasses.fields(Keys)}

    def dump(self) -> str:
        """Return the whole config as YAML that reads back as an equal config."""
        return render_tree(self.values(), lambda path: None)

    def digest(self) -> str:
        """Return the sha256 of the whole config."""
        return hashlib.sha256(self.dump().encode()).hexdigest()


def load_config(path: str, overrides: Sequence[str], catalog: Catalog) -> Config:
    """Read, merge and check a config.

    Args:
        path: a YAML file.
        overrides: `a.b=1` texts, as `-o` takes them.
        catalog: the classes that sections may name, by the section's path.

    Raises:
        ConfigError: one line with file and line (or `-o key`) of what is wrong.
    """
    tree = read_tree(path, overrides)
    config = _make_config(tree, Path(path).stem, catalog)
    if config.Swap is not None:
        workers = tree_of_workers(tree)
        try:
            config.of_workers = _make_config(workers, config.name, catalog, IN_ALONE)
        except ConfigError as error:
            # All but what stands in `alone` was found right before.
            raise ConfigError(f"{str(error).removesuffix(IN_ALONE)}{IN_ALONE}") from None
        config.Swap.alone = typed(alone_of(tree), config.of_workers.values())
    return config


def find_run_folder(path: str, overrides: Sequence[str]) -> Path:
    """Return the folder of the run that a config describes, from the keys that say it alone.

    It knows no class, so that it need not wait for Paddle; all else is left to `load_config`.

    Raises:
        ConfigError: the file is no config, or `save_dir` is no text.
    """
    node = read_tree(path, overrides).items.get("save_dir")
    save_dir = Keys.save_dir if node is None else convert(node, str, "save_dir")
    return Path(save_dir) / Path(path).stem


def render(config: Config) -> str:
    """Return the merged config as YAML with the file and line each value came from."""

    def comment(path: str) -> str:
        return str(config.origin(path) or "default")

    return render_tree(config.values(), comment)


def _make_config(tree: MappingNode, name: str, catalog: Catalog, note: str = "") -> Config:
    config = Config(**convert_fields(Keys, tree, "", catalog), name=name)
    config._root = tree.origin if tree.origin.line == 0 else Origin(tree.origin.place)
    config._note = note
    _collect_origins(tree, "", config._origins)
    _check_names_of_averages(config)
    _check_validation(config)
    return config


def convert_fields(keys: type, tree: MappingNode, path: str, catalog: Catalog) -> dict[str, Any]:
    """Return the values of a mapping, by the fields of a dataclass made of `schema.key`.

    Args:
        keys: the dataclass.
        tree: the mapping.
        path: of the mapping in its file, empty for the file itself.
        catalog: the classes that sections may name, by the section's path.

    Raises:
        ConfigError: an unknown key, a missing one, or a value that is not allowed.
    """
    fields = {f.name: f for f in dataclasses.fields(keys)}
    hints = hints_of_fields(keys)
    for name in tree.items:
        if name not in fields:
            raise _unknown_key(name, path, tree.key_origins[name], fields)
    values: dict[str, Any] = {}
    for name, entry in fields.items():
        key_path = f"{path}.{name}" if path else name
        if name in tree.items:
            value = _convert_key(tree.items[name], hints[name], key_path, catalog)
            fault = entry.metadata["bounds"].fault(value)
            if fault:
                raise wrong(tree.items[name], key_path, fault)
            values[name] = value
        elif entry.default is entry.default_factory:  # both MISSING: there is no default
            where = tree.origin if path else Origin(tree.origin.place)
            raise ConfigError(f"{where}: {key_path!r} is missing")
    return values


def _convert_key(node: Node, annotation: Any, path: str, catalog: Catalog) -> Any:
    if annotation is Named:
        return convert_named(node, catalog[path], path)
    if annotation == Optional[Named]:
        is_null = isinstance(node, Scalar) and node.value is None
        return None if is_null else convert_named(node, catalog[path], path)
    section = section_of(annotation)
    if section is not None and isinstance(node, MappingNode):
        return section(**convert_fields(section, node, path, catalog))
    if section is not None:
        is_left_out = section is not annotation and isinstance(node, Scalar) and node.value is None
        if not is_left_out:
            raise wrong(node, path, "a mapping")
        return None
    if Named in get_args(annotation):
        return _convert_collection(node, get_origin(annotation), path, catalog[path])
    return convert(node, annotation, path)


def _convert_collection(
    node: Node, kind: Any, path: str, choices: Choices
) -> Union[dict[str, Named], list[Named]]:
    if kind is dict:
        if not isinstance(node, MappingNode):
            raise wrong(node, path, "a mapping of names to sections")
        for name in node.items:
            _check_average_name(name, node.key_origins[name])
        return {
            name: convert_named(child, choices, f"{path}.{name}")
            for name, child in node.items.items()
        }
    if not isinstance(node, SequenceNode):
        raise wrong(node, path, "a list of sections")
    return [
        convert_named(child, choices, f"{path}.{index}") for index, child in enumerate(node.items)
    ]


def _unknown_key(name: str, path: str, origin: Origin, fields: Mapping[str, Any]) -> ConfigError:
    key_path = f"{path}.{name}" if path else name
    # Other files than configs are read by this as well.
    is_config = "Model" in fields or path.endswith("Reader")
    if name in FOREIGN_KEYS and is_config:
        return ConfigError(f"{origin}: {key_path!r} {FOREIGN_KEYS[name]}")
    return ConfigError(f"{origin}: unknown key {key_path!r}{suggest(name, fields)}")


def _check_average_name(name: str, origin: Origin) -> None:
    if not AVERAGE_NAME.fullmatch(name) or name in _RESERVED:
        raise ConfigError(
            f"{origin}: an average must be named by small letters, digits and _, the first a "
            f"letter, and not {', '.join(_RESERVED)}; got {name!r}"
        )


def _check_names_of_averages(config: Config) -> None:
    for key, others in (("select", ["raw", "best"]), ("switch", [])):
        value, allowed = getattr(config, key), [*others, *config.Averages]
        if value is not None and value not in allowed:
            raise config.error(
                key,
                f"{key} must be one of {', '.join(allowed) or '(no averages)'}, got {quote(value)}"
                + suggest(value, allowed).partition("; known")[0],
            )


def _check_validation(config: Config) -> None:
    # A whole number counts images, so that the range of a share is not that of the key.
    if isinstance(config.validation, float) and config.validation >= 1:
        raise config.error(
            "validation",
            "validation must be a share below 1, such as 0.1, or a whole number of images, got "
            f"{config.validation}",
        )


def _collect_origins(node: Node, path: str, origins: dict[str, Origin]) -> None:
    if isinstance(node, MappingNode):
        for key, child in node.items.items():
            child_path = f"{path}.{key}" if path else key
            origins[child_path] = node.key_origins[key]
            _collect_origins(child, child_path, origins)
    elif isinstance(node, SequenceNode):
        for index, child in enumerate(node.items):
            origins[f"{path}.{index}"] = child.origin
            _collect_origins(child, f"{path}.{index}", origins)


def _plain_value(value: Any) -> Any:
    if isinstance(value, Named):
        return {"name": value.name, **_plain_value(value.arguments)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain_value(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_value(item) for item in value]
    return value
