"""Arrays as a weight file describes them: checked, then filled straight from the file."""

from __future__ import annotations

import codecs
import math
from typing import IO, Any, NamedTuple, Optional, Union

import numpy as np
import paddle

# Paddle's own limit.
_MAX_RANK = 9
# A shape with a zero in it costs nothing to write; beyond this Paddle's strides overflow.
_MAX_EMPTY = 1 << 31
_DTYPES = {
    "b1",
    *(kind + size for kind in "iu" for size in "1248"),
    *("f2", "f4", "f8", "c8", "c16"),
}
_BLOCK = 1 << 20


class Span(NamedTuple):
    """Where a file holds contents that are too long to be read before an array asks for them."""

    start: int
    num_bytes: int
    is_utf8: bool


class EncodedText(NamedTuple):
    """Contents that protocol 2, which has no bytes, wrote as text of latin1 characters."""

    text: Union[str, Span]


class StoredDtype:
    """Stand in for numpy.dtype: a number's kind, size and byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str):
            # Not shown: a tuple that holds itself 2**60 times would be spelt out.
            raise ValueError("an array of something other than numbers")
        if code not in _DTYPES:
            raise ValueError(f"an array of dtype {code[:20]!a}")
        self.code = code
        self.order = "="

    def set_state(self, fields: Any) -> None:
        """Take the version, the byte order, and what only structured dtypes have."""
        if not isinstance(fields, tuple) or len(fields) < 5 or fields[1] not in ("<", ">", "|"):
            raise ValueError("a dtype without its byte order")
        if any(part is not None for part in fields[2:5]):
            raise ValueError("an array of something other than numbers")
        self.order = fields[1].replace("|", "=")

    def to_numpy(self) -> np.dtype[Any]:
        """Return the dtype."""
        return np.dtype(self.order + self.code)


class StoredArray:
    """Stand in for numpy.ndarray: take the pickled fields, build the array only when asked."""

    __slots__ = ("_fields",)

    def __init__(self) -> None:
        self._fields: Any = None

    def set_state(self, fields: Any) -> None:
        """Take what ndarray.__setstate__ takes: version, shape, dtype, is_fortran, contents."""
        if not isinstance(fields, tuple) or len(fields) != 5:
            raise ValueError("an array without its five fields")
        self._fields = fields

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape.

        Raises:
            ValueError: there is none, or it is an impossible one.
        """
        shape = self._field(1)
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError("an array with an impossible shape")
        if len(shape) > _MAX_RANK:
            raise ValueError(f"an array of {len(shape)} dimensions")
        if math.prod(max(n, 1) for n in shape) >= _MAX_EMPTY and 0 in shape:
            raise ValueError("an array with an impossible shape")
        return shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the dtype.

        Raises:
            ValueError: it is not one of numbers.
        """
        dtype = self._field(2)
        if not isinstance(dtype, StoredDtype):
            raise ValueError("an array of something other than numbers")
        return dtype.to_numpy()

    @property
    def num_bytes(self) -> int:
        """Return what the array takes, from its shape and dtype alone."""
        return math.prod(self.shape) * self.dtype.itemsize

    def fill(self, target: memoryview, file: IO[bytes]) -> None:
        """Write the contents, as they are stored, into `target` of `num_bytes` bytes.

        Raises:
            ValueError: there are more or fewer.
        """
        content = self._field(4)
        if isinstance(content, EncodedText):
            content = content.text
        if isinstance(content, str):
            content = content.encode("latin1")
        if isinstance(content, bytes):
            _require_length(len(content), target)
            target[:] = content
        elif isinstance(content, Span):
            _fill_from_file(target, file, content)
        else:
            raise ValueError("an array of something other than numbers")

    def to_tensor(self, file: IO[bytes]) -> Any:
        """Return the array as a CPU tensor; at most twice its size is taken on the way."""
        flat = np.empty(math.prod(self.shape), self.dtype)
        self.fill(flat.view(np.uint8).data, file)
        return as_tensor(flat, self.shape, "F" if self._field(3) is True else "C")

    def _field(self, index: int) -> Any:
        if self._fields is None:
            raise ValueError("an array without its contents")
        return self._fields[index]


def join_to_tensor(parts: list[StoredArray], shape: tuple[int, ...], file: IO[bytes]) -> Any:
    """Return one tensor of what paddle.save cut into parts, filled without a copy of its own."""
    flat = np.empty(math.prod(shape), parts[0].dtype)
    target = flat.view(np.uint8).data
    start = 0
    for part in parts:
        part.fill(target[start : start + part.num_bytes], file)
        start += part.num_bytes
    return as_tensor(flat, shape, "C")


def as_tensor(flat: np.ndarray[Any, Any], shape: tuple[int, ...], order: Any) -> Any:
    """Return a CPU tensor of values in file order, which may be of the other byte order."""
    if not flat.dtype.isnative:
        flat = flat.byteswap(inplace=True).view(flat.dtype.newbyteorder("="))
    array = np.ascontiguousarray(flat.reshape(shape, order=order)).reshape(shape)
    return paddle.to_tensor(array, place=paddle.CPUPlace())


def _require_length(num_bytes: Optional[int], target: memoryview) -> None:
    if num_bytes != len(target):
        raise ValueError("an array whose contents do not fill its shape")


def _fill_from_file(target: memoryview, file: IO[bytes], span: Span) -> None:
    file.seek(span.start)
    if not span.is_utf8:
        _require_length(span.num_bytes, target)
        if file.readinto(target) != len(target):  # type: ignore[attr-defined]
            raise ValueError("it is cut short")
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    num_left, filled = span.num_bytes, 0
    while num_left:
        block = file.read(min(num_left, _BLOCK))
        num_left -= len(block)
        if not block:
            raise ValueError("it is cut short")
        content = decoder.decode(block, final=not num_left).encode("latin1")
        # Of a slice that ends beyond the target, assignment would say this in other words.
        _require_length(len(content), target[filled : filled + len(content)])
        target[filled : filled + len(content)] = content
        filled += len(content)
    _require_length(filled, target)
