"""One HTTP request whose every wait is bounded, and what a mirror's answer is called."""

from __future__ import annotations

import http.client
import queue
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Optional

SCHEMES = ("http", "https")
THREAD_NAME = "ppema-download"

_CHUNK_BYTES = 1 << 16
_MAX_ANSWER = 200
# Of a body whose size is not known before; more is no file that anybody waits for.
_MOST_BYTES = 1 << 36
# Two classes until Python 3.10, one since.
_TIMEOUTS = (TimeoutError, socket.timeout)
_ANSWERED = None


class MirrorError(Exception):
    """Say what one mirror answered; `is_host_dead` when asking it again would only take time."""

    def __init__(self, answer: str, is_host_dead: bool = False) -> None:
        # A server's words end up on a terminal, on one line.
        printable = "".join(letter if letter.isprintable() else " " for letter in answer)
        super().__init__(" ".join(printable.split())[:_MAX_ANSWER])
        self.is_host_dead = is_host_dead


class Transfer:
    """One GET, in a thread of its own.

    Neither name look-up nor TLS nor a server that sends a byte now and then heeds a socket's
    timeout; a thread that is no longer waited for bounds them all.

    Args:
        url: http or https.
        num_bytes: that the body must have; None for as many as the server announces.
        socket_timeout_s: for each read.
    """

    def __init__(self, url: str, num_bytes: Optional[int], socket_timeout_s: float) -> None:
        # A body longer than expected is not read to its end, hence no bound on the queue.
        self._items: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._is_abandoned = threading.Event()
        self._num_received, self._num_bytes = 0, num_bytes
        arguments = (url, num_bytes, socket_timeout_s)
        threading.Thread(target=self._run, args=arguments, name=THREAD_NAME, daemon=True).start()

    @property
    def num_bytes(self) -> Optional[int]:
        """Return how many bytes the body has, None where that is known by nobody."""
        return self._num_bytes

    def wait_for_answer(self, timeout_s: float) -> None:
        """Wait until the headers are in.

        Raises:
            MirrorError: they say that the file is not to be had, or do not come in time.
        """
        try:
            item = self._items.get(timeout=timeout_s)
        except queue.Empty:
            raise MirrorError(f"no answer within {timeout_s:g} s", is_host_dead=True) from None
        if isinstance(item, BaseException):
            raise _as_mirror_error(item) from None

    def next_chunk(self, timeout_s: float, end: float) -> bytes:
        """Return the next bytes of the body, b"" at its end.

        Args:
            timeout_s: to wait for them.
            end: on the monotonic clock, when the whole must be done.

        Raises:
            MirrorError: they do not come, or not in time.
        """
        of = "" if self._num_bytes is None else f" of {self._num_bytes}"
        where = f"after {self._num_received}{of} bytes"
        left_s = end - time.monotonic()
        try:
            if left_s <= 0:
                raise queue.Empty
            item = self._items.get(timeout=min(timeout_s, left_s))
        except queue.Empty:
            how = "too slow, stopped" if left_s < timeout_s else f"silent for {timeout_s:g} s"
            raise MirrorError(f"{how} {where}", is_host_dead=True) from None
        if isinstance(item, _TIMEOUTS):
            raise MirrorError(f"silent for {timeout_s:g} s {where}", is_host_dead=True) from None
        if isinstance(item, BaseException):
            raise MirrorError(f"broke off {where}") from None
        self._num_received += len(item)
        return bytes(item)

    def close(self) -> None:
        """Let the thread end at its next chunk."""
        self._is_abandoned.set()

    def _run(self, url: str, num_bytes: Optional[int], socket_timeout_s: float) -> None:
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "ppema"})
            with _opener().open(request, timeout=socket_timeout_s) as response:
                # Before the answer is said to be in, so that who waits for it can read it.
                self._num_bytes = _check_headers(response, num_bytes)
                self._items.put(_ANSWERED)
                num_left = (_MOST_BYTES if self._num_bytes is None else self._num_bytes) + 1
                while num_left > 0 and not self._is_abandoned.is_set():
                    chunk = response.read1(min(_CHUNK_BYTES, num_left))
                    self._items.put(chunk)
                    num_left -= len(chunk)
                    if not chunk:
                        break
        # Whatever it is, the thread that waits is the one to hear of it.
        except Exception as error:
            if isinstance(error, urllib.error.HTTPError):
                # It holds the connection, and the one that waits would never know.
                error.close()
            self._items.put(error)


class _HttpRedirects(urllib.request.HTTPRedirectHandler):
    """Follow a mirror to another host, but never out of http(s) nor from https back to http."""

    max_redirections = 5

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Optional[urllib.request.Request]:
        """Return the request to make in place of `req`."""
        # urllib would read the body that comes with a redirect, however long, into memory.
        fp.close()
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme not in SCHEMES or (req.type == "https" and scheme == "http"):
            raise MirrorError(f"redirects to {newurl!r}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    # Put together by hand: build_opener would add handlers for ftp:, file: and data:.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _HttpRedirects(),
    ):
        opener.add_handler(handler)
    return opener


def _check_headers(response: Any, num_bytes: Optional[int]) -> Optional[int]:
    """Return how many bytes will come: as expected, or as announced."""
    announced = response.headers.get("Content-Length")
    if num_bytes is None:
        is_number = announced is not None and announced.strip().isdecimal()
        return int(announced) if is_number else None
    if announced is not None and announced.strip() != str(num_bytes):
        raise MirrorError(f"announces {announced} bytes, expected {num_bytes}")
    return num_bytes


def _as_mirror_error(error: BaseException) -> MirrorError:
    """Return what went wrong before the body, in words."""
    if isinstance(error, MirrorError):
        return error
    if isinstance(error, urllib.error.HTTPError):
        return MirrorError(f"HTTP {error.code} {error.reason}")
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, socket.gaierror):
        return MirrorError("its name is not known here", is_host_dead=True)
    if isinstance(cause, OSError):
        return MirrorError(f"unreachable: {cause.strerror or cause}", is_host_dead=True)
    if isinstance(cause, http.client.HTTPException):
        return MirrorError(f"does not speak HTTP ({type(cause).__name__})")
    return MirrorError(str(cause))
