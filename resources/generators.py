"""What writes text: the interface, and an offline generator that says what it is.

A generator gives its text in pieces, as it comes; `generate` puts them together. `resources.providers` chooses between generators.
"""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator

from pydantic import BaseModel

from runyard.errors import NonRetriable

# Of the most tokens that may be asked for, with room to spare.
_LONGEST_ANSWER = 4_000_000
_TIMEOUTS_AN_ANSWER = 10


class Prompt(BaseModel):
    """What is asked for, and for whom.

    Attributes
    ----------
    prompt, system
        The request and the instructions that stand above it.
    model, temperature, max_tokens
        The generator's own where they are None.
    provider
        Who is to write it; the first configured one by default.
    user
        Whose budget it is on; None: nobody's.
    purpose
        What it is for, as it is kept with the call: `text`, `outline`, `section`.
    topic
        What it is about, for a generator that knows nothing; the prompt by default.
    """

    prompt: str
    system: str | None = None
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    provider: str | None = None
    user: str | None = None
    purpose: str = "text"
    topic: str | None = None


class Generated(BaseModel):
    """A text, and how it was made. `offline` says that no model wrote it; `cost` is in US dollars, None where no price is known; `seconds` is its latency."""

    text: str
    provider: str
    model: str
    finish_reason: str
    prompt_tokens: int
    output_tokens: int
    offline: bool = False
    cost: float | None = None
    seconds: float = 0.0


class Refused(NonRetriable):
    """Seen by whoever asks: the model will not answer this prompt; another attempt cannot help."""


class Generator(ABC):
    """Writes text. `name` is that of the provider, `model` the one it uses by default."""

    name: str
    model: str

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

    @abstractmethod
    def check(self) -> str:
        """Ask the provider whether the key is good, and say so in a line; raises as `pieces`."""

    def generate(self, asked: Prompt) -> Generated:
        """The whole text; raises as `pieces`."""
        *_, last = self.pieces(asked)
        assert isinstance(last, Generated)
        return last


class Allowance:
    """How much of one answer is taken: it comes in pieces, and each is a sign of life to the timeout of a single read."""

    def __init__(self, timeout: float) -> None:
        self._seconds = _TIMEOUTS_AN_ANSWER * timeout
        self._until = time.monotonic() + self._seconds
        self._left = _LONGEST_ANSWER

    def seconds_left(self) -> float:
        """Seconds that are left, 0 or less when there are none."""
        return self._until - time.monotonic()

    def take(self, text: str) -> None:
        """A piece has come; raises ConnectionError when the answer is too long, or takes too long."""
        self._left -= len(text)
        if self._left < 0:
            raise ConnectionError(f"the provider's answer has more than {_LONGEST_ANSWER} characters")
        if self.seconds_left() <= 0:
            raise ConnectionError(f"the provider's answer takes longer than {self._seconds:g} s in all (ten times AI_SECONDS)")


class OfflineGenerator(Generator):
    """Makes a text of the topic's own words, without a network: for development, and labelled so."""

    name = "offline"
    model = "offline"

    def pieces(self, asked: Prompt) -> Iterator[str | Generated]:
        """A paragraph, sentence by sentence, or the lines of an outline; the same for the same prompt."""
        topic = " ".join(re.findall(r"\w+", asked.topic or asked.prompt)[:12]) or "nothing in particular"
        written = _OUTLINE if asked.purpose == "outline" else _PARAGRAPH
        sentences = [sentence.format(topic=topic) for sentence in written]
        yield from sentences
        text = "".join(sentences)
        yield Generated(
            text=text, provider=self.name, model=self.model, finish_reason="STOP", prompt_tokens=len(asked.prompt.split()), output_tokens=len(text.split()),
            offline=True, cost=0.0,
        )  # fmt: skip

    def check(self) -> str:
        """It is always there."""
        return "makes placeholders without a network"


_PARAGRAPH = ["This is a placeholder about {topic}. ", "No model has written it: it was made offline. ", "Set GEMINI_API_KEY or OPENAI_API_KEY to have one written."]
_OUTLINE = ["1. What {topic} is about\n", "2. How it is done\n", "3. Where to go from here\n"]
