"""Read files out of a tar archive into memory: nothing is ever unpacked onto the disk."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from pathlib import Path
from typing import BinaryIO, Mapping, Sequence, Union

from ..errors import DataError

# CIFAR's archives hold 186 MB; what says it holds far more is no archive of this family.
_MAX_BYTES = 1 << 30
_CHUNK_BYTES = 1 << 20
_GZIP_START = b"\x1f\x8b"


def read_members(path: Path, folder: str, names: Sequence[str]) -> Mapping[str, bytes]:
    """Return the contents of `folder/name` for each name, from a tar archive, gzipped or not.

    Other members are passed over, whatever their names; links are never followed.

    Raises:
        DataError: the archive cannot be read, is damaged, too large, or lacks one of them.
    """
    try:
        with open(path, "rb") as raw:
            is_gzip = raw.read(len(_GZIP_START)) == _GZIP_START
            raw.seek(0)
            if not is_gzip:
                found = _read_tar(path, raw, folder, names)
            else:
                with gzip.GzipFile(fileobj=raw, mode="rb") as unzipped:
                    found = _read_tar(path, unzipped, folder, names)
    except (EOFError, tarfile.TarError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: is truncated or damaged ({_first_line(error)})") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    _require_all(path, found, names)
    return found


def find_members(folder: Path, names: Sequence[str]) -> Mapping[str, bytes]:
    """Return the contents of the same files where the archive was unpacked.

    Raises:
        DataError: one is missing, too large or cannot be read.
    """
    found: dict[str, bytes] = {}
    for name in names:
        path = folder / name
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise _too_large(path)
            found[name] = path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error}") from None
    _require_all(folder, found, names)
    return found


def _read_tar(
    path: Path, file: Union[BinaryIO, gzip.GzipFile], folder: str, names: Sequence[str]
) -> dict[str, bytes]:
    wanted = {f"{folder}/{name}": name for name in names}
    found: dict[str, bytes] = {}
    num_bytes = 0
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            num_bytes += member.size
            if num_bytes > _MAX_BYTES:
                raise _too_large(path)
            name = wanted.get(member.name)
            if name is not None and member.isreg():
                content = archive.extractfile(member)
                assert content is not None
                found[name] = content.read()
    # To the end, since only there gzip compares the checksum.
    while chunk := file.read(_CHUNK_BYTES):
        num_bytes += len(chunk)
        if num_bytes > _MAX_BYTES:
            raise _too_large(path)
    return found


def _too_large(path: Path) -> DataError:
    return DataError(f"{path}: holds more than {_MAX_BYTES} bytes")


def _require_all(path: Path, found: Mapping[str, bytes], names: Sequence[str]) -> None:
    absent = [name for name in names if name not in found]
    if absent:
        raise DataError(f"{path} lacks {', '.join(absent)}")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:100]
