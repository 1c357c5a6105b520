"""A small server that answers like Gemini's REST API, checks every request, and fails on demand."""

import json
import socket
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PIECES = ["Queues hold ", "the rain, ", "one drop at a time."]


class FakeGemini:
    """Remembers the prompts; `failures` are answers to give first, in order: a status, or `slow`, `garbage`, `reset`, `blocked`, `cut`, `quota` (for a second)."""

    def __init__(self) -> None:
        self.key = "fake-gemini-key-0123456789"
        self.prompts: list[dict[str, Any]] = []
        self.failures: deque[Any] = deque()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "FakeGemini":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                path = self.path.partition("?")[0]
                failure = fake.failures.popleft() if fake.failures else None
                if failure == "reset":
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                elif failure == "garbage":
                    self._answer(200, b"<html>\x00 not json")
                elif failure == "blocked":
                    self._answer(200, json.dumps([{"promptFeedback": {"blockReason": "SAFETY"}}]).encode())
                elif failure == "quota":
                    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1s"}
                    self._answer(429, json.dumps({"error": {"code": 429, "message": "no quota", "status": "RESOURCE_EXHAUSTED", "details": [info]}}).encode())
                elif isinstance(failure, int):
                    self._answer(failure, json.dumps({"error": {"code": failure, "message": f"fake {failure}", "status": "FAKE"}}).encode())
                elif self.headers.get("x-goog-api-key") != fake.key:
                    self._answer(403, json.dumps({"error": {"code": 403, "message": "wrong key", "status": "PERMISSION_DENIED"}}).encode())
                elif not path.startswith("/v1beta/models/") or not path.endswith(":streamGenerateContent") or not body.get("contents"):
                    self._answer(400, json.dumps({"error": {"code": 400, "message": "not what Gemini takes", "status": "INVALID_ARGUMENT"}}).encode())
                else:
                    if failure == "slow":
                        time.sleep(1)
                    fake.prompts.append({**body, "model": path.split("/")[-1].partition(":")[0]})
                    self._stream(cut=failure == "cut")

            def _stream(self, *, cut: bool) -> None:
                """A JSON array, written piece by piece."""
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for number, text in enumerate(PIECES):
                    last = number == len(PIECES) - 1
                    answer: dict[str, Any] = {"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}}]}
                    if last:
                        answer["candidates"][0]["finishReason"] = "STOP"
                        answer["usageMetadata"] = {"promptTokenCount": 5, "candidatesTokenCount": 9, "totalTokenCount": 14}
                    self._chunk(("[" if number == 0 else ",") + json.dumps(answer) + ("]" if last else ""))
                    if cut:
                        self.connection.shutdown(socket.SHUT_RDWR)
                        self.close_connection = True
                        return
                    time.sleep(0.05)
                self.wfile.write(b"0\r\n\r\n")

            def _chunk(self, text: str) -> None:
                self.wfile.write(f"{len(text.encode()):x}\r\n{text}\r\n".encode())

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
