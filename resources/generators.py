"""Where generated text comes from: Gemini when GEMINI_API_KEY is set, else an offline generator that says what it is.

A generator gives its text in pieces, as it comes; `generate` puts them together.
"""

import os
import re
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

from dagster import ConfigurableResource, EnvVar
from pydantic import BaseModel

from runyard.errors import NonRetriable

GEMINI_HOST = "https://generativelanguage.googleapis.com"
GEMINI_MODEL = "gemini-2.0-flash"


class Prompt(BaseModel):
    """What is asked for. `model`, `temperature` and `max_tokens` are the generator's own where they are None."""

    prompt: str
    system: str | None = None
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None


class Generated(BaseModel):
    """A text, and how it was made. `offline` says that no model wrote it."""

    text: str
    provider: str
    model: str
    finish_reason: str
    prompt_tokens: int
    output_tokens: int
    offline: bool = False


class Refused(NonRetriable):
    """Seen by whoever asks: the model will not answer this prompt; another attempt cannot help."""


class Generator(ConfigurableResource[Any]):
    """Writes text."""

    @abstractmethod
    def pieces(self, asked: Prompt) -> Iterator[str | Generated]:
        """The text piece by piece, then the whole of it with its metadata.

        Raises
        ------
        Refused
            It will not answer this prompt.
        NonRetriable
            The request or the key is wrong.
        RetryAfter
            The quota is used up.
        ConnectionError
            The provider does not answer, or not sensibly.
        """

    def generate(self, asked: Prompt) -> Generated:
        """The whole text; raises as `pieces`."""
        *_, last = self.pieces(asked)
        assert isinstance(last, Generated)
        return last


class OfflineGenerator(Generator):
    """Makes a text of the prompt's own words, without a network: for development, and labelled so."""

    def pieces(self, asked: Prompt) -> Iterator[str | Generated]:
        """A paragraph, sentence by sentence; the same for the same prompt."""
        words = re.findall(r"\w+", asked.prompt)[:12]
        topic = " ".join(words) or "nothing in particular"
        sentences = [f"This is a placeholder about {topic}. ", "No model has written it: it was made offline. ", "Set GEMINI_API_KEY to have one written."]
        yield from sentences
        text = "".join(sentences)
        yield Generated(
            text=text, provider="offline", model="offline", finish_reason="STOP", prompt_tokens=len(asked.prompt.split()), output_tokens=len(text.split()), offline=True
        )


def generator_from_environment() -> Generator:
    """The generator that the environment asks for: GEMINI_API_KEY, GEMINI_API_HOST, GEMINI_MODEL."""
    if os.environ.get("GEMINI_API_KEY"):
        from resources.gemini import GeminiGenerator

        # By name, so that no page of Dagster shows its value.
        return GeminiGenerator(
            api_key=EnvVar("GEMINI_API_KEY"), host=os.environ.get("GEMINI_API_HOST") or GEMINI_HOST, model=os.environ.get("GEMINI_MODEL") or GEMINI_MODEL
        )
    return OfflineGenerator()
