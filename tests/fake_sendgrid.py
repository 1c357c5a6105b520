"""A small server that answers like SendGrid's `POST /v3/mail/send`.

It validates every request, and fails on demand.
"""

import base64
import json
import re
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_CONTENTS = (["text/plain"], ["text/html"], ["text/plain", "text/html"])
_SEPARATORS = re.compile(r"[;,\r\n]")
_ADDRESS = re.compile(r"[^\s@<>,;=?]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")


class FakeSendGrid:
    """Records the accepted mails; `failures` are answers to give first, in order.

    A failure is a status, a status with seconds until the reset (`(429, 2.0)`), or `slow`,
    `garbage`, `reset`.
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
        return [
            mail
            for mail in self.mails
            if any(address == to["email"] for to in mail["personalizations"][0]["to"])
        ]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                with fake._lock:
                    fake.connections += 1

            def do_GET(self) -> None:
                """The scopes of a key, and empty lists of suppressions."""
                good = self.headers.get("Authorization") == f"Bearer {fake.key}"
                scopes = {"scopes": ["mail.send"]} if self.path == "/v3/scopes" else []
                body = json.dumps(scopes if good else {"errors": []}).encode()
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
                    headers = (
                        {"X-RateLimit-Reset": str(int(time.time() + reset) + 1)} if reset else {}
                    )
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

    def _problem(
        self, path: str, headers: Any, body: bytes
    ) -> tuple[int, dict[str, str], bytes] | None:
        if headers.get("Authorization") != f"Bearer {self.key}":
            return 401, {}, _error("The provided authorization grant is invalid")
        if path != "/v3/mail/send":
            return 404, {}, _error("no such path")
        try:
            refusal = next(_refusals(json.loads(body)), None)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            return 400, {}, _error(f"bad request: {error!r}")
        return (400, {}, _error(*refusal)) if refusal else None


def _refusals(mail: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What SendGrid rejects (its reference, Mail Send errors): the message and the field."""
    [personalization] = mail["personalizations"]
    if not personalization["custom_args"]["message_id"]:
        yield "this is ours: reports are matched by it", "personalizations.0.custom_args"
    yield from _refused_recipients(personalization)
    for field in ("from", "reply_to"):
        if field in mail and not _is_address(mail[field]["email"]):
            yield f"The {field} email does not contain a valid address.", field
    if not mail["subject"] or "\n" in mail["subject"]:
        yield (
            "The subject of your email must be a string at least one character in length.",
            "subject",
        )
    if [part["type"] for part in mail["content"]] not in _CONTENTS:
        yield "text/plain needs to be first, followed by text/html", "content"
    for number, part in enumerate(mail["content"]):
        if not part["value"]:
            yield (
                "The content value must be a string at least one character in length.",
                f"content.{number}.value",
            )
    for number, file in enumerate(mail.get("attachments", [])):
        yield from _refused_file(file, f"attachments.{number}")


def _refused_recipients(personalization: dict[str, Any]) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    if not personalization["to"]:
        yield (
            "The to parameter is required for all personalization objects.",
            "personalizations.0.to",
        )
    for field in ("to", "cc", "bcc"):
        for number, recipient in enumerate(personalization.get(field, [])):
            place, address = f"personalizations.0.{field}.{number}", recipient["email"].lower()
            if not _is_address(address) or address.startswith("refused"):
                yield "Does not contain a valid address.", f"{place}.email"
            if _SEPARATORS.search(recipient.get("name", "")):
                yield "The name cannot include either the ; or , characters.", f"{place}.name"
            if address in seen:
                yield (
                    "Each email address in the personalization block should be unique between to, "
                    f"cc, and bcc. [{address}]",
                    "personalizations.0",
                )
            seen.add(address)
    if len(seen) > 1000:
        yield (
            "There is a limit of 1000 total recipients (to + cc + bcc) per request.",
            "personalizations",
        )


def _refused_file(file: dict[str, str], place: str) -> Iterator[tuple[str, str]]:
    content = file["content"]
    if not content:
        yield (
            "The attachment content must be a string at least one character in length.",
            f"{place}.content",
        )
    if base64.b64encode(base64.b64decode(content)).decode() != content:
        yield "The attachment content must be base64 encoded.", f"{place}.content"
    for field in ("type", "filename"):
        if not file[field] or _SEPARATORS.search(file[field]):
            yield f"The {field} cannot contain ';', or CRLF characters.", f"{place}.{field}"


def _is_address(text: str) -> bool:
    """One address alone, in ASCII: no name, no comma, no encoded word."""
    return text.isascii() and len(text) <= 320 and _ADDRESS.fullmatch(text) is not None


def _error(message: str, field: str | None = None) -> bytes:
    return json.dumps({"errors": [{"message": message, "field": field, "help": None}]}).encode()
