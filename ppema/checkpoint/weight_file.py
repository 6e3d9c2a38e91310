"""Read and write Paddle's weight files without running what a file asks for.

`paddle.load` unpickles whatever a file names, so a stranger's `.pdparams` can run commands.
Here a file may name only what a genuine weight file needs, and even that is answered by stubs.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Callable, Optional, Tuple, Union

import numpy as np
import paddle

from ..errors import CheckpointError, StorageError
from .files import reason, write_atomically
from .weight_writer import PADDLE_NAMES, write_weight_file

# Paddle's own limit.
_MAX_RANK = 9
_DTYPES = {
    "b1",
    *(kind + size for kind in "iu" for size in "1248"),
    *("f2", "f4", "f8", "c8", "c16"),
}
_FIRST_BYTES = {
    b"PK": "a zip archive, as PyTorch writes",
    b"\x1f\x8b": "gzip-compressed",
    b"\x89H": "an HDF5 file",
}


def replace_weight_file(path: Path, tensors: Any) -> None:
    """Write a weight file, its folder too; `path` is whole, or what it was.

    Raises:
        StorageError: the disk refused.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda target: write_weight_file(target, tensors))
    except OSError as error:
        raise StorageError(f"cannot write {path}: {reason(error)}") from error


def read_weight_file(path: Union[str, Path]) -> dict[str, Any]:
    """Return what `paddle.save` wrote, arrays as CPU tensors, without Paddle's name table.

    Raises:
        CheckpointError: no such file, not a weight file, damaged, or asking to import something.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path}: is a directory, not a Paddle weight file")
    try:
        with open(path, "rb") as file:
            content = _Unpickler(file).load()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except _ForbiddenImport as error:
        raise CheckpointError(f"{path}: asks to import {error}, which no checkpoint may") from None
    # A hostile or torn pickle can fail in nearly every way there is.
    except Exception as error:
        raise CheckpointError(
            f"{path}: is not a Paddle weight file{_hint(path)} ({_short(error)})"
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: is not a Paddle weight file (no table of names)")
    content.pop(PADDLE_NAMES, None)
    try:
        state = _materialise(content, {})
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is damaged ({_short(error)})") from None
    assert isinstance(state, dict)
    return state


class _ForbiddenImport(Exception):
    """The dotted name of something that a weight file has no business with."""


class _StoredArray:
    """Stand in for numpy.ndarray: take the pickled fields, build the array only when checked."""

    __slots__ = ("fields",)

    def __init__(self) -> None:
        self.fields: Tuple[Any, ...] = ()

    def __setstate__(self, fields: Any) -> None:
        if not isinstance(fields, tuple) or len(fields) != 5:
            raise ValueError("an array without its five fields")
        self.fields = fields

    def to_tensor(self) -> Any:
        if not self.fields:
            raise ValueError("an array without its contents")
        _, shape, dtype, is_fortran, content = self.fields
        if not isinstance(dtype, _StoredDtype) or not isinstance(content, bytes):
            raise ValueError("an array of something other than numbers")
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError("an array with an impossible shape")
        if len(shape) > _MAX_RANK:
            raise ValueError(f"an array of {len(shape)} dimensions")
        array = np.frombuffer(content, dtype.to_numpy())
        array = array.reshape(shape, order="F" if is_fortran is True else "C")
        # A copy, because the bytes are read-only and the tensor must own what it holds.
        return paddle.to_tensor(np.array(array, order="C"), place=paddle.CPUPlace())


class _StoredDtype:
    """Stand in for numpy.dtype: a number's kind, size and byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in _DTYPES:
            raise ValueError(f"an array of dtype {str(code)[:20]!r}")
        self.code = str(code)
        self.order = "="

    def __setstate__(self, fields: Any) -> None:
        if not isinstance(fields, tuple) or len(fields) < 2 or fields[1] not in ("<", ">", "|"):
            raise ValueError("a dtype without its byte order")
        self.order = fields[1].replace("|", "=")

    def to_numpy(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


class _Stub:
    """Call a function of ours; unlike a plain function, take no state from a file."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise ValueError("a function with state")

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a function with state")


def _reconstruct(*_: Any) -> _StoredArray:
    return _StoredArray()


def _encode_latin1(text: Any, encoding: Any = "latin1") -> bytes:
    # Pickle protocol 2 has no bytes: it writes text and asks for this one encoding.
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes in an unknown encoding")
    return text.encode("latin1")


def _make_tuple(items: Any = ()) -> tuple[Any, ...]:
    return tuple(items)


def _make_bytes() -> bytes:
    return b""


def _make_dict(items: Any = ()) -> dict[Any, Any]:
    return dict(items)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    # Only ever handed to _reconstruct, which takes no notice of it.
    "numpy.ndarray": _reconstruct,
    "numpy.dtype": _StoredDtype,
    "_codecs.encode": _encode_latin1,
    "__builtin__.bytes": _make_bytes,
    "builtins.bytes": _make_bytes,
    "builtins.tuple": _make_tuple,
    "collections.OrderedDict": _make_dict,
}


_ALLOWED = {name: _Stub(function) for name, function in _FUNCTIONS.items()}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        wanted = f"{module}.{name}"
        if wanted not in _ALLOWED:
            raise _ForbiddenImport(wanted)
        return _ALLOWED[wanted]


def _materialise(value: Any, done: dict[int, Any]) -> Any:
    """Return the value with tensors in place of stubs; what is shared is made once.

    `done` maps ids to what was made: a file of a few bytes can share one list 2**n times.
    """
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, _StoredArray):
        done[id(value)] = value.to_tensor()
        return done[id(value)]
    if isinstance(value, dict):
        made: Any = {_key(key): _materialise(item, done) for key, item in value.items()}
        done[id(value)] = made
        return made
    if isinstance(value, (list, tuple)):
        made = type(value)(_materialise(item, done) for item in value)
        done[id(value)] = made
        return made
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"holds a {type(value).__name__}")


def _key(key: Any) -> Any:
    if not isinstance(key, (str, int)):
        raise TypeError(f"a key of type {type(key).__name__}")
    return key


def _hint(path: Path) -> str:
    with open(path, "rb") as file:
        first_bytes = file.read(2)
    if not first_bytes:
        return ": it is empty"
    kind: Optional[str] = _FIRST_BYTES.get(first_bytes)
    return f": it is {kind}" if kind else ""


def _short(error: BaseException) -> str:
    first_line = (str(error) or type(error).__name__).splitlines()[0]
    return first_line[:100]
