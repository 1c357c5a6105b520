"""Any server that speaks OpenAI's chat completions: OpenAI itself, Ollama, vLLM, llama.cpp.

The `openai` package is imported at first use. Which parameters a model accepts is found by trying:
one that is rejected is left out from then on (`resources.ai.refused_parameters`).
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from resources.ai.answer_text import AnswerText
from resources.ai.generators import (
    ANSWER_BYTES,
    TIMEOUTS_AN_ANSWER,
    Allowance,
    Generated,
    Generator,
    NoSuchModel,
    NoText,
    Prompt,
    Refused,
    count,
    model_list,
    no_text,
    pause,
    with_tokens,
    words_of,
)
from resources.ai.refused_parameters import learnt, refused_parameter
from resources.bounded_http import Bounds, bound_body, cut_after
from resources.settings import OPENAI_HOST, OPENAI_MODEL
from runyard.errors import NonRetriable, RetryAfter

_CHECK_SECONDS = 10.0
_MEANINGS = {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}
# All of OpenAI's own models accept the newer name, most other servers the older one.
_LIMITS = ("max_tokens", "max_completion_tokens")
_NEWER_LIMIT = re.compile(r"(?:.*/)?(?:o\d|gpt-(?:[5-9]|\d\d))")
# Parameters that a request can do without.
_OPTIONAL = {*_LIMITS, "temperature", "response_format", "stream_options", "stream", "messages"}


@dataclass
class _Part:
    """One piece of an answer, whatever its original form."""

    text: str = ""
    thought: str = ""
    refusal: str = ""
    reason: str | None = None
    usage: Any = None


class OpenAIGenerator(Generator):
    """Writes with a model behind OpenAI's API.

    `timeout` is in seconds, for the next piece of an answer; the whole may take ten times as long.
    """

    name = "openai"

    def __init__(
        self,
        api_key: str,
        base_url: str = OPENAI_HOST,
        model: str = OPENAI_MODEL,
        timeout: float = 120.0,
    ) -> None:
        self._api_key = api_key
        self._base_url = base_url
        self.model = model
        self._timeout = timeout

    @cached_property
    def _client(self) -> Any:
        return self._made_client(self._timeout, TIMEOUTS_AN_ANSWER * self._timeout)

    def _made_client(self, timeout: float, seconds: float) -> Any:
        """A client that limits the whole answer in time and bytes, not only each read."""
        from openai import DefaultHttpxClient, OpenAI

        def bound(response: Any) -> None:
            bound_body(response, Bounds(seconds, ANSWER_BYTES))

        http_client = DefaultHttpxClient(event_hooks={"response": [bound]})
        # Retries are up to the function.
        return OpenAI(
            api_key=self._api_key,
            base_url=self._base_url,
            timeout=timeout,
            max_retries=0,
            http_client=http_client,
        )

    def pieces(self, prompt: Prompt) -> Iterator[str | Generated]:
        """See `Generator`."""
        model = prompt.model or self.model
        said, last = AnswerText(), _Part()
        allowance = Allowance(self._timeout)
        try:
            for part in self._parts(prompt, model, allowance):
                last.usage = part.usage or last.usage
                if last.reason:
                    continue  # some servers send the answer twice
                last.reason = part.reason
                last.refusal += part.refusal
                allowance.take(part.text + part.thought + part.refusal)
                said.take_thought(part.thought)
                if text := said.take(part.text):
                    yield text
        except Exception as error:
            raise self._meaning(error, model) from None
        if text := said.finish():
            yield text
        yield self._whole(said, last, prompt, model)

    def check(self) -> str:
        """See `Generator`."""
        client = self._made_client(_CHECK_SECONDS, _CHECK_SECONDS)
        try:
            names = [str(model.id) for model in client.models.list().data]
        except Exception as error:
            raise self._meaning(error) from None
        finally:
            client.close()
        return model_list(names, self.model, "OPENAI_MODEL", f" at {self._place}")

    @property
    def _place(self) -> str:
        """The base URL without a user and a password."""
        parts = urlsplit(self._base_url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def _parts(self, prompt: Prompt, model: str, allowance: Allowance) -> Iterator[_Part]:
        from openai import Stream

        answer = self._open(prompt, model)
        if not isinstance(answer, Stream):
            yield from _of_whole(answer)
            return
        with answer, cut_after(allowance.seconds_left(), answer.response):
            if "json" in answer.response.headers.get("content-type", ""):
                yield from _of_json(answer.response.read())
                return
            for chunk in answer:
                yield from _of_choices(getattr(chunk, "choices", None), "delta")
                yield _Part(usage=getattr(chunk, "usage", None))

    def _open(self, prompt: Prompt, model: str) -> Any:
        """The answer, as a stream where the model gives one."""
        import openai

        refused = set(learnt.of(self._base_url, model))
        while True:
            request = self._request(prompt, model, refused)
            try:
                return self._client.chat.completions.create(**request)
            except openai.APIStatusError as error:
                parameter = refused_parameter(error, _sent(request, prompt))
                if parameter is None or parameter in refused:
                    raise
                refused.add(parameter)
                learnt.add(self._base_url, model, parameter)

    def _request(self, prompt: Prompt, model: str, refused: set[str]) -> dict[str, Any]:
        """The request without rejected parameters; instructions may move into the prompt."""
        messages = [{"role": "user", "content": prompt.prompt}]
        if prompt.system and "messages" in refused:
            messages = [{"role": "user", "content": f"{prompt.system}\n\n{prompt.prompt}"}]
        elif prompt.system:
            messages = [{"role": "system", "content": prompt.system}, *messages]
        limits = _LIMITS[::-1] if self._takes_newer_limit(model) else _LIMITS
        limit = next((name for name in limits if name not in refused), None)
        optional: dict[str, Any] = {"temperature": prompt.temperature}
        if limit:
            optional[limit] = prompt.max_tokens
        if prompt.shape:
            shape = {"name": prompt.purpose, "schema": prompt.shape, "strict": True}
            optional["response_format"] = {"type": "json_schema", "json_schema": shape}
        if "stream" not in refused:
            optional |= {"stream": True, "stream_options": {"include_usage": True}}
        kept = {
            name: value
            for name, value in optional.items()
            if value is not None and name not in refused
        }
        return {"model": model, "messages": messages, **kept}

    def _takes_newer_limit(self, model: str) -> bool:
        host = urlsplit(self._base_url).hostname or ""
        return host.endswith("openai.com") or _NEWER_LIMIT.match(model) is not None

    def _whole(self, said: AnswerText, last: _Part, prompt: Prompt, model: str) -> Generated:
        text = said.text()
        reason = last.reason or ""
        generated = Generated(
            text=text,
            provider=self.name,
            model=model,
            finish_reason=_MEANINGS.get(reason, reason.upper()),
            **_usage(last.usage, said.thought, len(text)),
        )
        generated = with_tokens(generated, prompt, said.thought)
        if last.refusal and not text:
            raise Refused(f"the provider refuses this prompt: {last.refusal[:200]}", generated)
        if reason == "content_filter":
            raise Refused("the provider does not finish this text: content_filter", generated)
        if not reason:
            raise NoText("the provider's answer was cut off", generated)
        if not text.strip():
            raise no_text(generated, said.thought)
        return generated

    def _meaning(self, error: Exception, model: str | None = None) -> Exception:
        """What an error of the package means for a retry."""
        import openai

        words = words_of(_told(error), self._api_key)
        text = f"OpenAI: {type(error).__name__}: {words[:300]}"
        match error:
            case ConnectionError():
                return error
            case openai.RateLimitError():
                return RetryAfter(text, pause(error.response.headers.get("retry-after")))
            case openai.APIStatusError() if error.code == "content_filter":
                return Refused(f"the provider refuses this prompt: {words[:200]}")
            case openai.APIStatusError() if model and (
                error.status_code == 404 or error.code == "model_not_found"
            ):
                return NoSuchModel(f"{self._place} has no model {model}: set OPENAI_MODEL; {text}")
            case openai.APIStatusError() if (
                400 <= error.status_code < 500 and error.status_code not in (408, 409)
            ):
                return NonRetriable(text)
            case _:
                return ConnectionError(text)


def _told(error: Exception) -> str:
    """An error's message, with its body where that does not have OpenAI's form."""
    text, body = str(error), getattr(error, "body", None)
    return text if (isinstance(body, dict) and "message" in body) or not body else f"{text}: {body}"


def _sent(request: dict[str, Any], prompt: Prompt) -> set[str]:
    """The parameters of a request that can be left out."""
    return {name for name in request if name in _OPTIONAL and (name != "messages" or prompt.system)}


def _of_choices(choices: Any, field: str) -> Iterator[_Part]:
    """The parts of the first choice; the others are other answers."""
    for choice in choices or []:
        if getattr(choice, "index", 0):
            continue
        message = getattr(choice, field, None)
        text, thought = _texts(getattr(message, "content", None))
        # vLLM called it `reasoning` for a while, DeepSeek and llama.cpp `reasoning_content`.
        apart = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
        if isinstance(apart, str):
            thought += apart
        refusal = getattr(message, "refusal", None) or ""
        reason = getattr(choice, "finish_reason", None)
        yield _Part(text, thought, str(refusal), str(reason) if reason else None)


def _of_whole(answer: Any) -> Iterator[_Part]:
    """An answer in one piece."""
    yield from _of_choices(answer.choices, "message")
    yield _Part(usage=answer.usage)


def _of_json(body: bytes) -> Iterator[_Part]:
    """The answer of a server that does not stream, although it was asked to."""
    from openai.types.chat import ChatCompletion

    completion = json.loads(body)
    if not isinstance(completion, dict) or "choices" not in completion:
        raise ValueError(f"the provider's answer is not a completion: {body[:200]!r}")
    yield from _of_whole(ChatCompletion.construct(**completion))


def _texts(content: Any) -> tuple[str, str]:
    """Text and reasoning of a message's content: a string, or a list of parts."""
    if isinstance(content, str):
        return content, ""
    text, thought = "", ""
    for part in content if isinstance(content, list) else []:
        kind, words = _part(part)
        if kind in ("thinking", "reasoning"):
            thought += words
        else:
            text += words
    return text, thought


def _part(part: Any) -> tuple[str, str]:
    if not isinstance(part, dict):
        return "", ""
    kind = str(part.get("type", "text"))
    words = part.get("text") or part.get(kind)
    if isinstance(words, list):
        words = "".join(_part(inner)[1] for inner in words)
    return kind, words if isinstance(words, str) else ""


def _usage(usage: Any, thought: int, text: int) -> dict[str, int]:
    """Token counts. Some servers count the thinking in the total only."""
    prompt, output = (
        count(getattr(usage, f"{kind}_tokens", 0)) for kind in ("prompt", "completion")
    )
    output = max(output, count(getattr(usage, "total_tokens", 0)) - prompt)
    details = getattr(usage, "completion_tokens_details", None)
    thinking = count(getattr(details, "reasoning_tokens", 0))
    if not thinking and thought:
        thinking = round(output * thought / (thought + text))
    return {"prompt_tokens": prompt, "output_tokens": output, "thinking_tokens": thinking}
