"""Gemini, through whichever of its two packages is installed (`resources.ai.gemini_libraries`)."""

import re
from collections.abc import Iterator

from resources.ai.answer_text import AnswerText
from resources.ai.gemini_libraries import Failure, Library, Piece, library
from resources.ai.generators import (
    Allowance,
    Generated,
    Generator,
    NoSuchModel,
    NoText,
    Prompt,
    Refused,
    model_list,
    no_text,
    pause,
    with_tokens,
    words_of,
)
from resources.ai.refused_parameters import learnt
from resources.settings import GEMINI_HOST, GEMINI_MODEL
from runyard.errors import NonRetriable, RetryAfter

_DELAY = re.compile(r"retryDelay\D{1,5}(\d+(?:\.\d+)?)s")
# Names go into the path of a request; names of other providers contain other characters.
_MODEL = re.compile(r"(?:(?:models|tunedModels)/)?[A-Za-z0-9][A-Za-z0-9._-]*")
_BLOCKED = {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE"}
# How models served beside Gemini's own (Gemma) reject parameters that they do not know.
_REFUSALS = {
    "shape": re.compile(r"JSON mode|response_?(?:mime_?type|(?:json_?)?schema)", re.IGNORECASE),
    "system": re.compile(r"developer instruction|system_?instruction", re.IGNORECASE),
}


class GeminiGenerator(Generator):
    """Writes with a Gemini model.

    `timeout` is in seconds, for the next piece of an answer; the whole may take ten times as long.
    """

    name = "gemini"

    def __init__(
        self,
        api_key: str,
        host: str = GEMINI_HOST,
        model: str = GEMINI_MODEL,
        timeout: float = 120.0,
    ) -> None:
        self._api_key = api_key
        self._host = host
        self.model = model
        self._timeout = timeout

    def pieces(self, prompt: Prompt) -> Iterator[str | Generated]:
        """See `Generator`."""
        package = library(self._api_key, self._host, self._timeout)
        model = prompt.model or self.model
        if not _MODEL.fullmatch(model):
            raise NoSuchModel(f"{model} is not the name of a Gemini model")
        said = AnswerText()
        last: Piece | None = None
        allowance = Allowance(self._timeout)
        try:
            for piece in self._stream(package, model, prompt):
                ended = last is not None and bool(last.finish)
                last = _together(last, piece)
                if ended:
                    continue  # some servers send the answer twice
                allowance.take(piece.text + piece.thought)
                said.take_thought(piece.thought)
                if text := said.take(piece.text):
                    yield text
        except Exception as error:
            raise self._meaning(package, error, model) from None
        if text := said.finish():
            yield text
        yield _whole(said, last, prompt, model)

    def _stream(self, package: Library, model: str, prompt: Prompt) -> Iterator[Piece]:
        """The answer, after one more request for each parameter that the model rejects."""
        refused = set(learnt.of(self._host, model))
        while True:
            begun = False
            try:
                for piece in package.stream(model, _without(prompt, refused)):
                    begun = True
                    yield piece
                return
            except Exception as error:
                failure = None if begun else package.failure(error)
                name = _refused(str(error), prompt) if failure and failure.status == 400 else None
                if name is None or name in refused:
                    raise
                refused.add(name)
                learnt.add(self._host, model, name)

    def check(self) -> str:
        """See `Generator`."""
        package = library(self._api_key, self._host, self._timeout)
        try:
            names = list(package.models())
        except Exception as error:
            raise self._meaning(package, error) from None
        return model_list(names, self.model, "GEMINI_MODEL")

    def _meaning(self, package: Library, error: Exception, model: str = "") -> Exception:
        """What an error of the package means for a retry."""
        if isinstance(error, ConnectionError):
            return error
        words = words_of(error, self._api_key)
        text = f"Gemini: {type(error).__name__}: {words[:300]}"
        match package.failure(error):
            case Failure(status=404) if model:
                return NoSuchModel(f"Gemini has no model {model}: set GEMINI_MODEL; {text}")
            case Failure(status=429, details=details):
                return RetryAfter(text, _pause(details))
            case Failure(status=status) if 400 <= status < 500:
                return NonRetriable(text)
            case _:
                return ConnectionError(text)


def _refused(words: str, prompt: Prompt) -> str | None:
    """Which field of a prompt an error message rejects."""
    sent = (name for name in _REFUSALS if getattr(prompt, name))
    return next((name for name in sent if _REFUSALS[name].search(words)), None)


def _without(prompt: Prompt, refused: set[str]) -> Prompt:
    """The prompt without rejected fields; instructions move to the front of the request."""
    changes: dict[str, object] = {"shape": None} if "shape" in refused else {}
    if prompt.system and "system" in refused:
        changes |= {"system": None, "prompt": f"{prompt.system}\n\n{prompt.prompt}"}
    return prompt.model_copy(update=changes)


def _together(before: Piece | None, piece: Piece) -> Piece:
    """What is known after one more piece: reasons stay, and token counts are running totals."""
    if before is None:
        return piece
    return Piece(
        text="",
        finish=before.finish or piece.finish,
        blocked=before.blocked or piece.blocked,
        prompt_tokens=max(before.prompt_tokens, piece.prompt_tokens),
        output_tokens=max(before.output_tokens, piece.output_tokens),
        thinking_tokens=max(before.thinking_tokens, piece.thinking_tokens),
    )


def _whole(said: AnswerText, last: Piece | None, prompt: Prompt, model: str) -> Generated:
    if last is None:
        raise ConnectionError("Gemini's answer is empty")
    text = said.text()
    generated = Generated(
        text=text,
        provider="gemini",
        model=model,
        finish_reason=last.finish,
        prompt_tokens=last.prompt_tokens,
        output_tokens=last.output_tokens,
        thinking_tokens=last.thinking_tokens,
    )
    generated = with_tokens(generated, prompt, said.thought)
    if last.blocked:
        raise Refused(f"Gemini refuses this prompt: {last.blocked}", generated)
    if last.finish in _BLOCKED:
        raise Refused(f"Gemini does not finish this text: {last.finish}", generated)
    if not last.finish:
        raise NoText(
            "Gemini's answer was cut off" if text else "Gemini's answer has no text", generated
        )
    if not text.strip():
        raise no_text(generated, said.thought)
    return generated


def _pause(details: str) -> float:
    """Seconds until the quota resets: google.rpc.RetryInfo in the error, where it has one."""
    delay = _DELAY.search(details)
    return pause(delay.group(1) if delay else None)
