"""A small server that answers like Gemini's REST API, validates every request, fails on demand.

It serves both packages: the older one reads a JSON array, the newer one server-sent events.
"""

import json
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

from demo.fake_server import FakeServer, Handler

PIECES = ["Queues hold ", "the rain, ", "one drop at a time."]
USAGE = {"promptTokenCount": 5, "candidatesTokenCount": 9, "totalTokenCount": 14}
_CONFIG = {
    "temperature",
    "maxOutputTokens",
    "responseMimeType",
    "responseSchema",
    "responseJsonSchema",
}


def chunk(*parts: Any, finish: str | None = None, usage: Any = None, **more: Any) -> dict[str, Any]:
    """A part of an answer; a string is a part of text."""
    texts = [{"text": part} if isinstance(part, str) else part for part in parts]
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": texts}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], **({"usageMetadata": usage} if usage else {}), **more}


class FakeGemini(FakeServer):
    """Records the prompts.

    `failures` may also be `blocked`, `cut`, `quota` (for a second), `latin-1`. `chunks` replace the
    usual answer; `models` are listed, and all except `retired` ones write.
    """

    key = "fake-gemini-key-0123456789"

    def __init__(self) -> None:
        super().__init__()
        self.fresh()

    def fresh(self) -> None:
        """Reset everything."""
        self.prompts: list[dict[str, Any]] = []
        self.requests.clear()
        self.failures.clear()
        self.chunks: list[dict[str, Any]] | None = None
        self.models = ["gemini-3.5-flash-lite", "gemini-3.8-flash"]
        self.retired = {"gemini-2.0-flash"}
        self.refuses: dict[str, str] = {}
        self.same_page = False

    def respond(self, request: Handler, body: bytes, failure: Any) -> None:
        url = urlsplit(request.path)
        if failure == "blocked":
            part = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": USAGE}
            return self._stream(request, [part], cut=False)
        if failure == "quota":
            kind = "type.googleapis.com/google.rpc.RetryInfo"
            details = [{"@type": kind, "retryDelay": "1s"}]
            return self._error(request, 429, "RESOURCE_EXHAUSTED", "no quota", details)
        if request.headers.get("x-goog-api-key") != self.key:
            return self._error(request, 403, "PERMISSION_DENIED", "wrong key")
        if request.command == "GET" and url.path == "/v1beta/models":
            return self._list(request)
        if failure == "latin-1":
            text = json.dumps(chunk("A café.", finish="STOP"), ensure_ascii=False)
            whole = f"data: {text}\r\n\r\n" if "sse" in url.query else f"[{text}]"
            return request.answer(200, whole.encode("latin-1"))
        payload = json.loads(body)
        model = url.path.split("/")[-1].partition(":")[0]
        if wrong := self._wrong(url.path, payload):
            return self._error(request, 400, "INVALID_ARGUMENT", wrong)
        if model in self.retired:
            words = f"This model models/{model} is no longer available."
            return self._error(request, 404, "NOT_FOUND", words)
        self.prompts.append({**payload, "model": model})
        chunks = self.chunks
        if chunks is None:
            chunks = [chunk(text) for text in PIECES[:-1]]
            chunks.append(chunk(PIECES[-1], finish="STOP", usage=USAGE))
        return self._stream(request, chunks, cut=failure == "cut")

    def _wrong(self, path: str, payload: dict[str, Any]) -> str:
        config = payload.get("generationConfig", {})
        if not path.startswith("/v1beta/models/") or not path.endswith(":streamGenerateContent"):
            return "not what Gemini takes"
        if not payload.get("contents") or config.keys() - _CONFIG:
            return f"not what Gemini takes: {config}"
        if "additionalProperties" in json.dumps(config.get("responseSchema", {})):
            return 'Invalid JSON payload received. Unknown name "additionalProperties"'
        refused = [name for name in self.refuses if name in payload or name in config]
        return self.refuses[refused[0]] if refused else ""

    def _list(self, request: Handler) -> None:
        listed = [
            {"name": f"models/{name}", "supportedGenerationMethods": ["generateContent"]}
            for name in self.models
        ]
        more = {"nextPageToken": "again"} if self.same_page else {}
        request.answer(200, {"models": listed, **more})

    def _error(
        self, request: Handler, status: int, name: str, words: str, details: Any = ()
    ) -> None:
        error = {"code": status, "message": words, "status": name, "details": list(details)}
        request.answer(status, {"error": error})

    def _stream(self, request: Handler, chunks: list[dict[str, Any]], *, cut: bool) -> None:
        """A JSON array or server-sent events, written piece by piece."""
        events = parse_qs(urlsplit(request.path).query).get("alt") == ["sse"]
        request.send_response(200)
        kind = "text/event-stream" if events else "application/json"
        request.send_header("Content-Type", kind)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        for number, part in enumerate(chunks):
            text = json.dumps(part)
            last = number == len(chunks) - 1
            if events:
                text = f"data: {text}\r\n\r\n"
            else:
                text = ("[" if number == 0 else ",") + text + ("]" if last else "")
            request.wfile.write(f"{len(text.encode()):x}\r\n{text}\r\n".encode())
            request.wfile.flush()
            if cut:
                return request.cut()
            time.sleep(0.05)
        request.wfile.write(b"0\r\n\r\n")
        return None
