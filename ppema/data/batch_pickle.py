"""Read CIFAR's batches, which are pickles, without running what a file asks for.

A file may name only what a genuine batch needs, and even that is answered by stubs.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any, Callable, Mapping

import numpy as np
import numpy.typing as npt

_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
# Of a genuine batch: the images are the only array, and they are bytes.
_RANK = 2


class ForbiddenImportError(Exception):
    """The dotted name of something that a batch has no business with."""


class StoredPixels:
    """Stand in for numpy.ndarray: take the pickled fields, build the array only when checked."""

    __slots__ = ("_fields",)

    def __init__(self) -> None:
        self._fields: tuple[Any, ...] = ()

    def __setstate__(self, fields: Any) -> None:
        if not isinstance(fields, tuple) or len(fields) != 5:
            raise ValueError("an array without its five fields")
        self._fields = fields

    def to_array(self) -> npt.NDArray[np.uint8]:
        """Return the pixels, uint8 of two dimensions.

        Raises:
            ValueError: they are something else.
        """
        if not self._fields:
            raise ValueError("an array without its contents")
        _, shape, dtype, is_fortran, content = self._fields
        if not isinstance(dtype, _StoredDtype) or not isinstance(content, bytes):
            raise ValueError("an array of something other than bytes")
        is_shape = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if not is_shape or len(shape) != _RANK or is_fortran not in (False, 0):
            raise ValueError("an array with an impossible shape")
        pixels: npt.NDArray[np.uint8] = np.frombuffer(content, np.uint8).reshape(shape)
        return pixels


class _StoredDtype:
    """Stand in for numpy.dtype; a byte is the only one there is."""

    __slots__ = ()

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in (b"u1", "u1"):
            raise ValueError(f"an array of dtype {str(code)[:20]!r}")

    def __setstate__(self, fields: Any) -> None:
        # Byte order and alignment, of which a byte has neither.
        pass


class _Stub:
    """Call a function of ours; unlike a plain function, take no state from a file."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a function with state")


def _reconstruct(*_: Any) -> StoredPixels:
    return StoredPixels()


def _encode_latin1(text: Any, encoding: Any = "latin1") -> bytes:
    # Python 3 writes bytes so in the protocol that the archives have.
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise ValueError("bytes in an unknown encoding")
    return text.encode("latin1")


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    # Only ever handed to _reconstruct, which takes no notice of it.
    "numpy.ndarray": _reconstruct,
    "numpy.dtype": _StoredDtype,
    "_codecs.encode": _encode_latin1,
}
_ALLOWED = {name: _Stub(function) for name, function in _FUNCTIONS.items()}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        wanted = f"{module}.{name}"
        if wanted not in _ALLOWED:
            raise ForbiddenImportError(wanted)
        return _ALLOWED[wanted]


def read_batch(content: bytes) -> dict[str, Any]:
    """Return the table that a batch is, by text keys; arrays as `StoredPixels`.

    Raises:
        ForbiddenImportError: the pickle asks for something else than a batch is made of.
        ValueError: it is damaged, or no table.
    """
    try:
        _require_small_memo(content)
        # Python 2 wrote the archives: its texts come back as bytes.
        table = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except ForbiddenImportError:
        raise
    # A hostile or torn pickle can fail in nearly every way there is.
    except Exception as error:
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(first_line[:100]) from None
    if type(table) is not dict:
        raise ValueError("no table of names")
    return {as_text(key): value for key, value in table.items()}


def _require_small_memo(content: bytes) -> None:
    """Raise ValueError where reading the pickle would take memory out of proportion.

    One opcode of five bytes can make the reader lay out 2**32 places for what it is to remember.
    """
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name in _PUTS and int(argument or 0) > count + 1:
            raise ValueError(f"place {argument} after {count} steps")


def as_text(value: Any) -> str:
    """Return a text of Python 2's or 3's as a str.

    Raises:
        ValueError: it is no text.
    """
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value
    raise ValueError(f"a {type(value).__name__} in place of text")
