"""Read IDX archives, MNIST's file format, and refuse any that is not what its header says."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, Optional, Union

import numpy as np
import numpy.typing as npt

from ..errors import DataError

Pixels = npt.NDArray[np.uint8]

_IMAGES_MAGIC = 2051
_LABELS_MAGIC = 2049
_GZIP_START = b"\x1f\x8b"
# Larger than any archive of this family (QMNIST's 814,255 images take 0.6 GiB), small enough
# that a header of random bytes cannot fill the memory.
_MAX_BYTES = 1 << 30
_CHUNK_BYTES = 1 << 20


def read_idx_images(path: Union[str, Path], image_size: Optional[tuple[int, int]] = None) -> Pixels:
    """Return the images of an IDX archive, gzipped or plain, as uint8 [N, rows, columns].

    Args:
        path: the archive; what it starts with tells gzip from plain, not its name.
        image_size: the rows and columns it must have; None admits any.

    Raises:
        DataError: the file cannot be read, is damaged, or is not what its header says.
    Source: http://yann.lecun.com/exdb/mnist/, "FILE FORMATS FOR THE MNIST DATABASE".
    """
    (num_images, rows, columns), pixels = _read_idx(Path(path), _IMAGES_MAGIC, "images", image_size)
    return pixels.reshape(num_images, rows, columns)


def read_idx_labels(path: Union[str, Path], num_classes: int = 10) -> Pixels:
    """Return the labels of an IDX archive, gzipped or plain, as uint8 [N].

    Raises:
        DataError: as `read_idx_images`, or a label is not below `num_classes`.
    """
    _, labels = _read_idx(Path(path), _LABELS_MAGIC, "labels", None)
    wrong = np.flatnonzero(labels >= num_classes)
    if len(wrong):
        raise DataError(
            f"{path}: label {labels[wrong[0]]} at sample {wrong[0]}; "
            f"classes are 0-{num_classes - 1}"
        )
    return labels


def read_idx_pair(
    images_path: Union[str, Path],
    labels_path: Union[str, Path],
    image_size: Optional[tuple[int, int]] = None,
) -> tuple[Pixels, Pixels]:
    """Return images uint8 [N, rows, columns] and their labels uint8 [N].

    Raises:
        DataError: as the two readers, or there are not as many labels as images.
    """
    images, labels = read_idx_images(images_path, image_size), read_idx_labels(labels_path)
    if len(images) != len(labels):
        raise DataError(
            f"{labels_path}: {len(labels)} labels for the {len(images)} images in {images_path}"
        )
    return images, labels


def _read_idx(
    path: Path, magic: int, noun: str, image_size: Optional[tuple[int, int]]
) -> tuple[tuple[int, ...], Pixels]:
    try:
        with open(path, "rb") as raw:
            is_gzip = raw.read(len(_GZIP_START)) == _GZIP_START
            raw.seek(0)
            if not is_gzip:
                return _parse(path, raw, magic, noun, image_size)
            with gzip.GzipFile(fileobj=raw, mode="rb") as unzipped:
                return _parse(path, unzipped, magic, noun, image_size)
    except EOFError:
        raise DataError(f"{path}: truncated, its gzip stream ends too early") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None


def _parse(
    path: Path,
    file: Union[BinaryIO, gzip.GzipFile],
    magic: int,
    noun: str,
    image_size: Optional[tuple[int, int]],
) -> tuple[tuple[int, ...], Pixels]:
    """Return the sizes that the header gives, and the data as uint8 [product of the sizes]."""
    sizes = _read_header(path, file, magic)
    if image_size is not None and sizes[1:] != image_size:
        found = "x".join(map(str, sizes[1:]))
        raise DataError(f"{path}: images are {found}, expected {image_size[0]}x{image_size[1]}")
    num_bytes = math.prod(sizes)
    if num_bytes == 0:
        raise DataError(f"{path}: header says {sizes[0]} {noun} of {math.prod(sizes[1:])} bytes")
    if num_bytes > _MAX_BYTES:
        raise DataError(
            f"{path}: header says {sizes[0]} {noun} ({num_bytes} bytes), at most "
            f"{_MAX_BYTES} bytes are read"
        )
    # One byte more than the header says: enough to find data it does not speak of, and to
    # make gzip compare the checksum, without unpacking what a hostile file may hold.
    data = _read_up_to(file, num_bytes + 1)
    if len(data) != num_bytes:
        held = len(data) * sizes[0] // num_bytes if len(data) < num_bytes else "more"
        raise DataError(f"{path}: header says {sizes[0]} {noun}, data holds {held}")
    values = np.frombuffer(data, dtype=np.uint8)
    values.setflags(write=False)
    return sizes, values


def _read_header(path: Path, file: Union[BinaryIO, gzip.GzipFile], magic: int) -> tuple[int, ...]:
    """Return the sizes; the magic's last byte says how many there are."""
    num_sizes = magic & 0xFF
    header = bytes(_read_up_to(file, 4 * (1 + num_sizes)))
    found = struct.unpack(">I", header[:4])[0] if len(header) >= 4 else None
    if found is not None and found != magic:
        raise DataError(f"{path}: magic {found}, expected {magic}")
    if len(header) < 4 * (1 + num_sizes):
        raise DataError(f"{path}: {len(header)} bytes long, too short for a header")
    return struct.unpack(f">{num_sizes}I", header[4:])


def _read_up_to(file: Union[BinaryIO, gzip.GzipFile], num_bytes: int) -> bytearray:
    # In chunks, because read(n) reserves n bytes before it knows whether they exist.
    data = bytearray()
    while len(data) < num_bytes:
        chunk = file.read(min(_CHUNK_BYTES, num_bytes - len(data)))
        if not chunk:
            break
        data += chunk
    return data
