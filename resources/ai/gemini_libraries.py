"""The two packages that speak Gemini's REST API, behind one interface; nothing else imports them.

google-generativeai has had no support since November 2025; google-genai is its successor. Both
deliver an answer in the same pieces, and their errors get the same meaning.
"""

import math
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from importlib.util import find_spec
from itertools import islice
from typing import Any, Protocol

from resources.ai.generators import ANSWER_BYTES, TIMEOUTS_AN_ANSWER, Prompt, count
from resources.bounded_http import Bounds, bound_body
from resources.settings import AiSettings
from runyard.errors import NonRetriable

GENAI, GENERATIVEAI = "google-genai", "google-generativeai"
_MOST_MODELS = 2000
_CHECK_SECONDS = 10.0


@dataclass(frozen=True)
class Piece:
    """One part of an answer; `finish` and `blocked` are names of Gemini's reasons."""

    text: str
    thought: str = ""
    finish: str = ""
    blocked: str = ""
    prompt_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0


@dataclass(frozen=True)
class Failure:
    """An error that Gemini answered with: its HTTP status and its details."""

    status: int
    details: str = ""


class Library(Protocol):
    """One of the packages, set up for a key and a host."""

    def stream(self, model: str, prompt: Prompt) -> Iterator[Piece]:
        """The answer as it comes."""

    def models(self) -> Iterator[str]:
        """The names of all models that can write; takes at most ten seconds."""

    def failure(self, error: Exception) -> Failure | None:
        """What Gemini answered, where this error of the package comes from an answer."""


def library(api_key: str, host: str, timeout: float) -> Library:
    """The package that GEMINI_LIBRARY names; by default google-genai where it is installed."""
    name = AiSettings.read().gemini_library or (GENAI if _has_genai() else GENERATIVEAI)
    if name == GENERATIVEAI:
        return GenerativeAI(api_key, host, timeout)
    if not _has_genai():
        raise NonRetriable(f"GEMINI_LIBRARY is {GENAI}, which is not installed: pip install it")
    return _genai(api_key, host, timeout)


def _has_genai() -> bool:
    return find_spec("google.genai") is not None


@lru_cache(maxsize=8)
def _genai(api_key: str, host: str, timeout: float) -> "GenAI":
    return GenAI(api_key, host, timeout)


class GenAI:
    """google-genai."""

    def __init__(self, api_key: str, host: str, timeout: float) -> None:
        self._api_key = api_key
        self._host = host
        self._client = self._made_client(timeout, TIMEOUTS_AN_ANSWER * timeout)

    def _made_client(self, timeout: float, seconds: float) -> Any:
        from google import genai
        from google.genai.types import HttpOptions

        def bound(response: Any) -> None:
            bound_body(response, Bounds(seconds, ANSWER_BYTES))

        options = HttpOptions(
            base_url=self._host,
            api_version="v1beta",
            timeout=math.ceil(timeout * 1000),
            # Otherwise the package would tell the server to send the whole answer in that time.
            headers={"X-Server-Timeout": str(math.ceil(seconds))},
            client_args={"event_hooks": {"response": [bound]}},
        )
        return genai.Client(api_key=self._api_key, vertexai=False, http_options=options)

    def stream(self, model: str, prompt: Prompt) -> Iterator[Piece]:
        """See `Library`."""
        config = _config(prompt, "response_json_schema", prompt.shape)
        if prompt.system:
            config["system_instruction"] = prompt.system
        answer = self._client.models.generate_content_stream(
            model=model, contents=prompt.prompt, config=config
        )
        for part in answer:
            yield _of_genai(part)

    def models(self) -> Iterator[str]:
        """See `Library`."""
        client = self._made_client(_CHECK_SECONDS, _CHECK_SECONDS)
        try:
            yield from _in_time(model.name for model in client.models.list())
        finally:
            client.close()

    def failure(self, error: Exception) -> Failure | None:
        """See `Library`."""
        from google.genai.errors import APIError

        if not isinstance(error, APIError):
            return None
        return Failure(int(error.code or 0), str(error.details))


class GenerativeAI:
    """google-generativeai, over REST."""

    def __init__(self, api_key: str, host: str, timeout: float) -> None:
        self._package = _set_up(api_key, host)
        self._timeout = timeout

    def stream(self, model: str, prompt: Prompt) -> Iterator[Piece]:
        """See `Library`."""
        from google.generativeai.types import BlockedPromptException

        config = _config(prompt, "response_schema", _as_proto(prompt.shape))
        options = {"timeout": self._timeout, "retry": None}
        writer = self._package.GenerativeModel(model, system_instruction=prompt.system or None)
        try:
            answer = writer.generate_content(
                prompt.prompt, stream=True, generation_config=config, request_options=options
            )
            for part in answer:
                yield _of_generativeai(part)
        except BlockedPromptException as error:
            yield _of_generativeai(error.args[0])

    def models(self) -> Iterator[str]:
        """See `Library`."""
        options = {"timeout": _CHECK_SECONDS, "retry": None}
        listed = self._package.list_models(request_options=options)
        return _in_time(model.name for model in listed)

    def failure(self, error: Exception) -> Failure | None:
        """See `Library`."""
        from google.api_core.exceptions import GoogleAPICallError

        if not isinstance(error, GoogleAPICallError):
            return None
        return Failure(int(error.code or 0), str(error.details))


