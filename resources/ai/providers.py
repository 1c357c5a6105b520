"""Chooses who writes a text: whom the request names, then the configured order; falls over to the next when one is down or out of quota.

A model that a provider does not have is passed over too, and so noted with the text. A refusal and a wrong request are final: another provider is not asked
behind the first one's back. The offline generator writes only where no other is
switched on, or where the request names it: a placeholder never passes for a text. Where a text has begun to come, it is not begun again elsewhere.
"""

import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from dagster import ConfigurableResource

from resources.ai.calls import OverBudget, check_budget, check_price, cost, keep_call
from resources.ai.circuit_breaker import Breaker
from resources.ai.gemini import GEMINI_HOST, GEMINI_MODEL, GeminiGenerator
from resources.ai.generators import Generated, Generator, NoSuchModel, OfflineGenerator, Prompt
from resources.ai.openai_compatible import OPENAI_HOST, OPENAI_MODEL, OpenAIGenerator
from runyard.errors import NonRetriable, RetryAfter

_log = logging.getLogger(__name__)
_LONGEST_SECONDS = 86_400.0
NAMES = ("gemini", "openai", "offline")


class NotSwitchedOn(NonRetriable):
    """Seen by whoever asks for a provider by its name: it has no key here."""


class Providers(ConfigurableResource[Any]):
    """The text providers that the environment switches on, each behind a circuit breaker; every call is kept with its usage."""

    def generate(self, asked: Prompt) -> Generated:
        """The whole text; raises as `pieces`."""
        *_, last = self.pieces(asked)
        assert isinstance(last, Generated)
        return last

    def pieces(self, asked: Prompt) -> Iterator[str | Generated]:
        """The text piece by piece, then the whole of it with its metadata; raises as `Generator.pieces`, and `OverBudget`."""
        check_budget(asked.user)
        errors: list[Exception] = []
        for number, generator in enumerate(self.candidates(asked.provider)):
            # A model's name means nothing to the next provider.
            mine = asked if number == 0 else asked.model_copy(update={"model": None})
            begun = False
            try:
                if not isinstance(generator, OfflineGenerator):
                    check_price(asked.user, mine.model or generator.model)
                for piece in _guarded(generator, mine):
                    begun = True
                    if isinstance(piece, Generated):
                        piece.passed_over = [str(error)[:200] for error in errors]
                    yield piece
                return
            except (RetryAfter, ConnectionError, NoSuchModel, OverBudget) as error:
                # The budget is the first one's business: what others would cost is not asked for.
                if begun or (isinstance(error, OverBudget) and not errors):
                    raise
                _log.warning("%s does not write this text: %s", generator.name, str(error)[:300])
                errors.append(error)
        raise _of_all(errors)

    def candidates(self, wanted: str | None) -> list[Generator]:
        """Whom to ask, in order; raises `NotSwitchedOn` when the one that is wanted is not."""
        on = switched_on()
        if wanted is not None and wanted != "offline" and wanted not in on:
            raise NotSwitchedOn(
                f"the provider {wanted} is not switched on; there are: {', '.join(on) or 'none'}. Set {wanted.upper()}_API_KEY"
            )
        if wanted == "offline" or not on:
            return [OfflineGenerator()]
        return sorted(on.values(), key=lambda generator: generator.name != wanted)


def switched_on() -> dict[str, Generator]:
    """The providers that have a key, in the order of AI_PROVIDERS (names with commas between; Gemini, then OpenAI by default)."""
    made = {"gemini": _gemini(), "openai": _openai()}
    order = [
        name.strip()
        for name in (os.environ.get("AI_PROVIDERS") or "gemini,openai").split(",")
        if name.strip()
    ]
    unknown = [name for name in order if name not in NAMES]
    if unknown:
        raise NonRetriable(
            f"AI_PROVIDERS names {', '.join(unknown)}; there are: {', '.join(NAMES)}"
        )
    return {name: generator for name in order if (generator := made.get(name)) is not None}


@lru_cache(maxsize=8)
def _made_openai(key: str, host: str, model: str, seconds: float) -> OpenAIGenerator:
    return OpenAIGenerator(key, host, model, seconds)


def _seconds() -> float:
    """How long the next piece of an answer may take (AI_TIMEOUT)."""
    stated = os.environ.get("AI_TIMEOUT") or "120"
    try:
        seconds = float(stated)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < _LONGEST_SECONDS:
        raise NonRetriable(f"AI_TIMEOUT is not a number of seconds: {stated}")
    return seconds


def _openai() -> Generator | None:
    """A server with a base URL of its own (Ollama, say) may need no key."""
    key, host = os.environ.get("OPENAI_API_KEY"), os.environ.get("OPENAI_BASE_URL")
    return (
        _made_openai(
            key or "none",
            host or OPENAI_HOST,
            os.environ.get("OPENAI_MODEL") or OPENAI_MODEL,
            _seconds(),
        )
        if key or host
        else None
    )


def _gemini() -> Generator | None:
    key = os.environ.get("GEMINI_API_KEY")
    host, model = os.environ.get("GEMINI_API_HOST"), os.environ.get("GEMINI_MODEL")
    if not key:
        return None
    return GeminiGenerator(key, host or GEMINI_HOST, model or GEMINI_MODEL, _seconds())


# The circuit breakers of this process, by provider.
breakers: defaultdict[str, Breaker] = defaultdict(Breaker)


def _guarded(generator: Generator, asked: Prompt) -> Iterator[str | Generated]:
    """What a generator gives, kept in the table of calls; nothing is asked of one that rests."""
    guard = breakers[generator.name]
    left = guard.seconds_left()
    if left > 0:
        raise RetryAfter(
            f"{generator.name} is down or out of quota, and is left alone for {left:.0f} s", left
        )
    began = time.monotonic()
    try:
        for piece in generator.pieces(asked):
            if isinstance(piece, Generated):
                piece.cost, piece.seconds = cost(piece), round(time.monotonic() - began, 3)
                guard.succeeded()
                keep_call(asked, generator.name, piece.model, piece.seconds, piece)
            yield piece
    except (RetryAfter, ConnectionError, NonRetriable) as error:
        if isinstance(error, RetryAfter):
            guard.failed(float(error.when) if isinstance(error.when, float | int) else None)
        elif isinstance(error, ConnectionError):
            guard.failed()
        else:
            guard.succeeded()  # it answers, if not as one would like
        keep_call(
            asked, generator.name, asked.model or generator.model, time.monotonic() - began, error
        )
        raise


def _of_all(errors: list[Exception]) -> Exception:
    """The error of a text that nobody has written.

    It is final where no time can mend it, and else tried again: at the earliest moment at which
    one may be asked, where all of them say one.
    """
    if len(errors) == 1:
        return errors[0]
    text = "no provider can write it now: " + "; ".join(str(error)[:200] for error in errors)
    passing = [error for error in errors if not isinstance(error, NonRetriable)]
    if not passing:
        return NonRetriable(text)
    waits = [
        float(error.when)
        for error in passing
        if isinstance(error, RetryAfter) and isinstance(error.when, float | int)
    ]
    return RetryAfter(text, min(waits)) if len(waits) == len(passing) else ConnectionError(text)
