"""Gemini through the google-generativeai package, over REST. The package's maintenance has ended: nothing else imports it."""

import re
import threading
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

from resources.generators import Allowance, Generated, Generator, Prompt, Refused
from runyard.errors import NonRetriable, RetryAfter

GEMINI_HOST = "https://generativelanguage.googleapis.com"
GEMINI_MODEL = "gemini-2.0-flash"
_PAUSE_SECONDS = 30.0
_LONGEST_PAUSE_SECONDS = 86_400.0
_DELAY = re.compile(r"retryDelay\D{1,5}(\d+(?:\.\d+)?)s")
_BLOCKED = {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"}
_configured: tuple[str, str] | None = None
_lock = threading.Lock()


class GeminiGenerator(Generator):
    """Writes with a Gemini model. `timeout` is in seconds, for the next piece of an answer; all of it may take ten times as long."""

    name = "gemini"

    def __init__(self, api_key: str, host: str = GEMINI_HOST, model: str = GEMINI_MODEL, timeout: float = 120.0) -> None:
        self._api_key = api_key
        self._host = host
        self.model = model
        self._timeout = timeout

    def pieces(self, asked: Prompt) -> Iterator[str | Generated]:
        """See `Generator`."""
        genai = _package(self._api_key, self._host)
        name = asked.model or self.model
        config = {key: value for key, value in (("temperature", asked.temperature), ("max_output_tokens", asked.max_tokens)) if value is not None}
        texts: list[str] = []
        last: Any = None
        allowance = Allowance(self._timeout)
        try:
            model = genai.GenerativeModel(name, system_instruction=asked.system or None)
            options = {"timeout": self._timeout, "retry": None}
            for last in model.generate_content(asked.prompt, stream=True, generation_config=config, request_options=options):
                text = _text(last)
                allowance.take(text)
                if text:
                    texts.append(text)
                    yield text
        except Exception as error:
            raise _meaning(error) from None
        yield _whole(texts, last, name)

    def check(self) -> str:
        """Have the models listed."""
        genai = _package(self._api_key, self._host)
        try:
            found = sum(1 for _ in genai.list_models(request_options={"timeout": 10, "retry": None}))
        except Exception as error:
            raise _meaning(error) from None
        return f"{found} models, {self.model} by default"


@cache
def _import() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its end, at every import
        import google.generativeai as package
    return package


def _package(api_key: str, host: str) -> Any:
    """The package, set up for this key and host: its settings are the process's, so they are set once."""
    global _configured
    package = _import()
    with _lock:
        if _configured != (api_key, host):
            package.configure(api_key=api_key, transport="rest", client_options={"api_endpoint": host})
            _configured = (api_key, host)
    return package


def _text(answer: Any) -> str:
    """The text of a part of an answer. `answer.text` raises where there is none: the candidates are read instead."""
    return "".join(part.text for candidate in answer.candidates[:1] for part in candidate.content.parts)


def _whole(texts: list[str], last: Any, model: str) -> Generated:
    if last is None:
        raise ConnectionError("Gemini's answer is empty")
    if last.prompt_feedback.block_reason:
        raise Refused(f"Gemini refuses this prompt: {last.prompt_feedback.block_reason.name}")
    reason = last.candidates[0].finish_reason.name if last.candidates else "OTHER"
    if reason in _BLOCKED:
        raise Refused(f"Gemini does not finish this text: {reason}")
    if not texts:
        raise ConnectionError(f"Gemini's answer has no text ({reason})")
    usage = last.usage_metadata
    return Generated(
        text="".join(texts), provider="gemini", model=model, finish_reason=reason, prompt_tokens=usage.prompt_token_count, output_tokens=usage.candidates_token_count
    )


def _meaning(error: Exception) -> Exception:
    """What an error of the package means for another attempt."""
    from google.api_core import exceptions
    from google.generativeai.types import BlockedPromptException, StopCandidateException

    text = f"Gemini: {type(error).__name__}: {str(error)[:300]}"
    match error:
        case ConnectionError():
            return error
        case BlockedPromptException() | StopCandidateException():
            return Refused(f"Gemini refuses this prompt: {' '.join(str(error).split())[:200]}")
        case exceptions.TooManyRequests():  # also ResourceExhausted, where the status says so
            return RetryAfter(text, _pause(error))
        case exceptions.ClientError():
            return NonRetriable(text)
        case _:
            return ConnectionError(text)


def _pause(error: Any) -> float:
    """Seconds until the quota is there again: google.rpc.RetryInfo among the details of the error, where it is given."""
    found = _DELAY.search(str(error.details))
    return min(float(found.group(1)), _LONGEST_PAUSE_SECONDS) if found else _PAUSE_SECONDS