def _config(prompt: Prompt, schema: str, shape: Any) -> dict[str, Any]:
    """Gemini's generation config, with the names that both packages have for it."""
    values: dict[str, Any] = {
        "temperature": prompt.temperature,
        "max_output_tokens": prompt.max_tokens,
    }
    if prompt.shape:
        values |= {"response_mime_type": "application/json", schema: shape}
    return {name: value for name, value in values.items() if value is not None}


def _as_proto(shape: Any) -> Any:
    """A JSON schema in Gemini's older form, which does not know `additionalProperties`."""
    if not isinstance(shape, dict):
        return shape
    proto = {}
    for name, value in shape.items():
        if name == "properties":
            proto[name] = {key: _as_proto(inner) for key, inner in value.items()}
        elif name == "type":
            proto[name] = value.upper()
        elif name != "additionalProperties":
            proto[name] = _as_proto(value)
    return proto


def _of_genai(part: Any) -> Piece:
    feedback, usage = part.prompt_feedback, part.usage_metadata
    candidate = _first(part.candidates or [])
    content = candidate.content if candidate else None
    parts = (content.parts if content else None) or []
    prompt, said, thinking, total = (
        count(getattr(usage, f"{kind}_token_count", 0))
        for kind in ("prompt", "candidates", "thoughts", "total")
    )
    return Piece(
        text="".join(part.text or "" for part in parts if not part.thought),
        thought="".join(part.text or "" for part in parts if part.thought),
        finish=_name(candidate.finish_reason) if candidate else "",
        blocked=_name(feedback.block_reason) if feedback else "",
        prompt_tokens=prompt,
        output_tokens=max(said + thinking, total - prompt),
        thinking_tokens=thinking,
    )


def _of_generativeai(part: Any) -> Piece:
    """This package has no field for thinking tokens: they are what the total has in addition.

    Nor can it tell thoughts from text; Gemini includes thoughts only on request.
    """
    usage = part.usage_metadata
    candidate = _first(part.candidates)
    prompt, said = usage.prompt_token_count, usage.candidates_token_count
    output = max(said, usage.total_token_count - prompt)
    return Piece(
        text="".join(part.text for part in candidate.content.parts) if candidate else "",
        finish=_name(candidate.finish_reason) if candidate else "",
        blocked=_name(part.prompt_feedback.block_reason),
        prompt_tokens=prompt,
        output_tokens=output,
        thinking_tokens=output - said,
    )


def _first(candidates: Any) -> Any:
    """The first of several answers; None where there is none (yet)."""
    return next((candidate for candidate in candidates if not candidate.index), None)


def _name(reason: Any) -> str:
    """The name of a reason; empty where there is none (yet)."""
    name = str(getattr(reason, "name", None) or reason or "")
    return "" if name.endswith("UNSPECIFIED") else name


def _in_time(names: Iterator[str | None]) -> Iterator[str]:
    """The names until one repeats: a server may send the same page for ever."""
    until = time.monotonic() + _CHECK_SECONDS
    seen: set[str] = set()
    for name in map(str, islice(names, _MOST_MODELS)):
        if time.monotonic() > until:
            raise ConnectionError(f"the list of models takes longer than {_CHECK_SECONDS:g} s")
        if name in seen:
            return
        seen.add(name)
        yield name


_configured: tuple[str, str] | None = None
_lock = threading.Lock()


@cache
def _import() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces its end of support at every import
        import google.generativeai as package
    return package


def _set_up(api_key: str, host: str) -> Any:
    """google-generativeai for this key and host: it is configured for the whole process."""
    global _configured
    package = _import()
    with _lock:
        if _configured != (api_key, host):
            options = {"api_endpoint": host}
            package.configure(api_key=api_key, transport="rest", client_options=options)
            _bound("generative", TIMEOUTS_AN_ANSWER)
            _bound("model", 1)
            _configured = (api_key, host)
    return package


def _bound(service: str, timeouts: int) -> None:
    """Limit the answers to one of its clients, which has no setting for it."""
    from google.generativeai import client

    manager: Any = client._client_manager
    session = manager.get_default_client(service).transport._session
    session.hooks["response"].append(partial(_bound_answer, timeouts=timeouts))


def _bound_answer(response: Any, timeouts: int, timeout: Any = None, **_: Any) -> None:
    seconds = timeout if isinstance(timeout, int | float) else _CHECK_SECONDS
    bound_body(response, Bounds(timeouts * seconds, ANSWER_BYTES))
