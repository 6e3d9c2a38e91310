"""Write Paddle's weight files to the byte, without a second copy of the weights in memory.

`paddle.save` turns every tensor of a file into an array first, and then every array into bytes:
twice the file's size. Here each tensor becomes bytes when its turn comes.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import IO, Any, NamedTuple

import paddle

from ..averaging.views import flat_view, is_viewable

# The entry that paddle.save adds beside the weights: Paddle's own names for them.
PADDLE_NAMES = "StructuredToParameterName@@"
# What paddle.save writes.
_PROTOCOL = 4


class Written(NamedTuple):
    """What a manifest says of a file, as it was handed to the disk."""

    size: int
    sha256: str


def write_weight_file(path: Path, tensors: Any) -> Written:
    """Write tensors or plain values as `paddle.save` does, and wait until the disk has them.

    Tensors below the top of a nested dict or list are written as arrays, without Paddle's names.

    Raises:
        OSError: the disk refused.
    """
    with open(path, "wb") as file:
        hashed = _HashedFile(file)
        pickle.dump(_to_stored(tensors), hashed, protocol=_PROTOCOL)
        file.flush()
        os.fsync(file.fileno())
    return hashed.written()


class _HashedFile:
    """Pass on what is written to a file, and know its size and digest without reading it again."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._size = 0

    def write(self, data: Any) -> int:
        self._digest.update(data)
        self._size += len(data)
        return self._file.write(data)

    def written(self) -> Written:
        return Written(self._size, self._digest.hexdigest())


class _StoredTensor:
    """Stand in for a tensor's array: pickle asks for its bytes when it is written, and not before.

    One for each name: of a tensor with two names Paddle writes two arrays.
    """

    __slots__ = ("_tensor",)

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor

    def __reduce_ex__(self, protocol: Any) -> Any:
        tensor = self._tensor
        if is_viewable(tensor):
            return flat_view(tensor).reshape(tensor.shape).__reduce_ex__(protocol)
        return tensor.numpy().__reduce_ex__(protocol)


def _to_stored(tensors: Any) -> Any:
    stored = _with_stand_ins(tensors)
    # What paddle.save takes for a state, and adds its table of names to.
    if isinstance(tensors, dict) and all(
        paddle.is_tensor(value) or isinstance(value, dict) for value in tensors.values()
    ):
        stored[PADDLE_NAMES] = {
            name: value.name for name, value in tensors.items() if paddle.is_tensor(value)
        }
    return stored


def _with_stand_ins(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_stand_ins(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_stand_ins(item) for item in value]
    return _StoredTensor(value) if paddle.is_tensor(value) else value
