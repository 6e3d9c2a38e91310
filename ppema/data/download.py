"""Fetch one file from the first mirror that has it: bounded in time and size, whole or absent."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import secrets
import time
import urllib.parse
from pathlib import Path
from typing import IO, Callable, Iterator, Mapping, Optional, Sequence

from ..errors import DataError, StorageError
from .transfer import SCHEMES, MirrorError, Transfer

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

# A large file from a slow mirror that keeps sending is worth waiting for.
_SLOWEST_BYTES_PER_S = 1e5


class MirrorsFailedError(DataError):
    """No mirror gave the file; the text is what each of them answered."""


class Downloader:
    """Download files, and remember from one to the next which hosts do not answer.

    A host that could not be reached, or fell silent, is not asked again. A host that answered
    (with 404, with wrong bytes) is, since it may well have the next file.

    Args:
        connect_timeout_s: until the mirror's answer begins: name, connection, redirects, headers.
        stall_timeout_s: without a single byte.
        total_timeout_s: for one file from one mirror; a file that takes longer at 100 kB/s has
            as long as that.
    """

    def __init__(
        self,
        connect_timeout_s: float = 5.0,
        stall_timeout_s: float = 10.0,
        total_timeout_s: float = 300.0,
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._stall_timeout_s = stall_timeout_s
        self._total_timeout_s = total_timeout_s
        self._dead_hosts: dict[str, str] = {}

    def download(
        self,
        urls: Sequence[str],
        target: Path,
        md5: str,
        num_bytes: int,
        progress: Optional[Progress] = None,
    ) -> None:
        """Put the file into `target`, from the first URL that gives exactly these bytes.

        What stood there before stays until the new file is whole, and whatever happens no
        part of a file is left behind.

        Args:
            urls: http or https, tried in turn.
            target: its folder is made when the first byte arrives.
            md5: of the file, in hex. It finds accidents; the mirrors are trusted.
            num_bytes: of the file; a longer body is cut off there and refused.
            progress: called with the bytes so far and `num_bytes`.

        Raises:
            ValueError: a URL is neither http nor https.
            MirrorsFailedError: none of them gave the file.
            StorageError: the folder or the file cannot be written.
        """
        for url in urls:
            if urllib.parse.urlsplit(url).scheme not in SCHEMES:
                raise ValueError(f"only http and https are downloaded from, got {url!r}")
        answers: dict[str, str] = {}
        for url in urls:
            answer = self._try_mirror(url, target, md5, num_bytes, progress)
            if answer is None:
                logger.info("wrote %s (%d bytes from %s)", target, num_bytes, url)
                return
            answers[url] = answer
        raise MirrorsFailedError(_describe(answers))

    def _try_mirror(
        self, url: str, target: Path, md5: str, num_bytes: int, progress: Optional[Progress]
    ) -> Optional[str]:
        """Return None when the file is in place, else what the mirror answered."""
        host = urllib.parse.urlsplit(url).netloc
        if host in self._dead_hosts:
            return self._dead_hosts[host]
        try:
            with contextlib.closing(Transfer(url, num_bytes, self._stall_timeout_s)) as transfer:
                self._receive(transfer, target, md5, num_bytes, progress)
        except MirrorError as error:
            if error.is_host_dead:
                self._dead_hosts[host] = str(error)
            return str(error)
        return None

    def _receive(
        self,
        transfer: Transfer,
        target: Path,
        md5: str,
        num_bytes: int,
        progress: Optional[Progress],
    ) -> None:
        digest, received = hashlib.md5(usedforsecurity=False), 0
        end = time.monotonic() + max(self._total_timeout_s, num_bytes / _SLOWEST_BYTES_PER_S)
        transfer.wait_for_answer(min(self._connect_timeout_s, self._total_timeout_s))
        with _replacing(target) as file:
            while chunk := transfer.next_chunk(self._stall_timeout_s, end):
                received += len(chunk)
                if received > num_bytes:
                    raise MirrorError(f"sends more than the {num_bytes} bytes expected")
                file.write(chunk)
                digest.update(chunk)
                if progress is not None:
                    progress(received, num_bytes)
            if received < num_bytes:
                raise MirrorError(f"ended after {received} of {num_bytes} bytes")
            if digest.hexdigest() != md5:
                raise MirrorError(f"sent a file with md5 {digest.hexdigest()}, expected {md5}")


def _describe(answers: Mapping[str, str]) -> str:
    return ", ".join(f"{url}: {answer}" for url, answer in answers.items()) or "no mirrors are set"


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[IO[bytes]]:
    """Give a new file that takes the place of `target` once it is whole and on the disk."""
    # Beside the target, because a rename is atomic only within one file system.
    partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except OSError as error:
        full = error.errno == errno.ENOSPC
        reason = "no space left" if full else error.strerror or str(error)
        raise StorageError(f"cannot write {target}: {reason}") from None
    finally:
        # Gone already where the file took its place.
        with contextlib.suppress(OSError):
            partial.unlink()
