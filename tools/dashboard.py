"""Show runs in a browser, on this machine only: python tools/dashboard.py --logdir output"""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from pathlib import Path
from typing import Any, Sequence

from ppema.console import PlainParser, Screen, log_to, run_tool
from ppema.errors import ConfigError

# Nobody beyond this machine can reach it, whatever its firewall says.
HOST = "127.0.0.1"
PORT = 8040
_LAST_PORT = 65_535
_TRIES = 100
_INTERRUPTED, _TERMINATED = 130, 143
_RECORDS = "vdlrecords.*.log"

logger = logging.getLogger("ppema.dashboard")


class _Terminated(BaseException):
    """SIGTERM came."""


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments."""
    parser = PlainParser(__doc__)
    parser.add_argument(
        "--logdir",
        type=Path,
        default=Path("output"),
        metavar="DIR",
        help="where the runs are (output); one run's folder will do",
    )
    parser.add_argument(
        "--port", type=_port, default=PORT, metavar="N", help=f"where to listen ({PORT})"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Serve the runs until Ctrl-C or SIGTERM, and leave with the exit code."""
    arguments = parse_arguments(argv)
    log_to(Screen())
    folder = arguments.logdir
    if not folder.is_dir():
        raise ConfigError(f"--logdir {folder}: no such folder; train first, or name another")
    listener = _listen(arguments.port)
    if next(folder.rglob(_RECORDS), None) is None:
        logger.warning("%s: holds no records of a run yet (use_vdl: true writes them)", folder)
    signal.signal(signal.SIGTERM, _raise_terminated)
    # Bound already, so that a browser that is quick waits rather than fails.
    hint = "" if arguments.quiet else "  (Ctrl-C ends it)"
    print(f"http://{HOST}:{arguments.port}/app/index{hint}", flush=True)
    code = _INTERRUPTED
    # Serving ends by Ctrl-C only, which the server may well catch itself.
    with contextlib.suppress(KeyboardInterrupt):
        try:
            _make_server(folder, listener, arguments.port).serve_forever()
        except _Terminated:
            code = _TERMINATED
    sys.stdout.flush()
    # VisualDL has a thread that never ends, and would keep the process.
    os._exit(code)


def _make_server(folder: Path, listener: socket.socket, port: int) -> Any:
    """Return the server of VisualDL's pages, in English, that reports to nobody."""
    interrupt = signal.getsignal(signal.SIGINT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from visualdl.server.app import create_app
        from visualdl.server.args import ParseArgs
        from werkzeug.serving import make_server

        arguments = ParseArgs(
            logdir=[str(folder)], host=HOST, port=port, language="en", telemetry=False
        )
        app = create_app(arguments)
    # VisualDL lets Ctrl-C kill the process, which leaves no exit code of our own.
    signal.signal(signal.SIGINT, interrupt)
    # Each request and each read of a file is a line otherwise.
    for name in ("werkzeug", "visualdl", "root"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # A browser opens connections that it then leaves idle; one thread would wait for them.
    return make_server(HOST, port, _guarded(app), threaded=True, fd=listener.fileno())


def _guarded(app: Any) -> Any:
    """Return the application for one request at a time, to this machine by its own names.

    VisualDL is made for one thread. And a page from elsewhere could have its name resolve to
    127.0.0.1 and read what is served here.
    """
    turn = threading.Lock()

    def checked(environ: Any, start_response: Any) -> Any:
        host = environ.get("HTTP_HOST", "").rsplit(":", 1)[0]
        if host not in (HOST, "localhost"):
            start_response("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"this dashboard answers to 127.0.0.1 and localhost only\n"]
        with turn:
            return app(environ, start_response)

    return checked


def _listen(port: int) -> socket.socket:
    """Return a socket that listens on a port of this machine.

    Raises:
        ConfigError: another program does already; names a port that is free.
    """
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"--port {port}: another program listens there; {_free_port(port)} is free"
            ) from None
        raise ConfigError(f"--port {port}: {os.strerror(error.errno or 0).lower()}") from None


def _free_port(port: int) -> int:
    """Return a port above, or any, on which nothing listens at the moment."""
    for candidate in (*range(port + 1, min(port + _TRIES, _LAST_PORT)), 0):
        with contextlib.suppress(OSError), socket.create_server((HOST, candidate)) as found:
            return int(found.getsockname()[1])
    return 0


def _raise_terminated(*_: object) -> None:
    raise _Terminated


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _LAST_PORT:
        raise argparse.ArgumentTypeError(f"must be a port, 1 to {_LAST_PORT}, got {text!r}")
    return int(text)


if __name__ == "__main__":
    run_tool(main)
