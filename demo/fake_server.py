"""A small HTTP server for fakes of providers: it records its requests, and fails on demand."""

import json
import socket
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class Handler(BaseHTTPRequestHandler):
    """One request. `fake` is the server that it belongs to."""

    protocol_version = "HTTP/1.1"
    fake: "FakeServer"

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.fake.requests.append((self.command, self.path, dict(self.headers), body))
        failure = self.fake.failures.popleft() if self.fake.failures else None
        if failure == "reset":
            self.cut()
        elif failure == "garbage":
            self.answer(200, b"<html>\x00 not json", "text/html")
        elif isinstance(failure, int):
            self.answer(failure, b'{"error": {"message": "fake failure"}}')
        elif isinstance(failure, tuple):
            self.answer(failure[0], b'{"error": {"message": "fake failure"}}', headers=failure[1])
        else:
            if failure == "slow":
                time.sleep(self.fake.slow_seconds)
            self.fake.respond(self, body, failure)

    do_GET = do_POST = do_PUT = do_HEAD = handle_any

    def answer(
        self,
        status: int,
        body: bytes | dict[str, Any] | list[Any] = b"",
        kind: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def cut(self) -> None:
        """Cut the connection."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        pass


class FakeServer:
    """A server whose subclass implements `respond`.

    `failures` are answers to give first, in order: a status, (status, headers), `slow`, `garbage`,
    `reset`, or one that the fake itself knows.
    """

    slow_seconds = 1.0

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.failures: deque[Any] = deque()
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Bound", (Handler,), {"fake": self})
        )
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def respond(self, request: Handler, body: bytes, failure: Any) -> None:
        """Answer a request."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
