"""The interface of text generators, and an offline one that labels its texts as placeholders.

A generator yields its text in pieces as they arrive; `generate` joins them.
`resources.ai.providers` chooses between generators.
"""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from resources.ai.answer_text import keepable
from runyard.errors import NonRetriable

# Enough for the most tokens that can be requested.
_LONGEST_ANSWER = 4_000_000
# As it arrives over the network, where every token has its own JSON around it.
ANSWER_BYTES = 64 * 1024 * 1024
TIMEOUTS_AN_ANSWER = 10
_MOST_TOKENS = 2**31 - 1  # of the column
# In UTF-8: a word of English has one or two tokens, a Chinese character about one.
_BYTES_A_TOKEN = 4
_MODELS_SHOWN = 5
_SHORTEST_KEY = 8
_PAUSE_SECONDS = 30.0
_LONGEST_PAUSE_SECONDS = 86_400.0


class Prompt(BaseModel):
    """A request for a text.

    Attributes
    ----------
    prompt, system
        The request, and the instructions above it.
    model, temperature, max_tokens
        The generator's defaults where they are None.
    provider
        The provider that writes it; by default the first one that is on.
    user
        The user whose budget it counts against; None for nobody's.
    purpose
        What it is for, recorded with the call: `text`, `outline`, `section`.
    topic
        What it is about, for the offline generator; the prompt by default.
    shape
        A JSON schema of the answer, for providers that can enforce one; the prompt has to ask for
        it too.
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
    shape: dict[str, Any] | None = None


class Generated(BaseModel):
    """A text and its metadata.

    Attributes
    ----------
    output_tokens
        All that is billed as output: the text, and the thinking before it.
    thinking_tokens
        How many of them were thinking. All three are estimated from lengths where the provider
        does not report them.
    offline
        Whether it is a placeholder rather than the text of a model.
    cost
        In US dollars; None where the price is unknown.
    seconds
        How long it took.
    passed_over
        Why providers earlier in the order did not write it.
    """

    text: str
    provider: str
    model: str
    finish_reason: str
    prompt_tokens: int
    output_tokens: int
    thinking_tokens: int = 0
    offline: bool = False
    cost: float | None = None
    seconds: float = 0.0
    passed_over: list[str] = []


class Unusable(NonRetriable):
    """The model's answer has nothing that can be used, and a retry would end the same way.

    `paid` is what the answer cost all the same, where that is known.
    """

    def __init__(self, message: str, paid: Generated | None = None) -> None:
        super().__init__(message)
        self.paid = paid


class Refused(Unusable):
    """The model refuses this prompt."""


class NoText(ConnectionError):
    """An answer without a text, or one that was cut off; a retry may succeed."""

    def __init__(self, message: str, paid: Generated | None = None) -> None:
        super().__init__(message)
        self.paid = paid


class NoSuchModel(NonRetriable):
    """The provider does not have this model (any more); another provider may write the text."""


class Generator(ABC):
    """Writes text. `name` is that of the provider, `model` the one it uses by default."""

    name: str
    model: str

    @abstractmethod
    def pieces(self, prompt: Prompt) -> Iterator[str | Generated]:
        """The text piece by piece, then the whole of it with its metadata.

        The whole is authoritative: reasoning without an opening tag is only recognised at its
        end, when its pieces have been yielded.

        Raises
        ------
        Refused
            The model refuses this prompt.
        Unusable
            The answer has no text, and a retry would not change that.
        NoSuchModel
            The provider does not have the model.
        NonRetriable
            The request or the key is wrong.
        RetryAfter
            The quota is used up for now.
        ConnectionError
            The provider does not answer, or its answer makes no sense.
        """

    @abstractmethod
    def check(self) -> str:
        """Ask the provider whether the key is valid and the model exists; return a line about it.

        Raises as `pieces`.
        """

    def generate(self, prompt: Prompt) -> Generated:
        """The whole text; raises as `pieces`."""
        *_, last = self.pieces(prompt)
        assert isinstance(last, Generated)
        return last


class Allowance:
    """The limits of one answer, in characters and in time.

    An answer comes in pieces, and the timeout of a read starts anew with each of them.
    """

    def __init__(self, timeout: float) -> None:
        self._seconds = TIMEOUTS_AN_ANSWER * timeout
        self._until = time.monotonic() + self._seconds
        self._left = _LONGEST_ANSWER

    def seconds_left(self) -> float:
        """Seconds that are left, 0 or less when the time is up."""
        return self._until - time.monotonic()

    def take(self, text: str) -> None:
        """Count a piece; raises ConnectionError when the answer is too long or takes too long."""
        self._left -= len(text)
        if self._left < 0:
            raise ConnectionError(
                f"the provider's answer has more than {_LONGEST_ANSWER} characters"
            )
        if self.seconds_left() <= 0:
            raise ConnectionError(
                f"the provider's answer takes longer than {self._seconds:g} s in all "
                "(ten times AI_TIMEOUT)"
            )


def count(tokens: Any) -> int:
    """A provider's token count, bounded; 0 where it is not a number."""
    return min(max(tokens, 0), _MOST_TOKENS) if isinstance(tokens, int) else 0


