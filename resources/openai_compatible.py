"""Any server that speaks OpenAI's chat completions: OpenAI itself, Ollama, vLLM, llama.cpp. The `openai` package is imported at the first use."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from resources.bounded_http import cut_after
from resources.generators import Allowance, Generated, Generator, Prompt, Refused
from runyard.errors import NonRetriable, RetryAfter

OPENAI_HOST = "https://api.openai.com/v1"
OPENAI_MODEL = "gpt-4o-mini"
_PAUSE_SECONDS = 30.0
_LONGEST_PAUSE_SECONDS = 86_400.0
_MEANINGS = {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}


class OpenAIGenerator(Generator):
    """Writes with a model behind OpenAI's API. `timeout` is in seconds, for the next piece of an answer; all of it may take ten times as long."""

    name = "openai"

    def __init__(self, api_key: str, base_url: str = OPENAI_HOST, model: str = OPENAI_MODEL, timeout: float = 120.0) -> None:
        self._api_key = api_key
        self._base_url = base_url
        self.model = model
        self._timeout = timeout

    @cached_property
    def _client(self) -> Any:
        from openai import OpenAI

        # It tries nothing again by itself: that is the function's business.
        return OpenAI(api_key=self._api_key, base_url=self._base_url, timeout=self._timeout, max_retries=0)

    def pieces(self, asked: Prompt) -> Iterator[str | Generated]:
        """See `Generator`."""
        name = asked.model or self.model
        messages = [*([{"role": "system", "content": asked.system}] if asked.system else []), {"role": "user", "content": asked.prompt}]
        more = {key: value for key, value in (("temperature", asked.temperature), ("max_tokens", asked.max_tokens)) if value is not None}
        texts: list[str] = []
        reason, usage = None, None
        allowance = Allowance(self._timeout)
        try:
            stream = self._client.chat.completions.create(model=name, messages=messages, stream=True, stream_options={"include_usage": True}, **more)
            with stream, cut_after(allowance.seconds_left(), stream.response):
                for part in stream:
                    usage = part.usage or usage
                    for choice in part.choices[:1]:
                        reason = choice.finish_reason or reason
                        text = choice.delta.content
                        if text:
                            allowance.take(text)
                            texts.append(text)
                            yield text
        except Exception as error:
            raise _meaning(error) from None
        if reason == "content_filter":
            raise Refused("the provider does not finish this text: content_filter")
        if reason is None or not texts:
            raise ConnectionError("the provider's answer was cut off" if texts else "the provider's answer has no text")
        yield Generated(
            text="".join(texts), provider=self.name, model=name, finish_reason=_MEANINGS.get(reason, reason.upper()),
            prompt_tokens=usage.prompt_tokens if usage else 0, output_tokens=usage.completion_tokens if usage else 0,
        )  # fmt: skip

    def check(self) -> str:
        """Have the models listed."""
        try:
            found = len(self._client.with_options(timeout=10).models.list().data)
        except Exception as error:
            raise _meaning(error) from None
        return f"{found} models at {self._base_url}, {self.model} by default"


def _meaning(error: Exception) -> Exception:
    """What an error of the package means for another attempt."""
    import openai

    text = f"OpenAI: {type(error).__name__}: {str(error)[:300]}"
    match error:
        case ConnectionError():
            return error
        case openai.RateLimitError():
            return RetryAfter(text, _pause(error.response.headers.get("retry-after")))
        case openai.APIStatusError() if error.code == "content_filter":
            return Refused(f"the provider refuses this prompt: {str(error)[:200]}")
        case openai.APIStatusError() if 400 <= error.status_code < 500 and error.status_code not in (408, 409):
            return NonRetriable(text)
        case _:
            return ConnectionError(text)


def _pause(header: str | None) -> float:
    try:
        return min(max(0.0, float(header)), _LONGEST_PAUSE_SECONDS) if header else _PAUSE_SECONDS
    except ValueError:
        return _PAUSE_SECONDS
