"""What a weight file may import, and what is called in its place."""

from __future__ import annotations

from typing import Any, Callable

from .stored import EncodedText, StoredArray, StoredDtype


class Function:
    """Stand in for something imported: it can be called, and has nothing else."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


def _reconstruct(kind: Any, _shape: Any, _code: Any) -> StoredArray:
    if not isinstance(kind, Function) or kind.name != "numpy.ndarray":
        raise ValueError("an array of another class")
    return StoredArray()


def _ndarray() -> Any:
    raise ValueError("an array made in another way")


def _encode(text: Any, encoding: Any) -> EncodedText:
    # Python 2 calls it latin1 too; nothing else is ever asked for.
    if encoding != "latin1":
        raise ValueError("bytes in an unknown encoding")
    if isinstance(text, EncodedText):
        return text
    if not isinstance(text, str):
        raise ValueError("bytes of something that is no text")
    return EncodedText(text)


def _tuple(items: Any) -> tuple[Any, ...]:
    # Of anything but a tuple it would be a copy, of any size, at the price of three opcodes.
    if not isinstance(items, tuple):
        raise ValueError("a tuple of something else")
    return items


def _bytes() -> bytes:
    return b""


def _dict() -> dict[Any, Any]:
    return {}


# Each takes no more memory than its arguments hold already.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    # Only ever handed to _reconstruct.
    "numpy.ndarray": _ndarray,
    "numpy.dtype": StoredDtype,
    "_codecs.encode": _encode,
    # Protocol 2 calls builtins by Python 2's name.
    "__builtin__.bytes": _bytes,
    "builtins.bytes": _bytes,
    "__builtin__.tuple": _tuple,
    "builtins.tuple": _tuple,
    "collections.OrderedDict": _dict,
}
