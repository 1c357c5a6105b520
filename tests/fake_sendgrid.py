"""A small server that answers like SendGrid's `POST /v3/mail/send`, checks every request, and fails on demand."""

import json
import socket
import threading
import time
import uuid
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeSendGrid:
    """Remembers the accepted mails; `failures` are answers to give first, in order.

    A failure is a status (429 with seconds until the reset: `(429, 2.0)`), or `slow`, `garbage`, `reset`.
    """

    def __init__(self) -> None:
        self.key = "SG.fake-key-for-tests-0123456789"
        self.mails: list[dict[str, Any]] = []
        self.failures: deque[Any] = deque()
        self.connections = 0
        self.requests = 0
        self.delay = 0.0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "FakeSendGrid":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def to(self, address: str) -> list[dict[str, Any]]:
        """The mails that were accepted for an address."""
        return [mail for mail in self.mails if any(address == to["email"] for to in mail["personalizations"][0]["to"])]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                with fake._lock:
                    fake.connections += 1

            def do_GET(self) -> None:
                """What a key may do, and nobody who is suppressed."""
                good = self.headers.get("Authorization") == f"Bearer {fake.key}"
                body = json.dumps({"scopes": ["mail.send"]} if self.path == "/v3/scopes" else []).encode() if good else b'{"errors": []}'
                self.send_response(200 if good else 401)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with fake._lock:
                    fake.requests += 1
                    failure = fake.failures.popleft() if fake.failures else None
                time.sleep(fake.delay)
                if failure == "reset":
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                elif failure == "garbage":
                    self._answer(500, {}, b"<html>\x00 not json")
                elif failure == "slow":
                    time.sleep(3)
                    self.close_connection = True
                elif failure is not None:
                    status, reset = failure if isinstance(failure, tuple) else (failure, None)
                    headers = {"X-RateLimit-Reset": str(int(time.time() + reset) + 1)} if reset else {}
                    self._answer(status, headers, _error(f"fake {status}"))
                else:
                    self._accept(body)

            def _accept(self, body: bytes) -> None:
                problem = fake._problem(self.path, self.headers, body)
                if problem:
                    self._answer(*problem)
                    return
                with fake._lock:
                    fake.mails.append(json.loads(body))
                self._answer(202, {"X-Message-Id": uuid.uuid4().hex}, b"")

            def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler

    def _problem(self, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes] | None:
        if headers.get("Authorization") != f"Bearer {self.key}":
            return 401, {}, _error("The provided authorization grant is invalid")
        if path != "/v3/mail/send":
            return 404, {}, _error("no such path")
        try:
            mail = json.loads(body)
            recipients = mail["personalizations"][0]["to"]
            assert recipients and all("@" in to["email"] for to in recipients)
            assert mail["personalizations"][0]["custom_args"]["message_id"]
            assert mail["from"]["email"] and mail["subject"] and "\n" not in mail["subject"]
            assert [part["type"] for part in mail["content"]] in (["text/plain"], ["text/plain", "text/html"])
        except (ValueError, KeyError, IndexError, TypeError, AssertionError) as error:
            return 400, {}, _error(f"bad request: {error!r}")
        if any(to["email"].startswith("refused") for to in recipients):
            return 400, {}, _error("Does not contain a valid address.", "personalizations.0.to.0.email")
        return None


def _error(message: str, field: str | None = None) -> bytes:
    return json.dumps({"errors": [{"message": message, "field": field, "help": None}]}).encode()
