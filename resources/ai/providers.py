"""Chooses who writes a text: the provider that the request names, then the configured order.

When a provider is down, out of quota or does not have the model, the next one is tried, and the
reason is noted with the text. A refusal and an invalid request are final: a prompt that one
provider rejects is not sent to another. The offline generator writes only where no provider is on,
or where the request names it, so a placeholder never passes for a text. Once a text has begun, it
is not started again elsewhere.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from dagster import ConfigurableResource

from resources.ai.calls import OverBudget, check_budget, check_price, cost, record_call
from resources.ai.circuit_breaker import CircuitBreaker
from resources.ai.gemini import GeminiGenerator
from resources.ai.generators import Generated, Generator, NoSuchModel, OfflineGenerator, Prompt
from resources.ai.openai_compatible import OpenAIGenerator
from resources.settings import OPENAI_HOST, AiSettings, secret
from runyard.errors import NonRetriable, RetryAfter

_log = logging.getLogger(__name__)


class NotSwitchedOn(NonRetriable):
    """The request names a provider that has no key here."""


class Providers(ConfigurableResource[Any]):
    """The text providers that have a key, each behind a circuit breaker; every call is recorded."""

    def generate(self, prompt: Prompt) -> Generated:
        """The whole text; raises as `pieces`."""
        *_, last = self.pieces(prompt)
        assert isinstance(last, Generated)
        return last

    def pieces(self, prompt: Prompt) -> Iterator[str | Generated]:
        """The text piece by piece, then the whole of it with its metadata.

        Raises as `Generator.pieces`, and `OverBudget`.
        """
        check_budget(prompt.user)
        errors: list[Exception] = []
        for number, generator in enumerate(self.candidates(prompt.provider)):
            # A model's name means nothing to another provider.
            mine = prompt if number == 0 else prompt.model_copy(update={"model": None})
            begun = False
            try:
                if not isinstance(generator, OfflineGenerator):
                    check_price(prompt.user, mine.model or generator.model)
                for piece in _guarded(generator, mine):
                    begun = True
                    if isinstance(piece, Generated):
                        piece.passed_over = [str(error)[:200] for error in errors]
                    yield piece
                return
            except (RetryAfter, ConnectionError, NoSuchModel, OverBudget) as error:
                # The budget is checked for the first provider; a later one is passed over.

                if begun or (isinstance(error, OverBudget) and not errors):
                    raise
                _log.warning("%s does not write this text: %s", generator.name, str(error)[:300])
                errors.append(error)
        raise _of_all(errors)

    def candidates(self, provider: str | None) -> list[Generator]:
        """The generators to try, in order; raises `NotSwitchedOn` for a provider without a key."""
        on = switched_on()
        if provider is not None and provider != "offline" and provider not in on:
            raise NotSwitchedOn(
                f"the provider {provider} is not switched on; there are: "
                f"{', '.join(on) or 'none'}. Set {provider.upper()}_API_KEY"
            )
        if provider == "offline" or not on:
            return [OfflineGenerator()]
        return sorted(on.values(), key=lambda generator: generator.name != provider)


def switched_on() -> dict[str, Generator]:
    """The providers that have a key, in the order of AI_PROVIDERS."""
    settings = AiSettings.read()
    generators = {"gemini": _gemini(settings), "openai": _openai(settings)}
    return {
        name: generator
        for name in settings.ai_providers
        if (generator := generators.get(name)) is not None
    }


@lru_cache(maxsize=8)
def _openai_generator(key: str, host: str, model: str, timeout: float) -> OpenAIGenerator:
    return OpenAIGenerator(key, host, model, timeout)


def _openai(settings: AiSettings) -> Generator | None:
    key, host = secret(settings.openai_api_key), settings.openai_base_url
    if not key and not host:
        return None
    # A server with its own base URL, such as Ollama, may need no key.
    return _openai_generator(
        key or "none", host or OPENAI_HOST, settings.openai_model, settings.ai_timeout
    )


def _gemini(settings: AiSettings) -> Generator | None:
    key = secret(settings.gemini_api_key)
    if not key:
        return None
    return GeminiGenerator(
        key, settings.gemini_api_host, settings.gemini_model, settings.ai_timeout
    )


# The circuit breakers of this process, by provider.
breakers: defaultdict[str, CircuitBreaker] = defaultdict(CircuitBreaker)


def _guarded(generator: Generator, prompt: Prompt) -> Iterator[str | Generated]:
    """A generator's pieces, behind its circuit breaker; the call is recorded."""
    guard = breakers[generator.name]
    left = guard.seconds_left()
    if left > 0:
        raise RetryAfter(
            f"{generator.name} is down or out of quota, and is not called for {left:.0f} s", left
        )
    began = time.monotonic()
    try:
        for piece in generator.pieces(prompt):
            if isinstance(piece, Generated):
                piece.cost, piece.seconds = cost(piece), round(time.monotonic() - began, 3)
                guard.succeeded()
                record_call(prompt, generator.name, piece.model, piece.seconds, piece)
            yield piece
    except (RetryAfter, ConnectionError, NonRetriable) as error:
        if isinstance(error, RetryAfter):
            guard.failed(float(error.when) if isinstance(error.when, float | int) else None)
        elif isinstance(error, ConnectionError):
            guard.failed()
        else:
            guard.succeeded()  # the provider works, even if this request does not
        record_call(
            prompt, generator.name, prompt.model or generator.model, time.monotonic() - began, error
        )
        raise


def _of_all(errors: list[Exception]) -> Exception:
    """The error when no provider has written the text.

    It is final where every error is final. Otherwise it is retried, at the earliest time that the
    providers name where each of them names one.
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
