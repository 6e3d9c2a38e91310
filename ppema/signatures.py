"""Callables that say themselves which arguments they take, so that a config is checked by them."""

from __future__ import annotations

import inspect
from typing import Any, Iterable


class Signed:
    """Take keyword arguments by a signature that is made, not written.

    `inspect.signature` and `typing.get_type_hints` see it as they see that of a function.

    Args:
        parameters: an annotation is a type, or left empty where it says nothing to check by.
    """

    def __init__(self, parameters: Iterable[inspect.Parameter]) -> None:
        self.__signature__ = inspect.Signature(list(parameters))
        self.__annotations__ = {
            name: parameter.annotation
            for name, parameter in self.__signature__.parameters.items()
            if parameter.annotation is not parameter.empty
        }

    def bind(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments as they are.

        Raises:
            TypeError: one is missing or unknown.
        """
        return dict(self.__signature__.bind(**arguments).arguments)


def keyword(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> Any:
    """Return a parameter that is given by name."""
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, annotation=annotation, default=default)


def plain_annotation(parameter: inspect.Parameter) -> Any:
    """Return bool, int, float or str, by annotation or default; empty where neither is one.

    Paddle's annotations name types that exist only for type checkers, so that those of a class
    can seldom be evaluated together.
    """
    types: dict[Any, type] = {"bool": bool, "int": int, "float": float, "str": str}
    if parameter.annotation in types:
        return types[parameter.annotation]
    if parameter.annotation in types.values():
        return parameter.annotation
    is_plain = type(parameter.default) in types.values()
    return type(parameter.default) if is_plain else parameter.empty
