"""Read and write Paddle's weight files without running what a file asks for.

`paddle.load` unpickles whatever a file names, so a stranger's `.pdparams` can run commands.
Here a file may name only what a genuine weight file needs, and even that is answered by stubs.
"""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path
from typing import IO, Any, Optional, Union

from ..errors import CheckpointError, StorageError
from .files import reason, write_atomically
from .pickle_machine import ForbiddenImportError, max_parts, unpickle
from .stored import StoredArray, join_to_tensor
from .weight_writer import PADDLE_NAMES, write_weight_file

# What a tensor of more than a gigabyte is cut into, in protocols 2 and 3; Paddle's spelling.
_PARTS = "UnpackBigParamInfor@@"
_MAX_DEPTH = 100
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
    try:
        file = _open_regular(path)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    with file:
        try:
            return _read(file, os.fstat(file.fileno()).st_size)
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror or error}") from None
        except ForbiddenImportError as error:
            raise CheckpointError(
                f"{path}: asks to import {error}, which no checkpoint may"
            ) from None
        except ValueError as error:
            raise CheckpointError(
                f"{path}: is not a Paddle weight file{_what_it_is(file, error)}"
            ) from None


def _open_regular(path: Path) -> IO[bytes]:
    # A pipe is waited for, and a device has no end.
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise CheckpointError(f"{path}: is a directory, not a Paddle weight file")
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path}: is no regular file, and so not a Paddle weight file")
    return open(path, "rb")


def _read(file: IO[bytes], size: int) -> dict[str, Any]:
    content = unpickle(file, size)
    if type(content) is not dict:
        raise ValueError("no table of names")
    content.pop(PADDLE_NAMES, None)
    builder = _Builder(file, size)
    joined = builder.join(content)
    return {**builder.build(content), **joined}


class _Builder:
    """Turn what the pickle machine left into plain values and tensors."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        # A file of a few bytes can hold one list, or one array's contents, 2**n times.
        self._parts_left = max_parts(size)
        self._bytes_left = size
        self._tensors: dict[int, Any] = {}

    def build(self, value: Any, depth: int = 0) -> Any:
        """Return the value with tensors in place of stubs.

        Raises:
            ValueError: it holds what no weight file may.
        """
        self._parts_left -= 1
        if self._parts_left < 0:
            raise ValueError("it grows when it is read")
        if depth > _MAX_DEPTH:
            raise ValueError(f"nested deeper than {_MAX_DEPTH} levels, or within itself")
        if isinstance(value, StoredArray):
            return self._tensor(value)
        if type(value) is dict:
            return {key: self.build(item, depth + 1) for key, item in value.items()}
        if type(value) is tuple and _is_named_array(value):
            return self._tensor(value[1])
        if type(value) in (list, tuple):
            return type(value)(self.build(item, depth + 1) for item in value)
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise ValueError(f"holds a {type(value).__name__}")

    def join(self, content: dict[Any, Any]) -> dict[Any, Any]:
        """Return the tensors that protocols 2 and 3 cut into parts, and take these out.

        Raises:
            ValueError: the parts are not those of a whole.
        """
        whole: dict[Any, Any] = {}
        information = content.pop(_PARTS, {})
        if not isinstance(information, dict):
            raise ValueError(f"{_PARTS} is no table")
        for name, entry in information.items():
            names = entry.get("slices") if isinstance(entry, dict) else None
            if not isinstance(names, list) or not all(isinstance(part, str) for part in names):
                raise ValueError(f"{_PARTS} names no parts")
            parts = [content.pop(part, None) for part in names]
            shape = entry.get("OriginShape")
            if not parts or not _are_of_a_whole(parts, shape) or name in content:
                raise ValueError(f"{name} does not fit its parts")
            self._charge(*parts)
            whole[name] = join_to_tensor(parts, shape, self._file)
        return whole

    def _tensor(self, array: StoredArray) -> Any:
        if id(array) not in self._tensors:
            self._charge(array)
            self._tensors[id(array)] = array.to_tensor(self._file)
        return self._tensors[id(array)]

    def _charge(self, *arrays: StoredArray) -> None:
        self._bytes_left -= sum(array.num_bytes for array in arrays)
        if self._bytes_left < 0:
            raise ValueError("arrays of more than the file holds")


def _is_named_array(value: tuple[Any, ...]) -> bool:
    # So Paddle stores a tensor that lies beside other values, or deeper than it looks.
    return len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], StoredArray)


def _are_of_a_whole(parts: list[Any], shape: Any) -> bool:
    return (
        all(isinstance(part, StoredArray) and len(part.shape) == 1 for part in parts)
        and all(part.dtype == parts[0].dtype for part in parts)
        and isinstance(shape, tuple)
        and all(type(n) is int and n >= 0 for n in shape)
        and math.prod(shape) == sum(part.shape[0] for part in parts)
    )


def _what_it_is(file: IO[bytes], error: BaseException) -> str:
    file.seek(0)
    first_bytes = file.read(2)
    if not first_bytes:
        return ": it is empty"
    kind: Optional[str] = _FIRST_BYTES.get(first_bytes)
    what = f": it is {kind}" if kind else ""
    return f"{what} ({_short(error)})"


def _short(error: BaseException) -> str:
    first_line = (str(error) or type(error).__name__).splitlines()[0]
    return first_line[:100]
