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
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Callable, Iterator, Mapping, Optional, Sequence

from ..errors import DataError, StorageError
from .transfer import SCHEMES, MirrorError, Transfer

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

# A large file from a slow mirror that keeps sending is worth waiting for.
_SLOWEST_BYTES_PER_S = 1e5
# Where nobody says how large the file is.
_UNKNOWN_SIZE_TIMEOUT_S = 3600.0


class MirrorsFailedError(DataError):
    """No mirror gave the file; the text is what each of them answered."""


@dataclass(frozen=True)
class Expected:
    """What a file must be: size in bytes and digests in hex; None for what is not known."""

    num_bytes: Optional[int] = None
    md5: Optional[str] = None
    sha256: Optional[str] = None

    def digests(self) -> list[tuple[str, Any, str]]:
        """Return name, a new digest and the value it must have, for each that is known."""
        wanted = [
            ("md5", hashlib.md5(usedforsecurity=False), self.md5),
            ("sha256", hashlib.sha256(), self.sha256),
        ]
        return [(name, digest, value) for name, digest, value in wanted if value is not None]


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
        md5: Optional[str],
        num_bytes: Optional[int],
        progress: Optional[Progress] = None,
        sha256: Optional[str] = None,
    ) -> None:
        """Put the file into `target`, from the first URL that gives exactly these bytes.

        What stood there before stays until the new file is whole, and whatever happens no
        part of a file is left behind.

        Args:
            urls: http or https, tried in turn.
            target: its folder is made when the first byte arrives.
            md5: of the file, in hex, where it is known; for accidents, as mirrors are trusted.
            num_bytes: of the file, where it is known; a longer body is cut off there and refused.
            progress: called with the bytes so far and all, 0 where nobody knows.
            sha256: of the file, in hex, where it is known.

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
            answer = self._try_mirror(url, target, Expected(num_bytes, md5, sha256), progress)
            if answer is None:
                logger.info("wrote %s (%d bytes from %s)", target, target.stat().st_size, url)
                return
            answers[url] = answer
        raise MirrorsFailedError(_describe(answers))

    def _try_mirror(
        self, url: str, target: Path, expected: Expected, progress: Optional[Progress]
    ) -> Optional[str]:
        """Return None when the file is in place, else what the mirror answered."""
        host = urllib.parse.urlsplit(url).netloc
        if host in self._dead_hosts:
            return self._dead_hosts[host]
        try:
            transfer = Transfer(url, expected.num_bytes, self._stall_timeout_s)
            with contextlib.closing(transfer):
                self._receive(transfer, target, expected, progress)
        except MirrorError as error:
            if error.is_host_dead:
                self._dead_hosts[host] = str(error)
            return str(error)
        return None

    def _receive(
        self,
        transfer: Transfer,
        target: Path,
        expected: Expected,
        progress: Optional[Progress],
    ) -> None:
        digests, received, started_s = expected.digests(), 0, time.monotonic()
        transfer.wait_for_answer(min(self._connect_timeout_s, self._total_timeout_s))
        num_bytes = transfer.num_bytes
        end = started_s + self._longest_s(num_bytes)
        with _replacing(target) as file:
            while chunk := transfer.next_chunk(self._stall_timeout_s, end):
                received += len(chunk)
                if num_bytes is not None and received > num_bytes:
                    raise MirrorError(f"sends more than the {num_bytes} bytes expected")
                file.write(chunk)
                for _, digest, _ in digests:
                    digest.update(chunk)
                if progress is not None:
                    progress(received, num_bytes or 0)
            if num_bytes is not None and received < num_bytes:
                raise MirrorError(f"ended after {received} of {num_bytes} bytes")
            for name, digest, wanted in digests:
                if digest.hexdigest() != wanted:
                    raise MirrorError(
                        f"sent a file with {name} {digest.hexdigest()}, expected {wanted}"
                    )

    def _longest_s(self, num_bytes: Optional[int]) -> float:
        if num_bytes is None:
            return max(self._total_timeout_s, _UNKNOWN_SIZE_TIMEOUT_S)
        return max(self._total_timeout_s, num_bytes / _SLOWEST_BYTES_PER_S)


class NoDownloader(Downloader):
    """Ask no mirror: for those who want the data only where they are at hand."""

    def download(
        self,
        urls: Sequence[str],
        target: Path,
        md5: Optional[str],
        num_bytes: Optional[int],
        progress: Optional[Progress] = None,
        sha256: Optional[str] = None,
    ) -> None:
        """Raise MirrorsFailedError."""
        raise MirrorsFailedError("nothing is downloaded for this")


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
