"""Run the pickle opcodes that a weight file is made of, and no others.

Python's own unpickler hangs, dies or takes any amount of memory on files of a few bytes, whatever
its `find_class` refuses: a memo index of 2**31, a key that is a tuple of tuples. Here nothing is
called but FUNCTIONS, nothing is hashed but text and small integers, and what is kept is in
proportion to the file. Long contents stay in the file until an array wants them.
"""

from __future__ import annotations

import pickle
import struct
import sys
from typing import IO, Any, Callable

from .stored import EncodedText, Span, StoredArray, StoredDtype
from .stored_functions import FUNCTIONS, Function

# What paddle.save writes.
_PROTOCOLS = (2, 3, 4)
# Names and small arrays are read at once; what is longer can only be an array's contents.
_MAX_INLINE = 1 << 16
_MAX_NAME = 200
# A tensor takes 30 opcodes and an opcode makes 100 bytes at most: a file of ten thousand tiny
# tensors still loads, and a hostile one takes 30 MB beside its own size.
_FREE_PARTS = 300_000
_BYTES_PER_PART = 64
# A dict of integers that were chosen to collide takes the square of their number.
_MAX_KEY = 1 << 31
# Python keeps four bytes a character where a single one needs them.
_MAX_WIDE_TEXT = 1 << 10

_BYTE, _SHORT = struct.Struct("<B"), struct.Struct("<H")
_INT, _UINT, _ULONG = struct.Struct("<i"), struct.Struct("<I"), struct.Struct("<Q")
_DOUBLE = struct.Struct(">d")


class ForbiddenImportError(Exception):
    """The dotted name of something that a weight file has no business with."""


def max_parts(size: int) -> int:
    """Return how many opcodes, and values with what is shared counted anew, a file may have."""
    return _FREE_PARTS + size // _BYTES_PER_PART


def unpickle(file: IO[bytes], size: int) -> Any:
    """Return what a file of `size` bytes holds, with arrays and dtypes as stubs.

    Raises:
        ForbiddenImportError: it names anything but what an array is made of.
        ValueError: it is no weight file, or damaged; the text says how.
        OSError: the disk refused.
    """
    return _Machine(file, size).run()