def with_tokens(generated: Generated, prompt: Prompt, thought: int) -> Generated:
    """The same text, with the token counts that the provider left out estimated from lengths.

    Budgets need them. `thought` is the number of characters of reasoning that were removed.
    """
    estimated = {}
    if not generated.prompt_tokens:
        estimated["prompt_tokens"] = _tokens_of(prompt.prompt, prompt.system or "")
    if not generated.output_tokens:
        thinking = generated.thinking_tokens or -(-thought // _BYTES_A_TOKEN)
        estimated |= {
            "thinking_tokens": thinking,
            "output_tokens": _tokens_of(generated.text) + thinking,
        }
    return generated.model_copy(update=estimated)


def _tokens_of(*texts: str) -> int:
    return sum(-(-len(text.encode(errors="replace")) // _BYTES_A_TOKEN) for text in texts)


def pause(header: str | None) -> float:
    """Seconds until a provider may be called again: what its header says, up to a day; 30 where
    that is missing or not a number."""
    try:
        return min(max(0.0, float(header)), _LONGEST_PAUSE_SECONDS) if header else _PAUSE_SECONDS
    except ValueError:
        return _PAUSE_SECONDS


def no_text(generated: Generated, thought: int = 0) -> Exception:
    """The error for an answer without text: the thinking may have used up its token limit."""
    spent = f"{generated.output_tokens} tokens, {generated.thinking_tokens} of them thinking"
    if generated.finish_reason == "MAX_TOKENS":
        return Unusable(
            f"{generated.model} reached its token limit before the first word of a text "
            f"({spent}): raise max_tokens, or use another model",
            generated,
        )
    what = f"only {thought} characters of reasoning" if thought else "no text"
    return NoText(
        f"the provider's answer has {what} ({generated.finish_reason}; {spent})", generated
    )


def words_of(error: object, key: str) -> str:
    """A provider's error message, storable, and without the key, which some repeat."""
    text = keepable(str(error))
    return text.replace(key, "***") if len(key) >= _SHORTEST_KEY else text


def model_list(names: list[str], model: str, variable: str, where: str = "") -> str:
    """A line about the models that a provider lists; raises `NoSuchModel` without this one."""
    known = {name.removeprefix("models/").removesuffix(":latest") for name in names}
    if model.removeprefix("models/").removesuffix(":latest") in known:
        return f"{len(names)} models{where}, {model} by default"
    shown = ", ".join(sorted(known)[:_MODELS_SHOWN]) + (
        " ..." if len(known) > _MODELS_SHOWN else ""
    )
    raise NoSuchModel(
        f"the key is accepted, but the model {model} is not among the {len(names)} models"
        f"{where}: set {variable} to one of them ({shown or 'there are none'})"
    )


class OfflineGenerator(Generator):
    """Builds a placeholder from the topic's own words, without a network; labelled as such."""

    name = "offline"
    model = "offline"

    def pieces(self, prompt: Prompt) -> Iterator[str | Generated]:
        """A paragraph in sentences, or the lines of an outline; the same for the same prompt."""
        topic = (
            " ".join(re.findall(r"\w+", prompt.topic or prompt.prompt)[:12])
            or "nothing in particular"
        )
        written = _OUTLINE if prompt.purpose == "outline" else _PARAGRAPH
        sentences = [sentence.format(topic=topic) for sentence in written]
        yield from sentences
        text = "".join(sentences)
        yield Generated(
            text=text,
            provider=self.name,
            model=self.model,
            finish_reason="STOP",
            prompt_tokens=len(prompt.prompt.split()),
            output_tokens=len(text.split()),
            offline=True,
            cost=0.0,
        )

    def check(self) -> str:
        """It is always available."""
        return "makes placeholders without a network"


_PARAGRAPH = [
    "This is a placeholder about {topic}. ",
    "No model has written it: it was made offline. ",
    "Set GEMINI_API_KEY or OPENAI_API_KEY to have one written.",
]
_OUTLINE = ["1. What {topic} is about\n", "2. How it is done\n", "3. Where to go from here\n"]
