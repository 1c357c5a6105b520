"""A small server that speaks OpenAI's chat completions, checks every request, and fails on demand: also `cut`, `blocked`, `quota`."""

import json
from typing import Any

from tests.fake_server import FakeServer, Handler

SENTENCE = "Queues hold the rain one drop at a time, and every drop is counted before it falls. "


class FakeOpenAI(FakeServer):
    """Remembers the prompts. `write` makes the text of a prompt."""

    key = "fake-openai-key-0123456789"

    def __init__(self) -> None:
        super().__init__()
        self.base_url = f"{self.url}/v1"
        self.prompts: list[str] = []
        self.finish = "stop"

    def write(self, prompt: str) -> str:
        return "1. **What it is**\n2. How it works\n3) Where to go\n" if "outline of" in prompt.splitlines()[0] else SENTENCE * 3

    def respond(self, request: Handler, body: bytes, failure: Any) -> None:
        if request.headers.get("Authorization") != f"Bearer {self.key}":
            return request.answer(401, {"error": {"message": "wrong key", "code": "invalid_api_key"}})
        if request.path == "/v1/models":
            return request.answer(200, {"object": "list", "data": [{"id": "fake-model", "object": "model", "created": 1, "owned_by": "fake"}]})
        asked = json.loads(body)
        if request.path != "/v1/chat/completions" or not asked.get("messages") or not asked.get("stream"):
            return request.answer(400, {"error": {"message": "not what it takes"}})
        if failure == "blocked":
            return request.answer(400, {"error": {"message": "filtered", "code": "content_filter"}})
        if failure == "quota":
            return request.answer(429, {"error": {"message": "no quota", "code": "insufficient_quota"}}, headers={"Retry-After": "120"})
        prompt = asked["messages"][-1]["content"]
        self.prompts.append(prompt)
        return self._stream(request, asked["model"], self.write(prompt), cut=failure == "cut")

    def _stream(self, request: Handler, model: str, text: str, *, cut: bool) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.send_header("Connection", "close")
        request.end_headers()
        request.close_connection = True
        half = len(text) // 2
        for piece in (text[:half], text[half:]):
            self._part(request, model, [{"index": 0, "delta": {"content": piece}, "finish_reason": None}])
            if cut:
                return request.cut()
        self._part(request, model, [{"index": 0, "delta": {}, "finish_reason": self.finish}])
        self._part(request, model, [], usage={"prompt_tokens": 40, "completion_tokens": 60, "total_tokens": 100})
        request.wfile.write(b"data: [DONE]\n\n")
        return None

    def _part(self, request: Handler, model: str, choices: list[Any], **more: Any) -> None:
        part = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": choices, **more}
        request.wfile.write(f"data: {json.dumps(part)}\n\n".encode())
        request.wfile.flush()