class _Machine:
    """Pickle's stack and memo; each method is one opcode, or a family of them."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._size = size
        self._num_left = size
        self._stack: list[Any] = []
        self._marks: list[int] = []  # heights of the stack
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        header = self._take(2)
        if header[:1] != pickle.PROTO or header[1] not in _PROTOCOLS:
            raise ValueError("no pickle of protocol 2, 3 or 4")
        for _ in range(max_parts(self._size)):
            opcode = self._take(1)
            if opcode == pickle.STOP:
                return self._result()
            step = _STEPS.get(opcode)
            if step is None:
                raise ValueError(f"the pickle opcode {_name_of(opcode)}, which none has")
            step(self)
        raise ValueError("more parts than a file of its size has")

    def _result(self) -> Any:
        if len(self._stack) != 1 or self._marks:
            raise ValueError("parts left over at its end")
        if self._num_left:
            raise ValueError(f"{self._num_left:,} bytes after its end")
        return self._stack[0]

    def _take(self, num_bytes: int) -> bytes:
        self._account(num_bytes)
        data = self._file.read(num_bytes)
        if len(data) != num_bytes:
            raise ValueError("it is cut short")
        return data

    def _account(self, num_bytes: int) -> None:
        self._num_left -= num_bytes
        if self._num_left < 0:
            raise ValueError("it is cut short")

    def _number(self, form: struct.Struct) -> Any:
        return form.unpack(self._take(form.size))[0]

    def _pop(self, number: int) -> list[Any]:
        if len(self._stack) < number:
            raise ValueError("a part is missing")
        items = self._stack[-number:]
        del self._stack[-number:]
        return items

    def _pop_to_mark(self) -> list[Any]:
        if not self._marks:
            raise ValueError("a part is missing")
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _top(self, *kinds: type) -> Any:
        if not self._stack or not isinstance(self._stack[-1], kinds):
            raise ValueError("a part of something that takes none, as a function with state")
        return self._stack[-1]

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def push_new(self, kind: Callable[[], Any]) -> None:
        self._stack.append(kind())

    def push_number(self, form: struct.Struct) -> None:
        self._stack.append(self._number(form))

    def push_long(self) -> None:
        data = self._take(self._number(_BYTE))
        self._stack.append(int.from_bytes(data, "little", signed=True))

    def push_bytes(self, length: struct.Struct) -> None:
        num_bytes = self._number(length)
        is_long = num_bytes > _MAX_INLINE
        self._stack.append(self._skip(num_bytes, False) if is_long else self._take(num_bytes))

    def push_text(self, length: struct.Struct, encoding: str) -> None:
        num_bytes = self._number(length)
        if num_bytes > _MAX_INLINE:
            self._stack.append(EncodedText(self._skip(num_bytes, encoding == "utf-8")))
            return
        text = self._take(num_bytes).decode(encoding)
        if num_bytes > _MAX_WIDE_TEXT and sys.getsizeof(text) > 2 * num_bytes:
            raise ValueError("a text that takes four times its size")
        self._stack.append(text)

    def _skip(self, num_bytes: int, is_utf8: bool) -> Span:
        start = self._size - self._num_left
        self._account(num_bytes)
        self._file.seek(start + num_bytes)
        return Span(start, num_bytes, is_utf8)

    def check_frame(self) -> None:
        if self._number(_ULONG) > self._num_left:
            raise ValueError("it is cut short")

    def mark(self) -> None:
        self._marks.append(len(self._stack))

    def push_tuple(self, number: int) -> None:
        self._stack.append(tuple(self._pop(number)))

    def push_marked_tuple(self) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def append(self) -> None:
        self._extend(self._pop(1))

    def append_marked(self) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def set_item(self) -> None:
        self._set_items(self._pop(2))

    def set_marked_items(self) -> None:
        self._set_items(self._pop_to_mark())

    def _set_items(self, items: list[Any]) -> None:
        table = self._top(dict)
        if len(items) % 2:
            raise ValueError("a name without a value")
        for key, value in zip(items[::2], items[1::2]):
            _require_new_key(table, key)
            table[key] = value

    def remember(self, index: int) -> None:
        self._memo[index] = self._top(object)

    def remember_next(self) -> None:
        self.remember(len(self._memo))

    def remember_at(self, form: struct.Struct) -> None:
        self.remember(self._number(form))

    def recall(self, form: struct.Struct) -> None:
        index = self._number(form)
        if index not in self._memo:
            raise ValueError("a part is missing")
        self._stack.append(self._memo[index])

    def import_lines(self) -> None:
        self._import(self._line(), self._line())

    def import_pair(self) -> None:
        self._import(*self._pop(2))

    def _line(self) -> str:
        line = self._file.readline(_MAX_NAME)
        self._account(len(line))
        if line[-1:] != b"\n":
            raise ValueError("it is cut short")
        return line[:-1].decode()

    def _import(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("an import of something without a name")
        wanted = f"{module}.{name}"
        if wanted not in FUNCTIONS:
            raise ForbiddenImportError(ascii(wanted[:_MAX_NAME])[1:-1])
        self._stack.append(Function(wanted))

    def call(self) -> None:
        function, arguments = self._pop(2)
        if not isinstance(function, Function) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that is no function")
        try:
            self._stack.append(FUNCTIONS[function.name](*arguments))
        except TypeError:
            raise ValueError(f"a wrong call of {function.name}") from None

    def build(self) -> None:
        (state,) = self._pop(1)
        self._top(StoredArray, StoredDtype).set_state(state)


def _require_new_key(table: dict[Any, Any], key: Any) -> None:
    if isinstance(key, str):
        if not key.isprintable():
            raise ValueError("a name that cannot be printed")
    elif not isinstance(key, int):
        raise ValueError(f"a key of type {type(key).__name__}")
    elif not -_MAX_KEY <= key < _MAX_KEY:
        raise ValueError("a key of more than 32 bits")
    if key in table:
        raise ValueError(f"{str(key)[:80]!r} twice")


_Step = Callable[[_Machine], None]


def _step(method: Callable[..., None], *arguments: Any) -> _Step:
    def run(machine: _Machine) -> None:
        method(machine, *arguments)

    return run if arguments else method


_STEPS: dict[bytes, _Step] = {
    pickle.FRAME: _Machine.check_frame,
    pickle.MARK: _Machine.mark,
    pickle.NONE: _step(_Machine.push, None),
    pickle.NEWTRUE: _step(_Machine.push, True),
    pickle.NEWFALSE: _step(_Machine.push, False),
    pickle.BININT: _step(_Machine.push_number, _INT),
    pickle.BININT1: _step(_Machine.push_number, _BYTE),
    pickle.BININT2: _step(_Machine.push_number, _SHORT),
    pickle.BINFLOAT: _step(_Machine.push_number, _DOUBLE),
    pickle.LONG1: _Machine.push_long,
    pickle.SHORT_BINBYTES: _step(_Machine.push_bytes, _BYTE),
    pickle.BINBYTES: _step(_Machine.push_bytes, _UINT),
    pickle.BINBYTES8: _step(_Machine.push_bytes, _ULONG),
    pickle.SHORT_BINUNICODE: _step(_Machine.push_text, _BYTE, "utf-8"),
    pickle.BINUNICODE: _step(_Machine.push_text, _UINT, "utf-8"),
    pickle.BINUNICODE8: _step(_Machine.push_text, _ULONG, "utf-8"),
    # Text of Python 2, where bytes were text; read as paddle.load reads it.
    pickle.SHORT_BINSTRING: _step(_Machine.push_text, _BYTE, "latin1"),
    pickle.BINSTRING: _step(_Machine.push_text, _UINT, "latin1"),
    pickle.EMPTY_TUPLE: _step(_Machine.push, ()),
    pickle.TUPLE: _Machine.push_marked_tuple,
    pickle.TUPLE1: _step(_Machine.push_tuple, 1),
    pickle.TUPLE2: _step(_Machine.push_tuple, 2),
    pickle.TUPLE3: _step(_Machine.push_tuple, 3),
    pickle.EMPTY_LIST: _step(_Machine.push_new, list),
    pickle.APPEND: _Machine.append,
    pickle.APPENDS: _Machine.append_marked,
    pickle.EMPTY_DICT: _step(_Machine.push_new, dict),
    pickle.SETITEM: _Machine.set_item,
    pickle.SETITEMS: _Machine.set_marked_items,
    pickle.GLOBAL: _Machine.import_lines,
    pickle.STACK_GLOBAL: _Machine.import_pair,
    pickle.REDUCE: _Machine.call,
    pickle.BUILD: _Machine.build,
    pickle.MEMOIZE: _Machine.remember_next,
    pickle.BINPUT: _step(_Machine.remember_at, _BYTE),
    pickle.LONG_BINPUT: _step(_Machine.remember_at, _UINT),
    pickle.BINGET: _step(_Machine.recall, _BYTE),
    pickle.LONG_BINGET: _step(_Machine.recall, _UINT),
}


def _name_of(opcode: bytes) -> str:
    names = [name for name in pickle.__all__ if getattr(pickle, name) == opcode]
    return names[0] if names else repr(opcode)[1:]
