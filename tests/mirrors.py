"""A web server on this machine that serves files, or misbehaves."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time


class Mirror(http.server.ThreadingHTTPServer):
    """A web server on this machine that serves `files`, or misbehaves by path.

    A path's value is the body, or a function that is called with the request's handler.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.requests = {}, []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"

    def handle_error(self, request, client_address):
        """Stay silent: clients that hang up are what these tests are about."""


@contextlib.contextmanager
def serving():
    """Give a `Mirror` that answers for the length of a `with` block."""
    with Mirror() as server:
        # Polls often, since shutdown waits for a poll.
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        body = self.server.files.get(self.path[1:])
        if body is None:
            self.send_error(404)
        elif callable(body):
            body(self)
        else:
            send(self, body)

    def log_message(self, *_):
        pass


def send(handler, body, announced=None):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body) if announced is None else announced))
    handler.end_headers()
    handler.wfile.write(body)


def redirect(location):
    def answer(handler):
        handler.send_response(302)
        handler.send_header("Location", location)
        handler.end_headers()

    return answer


def silent(start=None, announced=None):
    """Answer with the first bytes, or not at all, then nothing until the client hangs up."""

    def answer(handler):
        if start is not None:
            send(handler, start, announced)
            handler.wfile.flush()
        with contextlib.suppress(OSError):
            handler.connection.recv(1)

    return answer


def dribble(byte_count, pause_s, announced):
    def answer(handler):
        send(handler, b"", announced)
        for _ in range(byte_count):
            handler.wfile.write(b"x")
            time.sleep(pause_s)

    return answer


def endless(handler):
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(1 << 16))
