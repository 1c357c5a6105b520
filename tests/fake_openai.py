"""A small server that speaks OpenAI's chat completions, validates every request, fails on demand.

Its models reject parameters as OpenAI's do, with the same messages.
"""

import json
import re
from typing import Any

from demo.fake_server import FakeServer, Handler

SENTENCE = "Queues hold the rain one drop at a time, and every drop is counted before it falls. "
OUTLINE = '{"headings": ["What it is", "How it works", "Where to go"]}'
USAGE = {"prompt_tokens": 40, "completion_tokens": 60, "total_tokens": 100}
_REASONING = re.compile(r"o\d|gpt-[5-9]")
_TAKES = {
    "model",
    "messages",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "response_format",
}


def refusal(param: str, words: str, code: str = "unsupported_parameter") -> dict[str, Any]:
    """The body of an error as OpenAI's API has it."""
    kind = "invalid_request_error"
    return {"error": {"message": words, "type": kind, "param": param, "code": code}}


class FakeOpenAI(FakeServer):
    """Records the prompts, and in `payloads` the requests that it wrote texts for.

    `failures` may also be `blocked`, `quota`, `cut`, `latin-1`, `other json`.

    Attributes
    ----------
    text
        The text to write instead of the usual one.
    deltas
        The raw pieces of an answer, instead of a text.
    usage
        The token usage that an answer reports.
    refuses
        By parameter, the status and the body with which requests that contain it are rejected.
    retired
        Models that do not exist.
    streams
        Whether it streams when asked to; otherwise it answers in one piece of JSON.
    times
        How often it repeats its answer.
    last_delta
        The delta of the chunk with the finish reason.
    """

    key = "fake-openai-key-0123456789"

    def __init__(self) -> None:
        super().__init__()
        self.base_url = f"{self.url}/v1"
        self.fresh()

    def fresh(self) -> None:
        """Reset everything."""
        self.prompts: list[str] = []
        self.payloads: list[dict[str, Any]] = []
        self.requests.clear()
        self.failures.clear()
        self.finish: str | None = "stop"
        self.text: str | None = None
        self.deltas: list[dict[str, Any]] | None = None
        self.usage: dict[str, Any] = USAGE
        self.refuses: dict[str, tuple[int, dict[str, Any]]] = {}
        self.retired: set[str] = set()
        self.models = ["gpt-6-luna", "fake-model"]
        self.streams = True
        self.times = 1
        self.last_delta: dict[str, Any] | None = {}

    def write(self, prompt: str) -> str:
        if self.text is not None:
            return self.text
        return OUTLINE if "outline of" in prompt.splitlines()[0] else SENTENCE * 3

    def respond(self, request: Handler, body: bytes, failure: Any) -> None:
        if request.headers.get("Authorization") != f"Bearer {self.key}":
            key = request.headers.get("Authorization", "").removeprefix("Bearer ")
            error = {"message": f"Incorrect API key provided: {key}", "code": "invalid_api_key"}
            return request.answer(401, {"error": error})
        if request.path == "/v1/models":
            more = {"object": "model", "created": 1, "owned_by": "fake"}
            listed = [{"id": name, **more} for name in self.models]
            return request.answer(200, {"object": "list", "data": listed})
        payload = json.loads(body)
        if request.path != "/v1/chat/completions" or not payload.get("messages"):
            return request.answer(400, {"error": {"message": "not what it takes"}})
        if failure == "blocked":
            error = {"message": "filtered", "code": "content_filter"}
            return request.answer(400, {"error": error})
        if failure == "quota":
            error = {"message": "no quota", "code": "insufficient_quota"}
            return request.answer(429, {"error": error}, headers={"Retry-After": "120"})
        if refused := self._refused(payload):
            return request.answer(*refused)
        if failure == "other json":
            return request.answer(200, {"ok": True, "key": self.key})
        if failure == "latin-1":
            choice = {"index": 0, "delta": {"content": "A café."}, "finish_reason": "stop"}
            text = json.dumps({"choices": [choice]}, ensure_ascii=False)
            return request.answer(200, f"data: {text}\n\n".encode("latin-1"), "text/event-stream")
        prompt = payload["messages"][-1]["content"]
        self.prompts.append(prompt)
        self.payloads.append(payload)
        deltas = self.deltas if self.deltas is not None else _halves(self.write(prompt))
        if payload.get("stream") and self.streams:
            return self._stream(request, payload, deltas, cut=failure == "cut")
        text = "".join(delta.get("content", "") for delta in deltas)
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": self.finish}
        more = {"object": "chat.completion", "created": 1, "model": payload["model"]}
        return request.answer(200, {"id": "c-1", "choices": [choice], "usage": self.usage, **more})

    def _refused(self, payload: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        model = payload["model"]
        if model in self.retired:
            words = f"The model `{model}` does not exist or you do not have access to it."
            return 404, refusal("model", words, "model_not_found")
        for name in payload.keys() - _TAKES:
            words = f"Unrecognized request argument supplied: {name}"
            return 400, refusal("", words, "unknown_parameter")
        if _REASONING.match(model) and "max_tokens" in payload:
            words = (
                "Unsupported parameter: 'max_tokens' is not supported with this model. "
                "Use 'max_completion_tokens' instead."
            )
            return 400, refusal("max_tokens", words)
        if _REASONING.match(model) and payload.get("temperature", 1) != 1:
            words = (
                f"Unsupported value: 'temperature' does not support {payload['temperature']} with "
                "this model. Only the default (1) value is supported."
            )
            return 400, refusal("temperature", words, "unsupported_value")
        roles = {f"{message['role']} message" for message in payload["messages"]}
        return next(
            (self.refuses[name] for name in self.refuses if name in {*payload, *roles}), None
        )

    def _stream(
        self, request: Handler, payload: dict[str, Any], deltas: list[dict[str, Any]], *, cut: bool
    ) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.send_header("Connection", "close")
        request.end_headers()
        request.close_connection = True
        model = payload["model"]
        for _ in range(self.times):
            for delta in deltas:
                self._part(request, model, [{"index": 0, "delta": delta, "finish_reason": None}])
                if cut:
                    return request.cut()
            if self.finish:
                last = self.last_delta
                choice = {"index": 0, "delta": last, "finish_reason": self.finish}
                self._part(request, model, [choice])
        if payload.get("stream_options", {}).get("include_usage"):
            self._part(request, model, [], usage=self.usage)
        request.wfile.write(b"data: [DONE]\n\n")
        return None

    def _part(self, request: Handler, model: str, choices: list[Any], **more: Any) -> None:
        head = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": model}
        part = {**head, "choices": choices, **more}
        request.wfile.write(f"data: {json.dumps(part)}\n\n".encode())
        request.wfile.flush()


def _halves(text: str) -> list[dict[str, Any]]:
    half = len(text) // 2
    return [{"content": text[:half]}, {"content": text[half:]}]
