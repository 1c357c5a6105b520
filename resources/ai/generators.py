"""What writes text: the interface, and an offline generator that says what it is.

A generator gives its text in pieces, as it comes; `generate` puts them together. `resources.ai.providers` chooses between generators.
"""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from resources.ai.answer_text import keepable
from runyard.errors import NonRetriable

# Of the most tokens that may be asked for, with room to spare.
_LONGEST_ANSWER = 4_000_000
# As it comes over the network, where every word has a wrapping of its own.
ANSWER_BYTES = 64 * 1024 * 1024
TIMEOUTS_AN_ANSWER = 10
_MOST_TOKENS = 2**31 - 1  # of the column
# Of UTF-8: a word of English has one or two tokens, a Chinese character about one.
_BYTES_A_TOKEN = 4
_MODELS_SHOWN = 5
_SHORTEST_KEY = 8
_PAUSE_SECONDS = 30.0
_LONGEST_PAUSE_SECONDS = 86_400.0


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
    shape
        A JSON schema of the answer, for providers that can hold a model to one; the prompt has to
        ask for it too.
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
    """A text, and how it was made.

    Attributes
    ----------
    output_tokens
        All that is paid for as output: the text, and the thinking before it.
    thinking_tokens
        How many of them were thinking. All three are estimates by length where the provider does
        not say.
    offline
        Whether it is a placeholder that no model wrote.
    cost
        In US dollars; None where no price is known.
    seconds
        Its latency.
    passed_over
        Why providers that come earlier in the order did not write it.
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
    """Seen by whoever asks: the model has answered with nothing that can be used.

    Another attempt would end alike. `paid` is what the answer cost all the same, where that is
    known.
    """

    def __init__(self, message: str, paid: Generated | None = None) -> None:
        super().__init__(message)
        self.paid = paid


class Refused(Unusable):
    """Seen by whoever asks: the model will not answer this prompt."""


class NoText(ConnectionError):
    """Seen by a step: an answer without a text, or one that was cut off; another may have one."""

    def __init__(self, message: str, paid: Generated | None = None) -> None:
        super().__init__(message)
        self.paid = paid


class NoSuchModel(NonRetriable):
    """Seen by whoever asks: the provider does not have this model (any more); another may write."""


class Generator(ABC):
    """Writes text. `name` is that of the provider, `model` the one it uses by default."""

    name: str
    model: str

    @abstractmethod
    def pieces(self, asked: Prompt) -> Iterator[str | Generated]:
        """The text piece by piece, then the whole of it with its metadata.

        The whole is what counts: a model's reasoning without an opening tag is only known for
        one at its end, when its pieces have been given.

        Raises
        ------
        Refused
            It will not answer this prompt.
        Unusable
            Its answer has no text, and would have none another time.
        NoSuchModel
            It does not have the model.
        NonRetriable
            The request or the key is wrong.
        RetryAfter
            The quota is used up.
        ConnectionError
            The provider does not answer, or not sensibly.
        """

    @abstractmethod
    def check(self) -> str:
        """Ask the provider whether the key is good and the model is there, and say so in a line.

        Raises as `pieces`.
        """

    def generate(self, asked: Prompt) -> Generated:
        """The whole text; raises as `pieces`."""
        *_, last = self.pieces(asked)
        assert isinstance(last, Generated)
        return last


class Allowance:
    """How much of one answer is taken: it comes in pieces, and each is a sign of life to the timeout of a single read."""

    def __init__(self, timeout: float) -> None:
        self._seconds = TIMEOUTS_AN_ANSWER * timeout
        self._until = time.monotonic() + self._seconds
        self._left = _LONGEST_ANSWER

    def seconds_left(self) -> float:
        """Seconds that are left, 0 or less when there are none."""
        return self._until - time.monotonic()

    def take(self, text: str) -> None:
        """A piece has come; raises ConnectionError when the answer is too long, or takes too long."""
        self._left -= len(text)
        if self._left < 0:
            raise ConnectionError(
                f"the provider's answer has more than {_LONGEST_ANSWER} characters"
            )
        if self.seconds_left() <= 0:
            raise ConnectionError(
                f"the provider's answer takes longer than {self._seconds:g} s in all (ten times AI_TIMEOUT)"
            )


def count(tokens: Any) -> int:
    """A number of tokens as a provider says it: 0 where that is none."""
    return min(max(tokens, 0), _MOST_TOKENS) if isinstance(tokens, int) else 0


def with_tokens(made: Generated, asked: Prompt, thought: int) -> Generated:
    """The same; tokens that the provider does not count, by length: a budget has to end too.

    `thought` is the number of characters of reasoning that were cut off.
    """
    estimated = {}
    if not made.prompt_tokens:
        estimated["prompt_tokens"] = _tokens_of(asked.prompt, asked.system or "")
    if not made.output_tokens:
        thinking = made.thinking_tokens or -(-thought // _BYTES_A_TOKEN)
        estimated |= {
            "thinking_tokens": thinking,
            "output_tokens": _tokens_of(made.text) + thinking,
        }
    return made.model_copy(update=estimated)


def _tokens_of(*texts: str) -> int:
    return sum(-(-len(text.encode(errors="replace")) // _BYTES_A_TOKEN) for text in texts)


def pause(asked: str | None) -> float:
    """Seconds until a provider is asked again: as many as it says, a day at most; 30 where it says
    nothing that is a number."""
    try:
        return min(max(0.0, float(asked)), _LONGEST_PAUSE_SECONDS) if asked else _PAUSE_SECONDS
    except ValueError:
        return _PAUSE_SECONDS


def no_text(made: Generated, thought: int = 0) -> Exception:
    """The error of an answer that has none: the thinking may have used up what it was allowed."""
    spent = f"{made.output_tokens} tokens, {made.thinking_tokens} of them thinking"
    if made.finish_reason == "MAX_TOKENS":
        return Unusable(
            f"{made.model} came to its limit of tokens before the first word of a text ({spent}): raise max_tokens, or ask another model",
            made,
        )
    what = f"only {thought} characters of reasoning" if thought else "no text"
    return NoText(f"the provider's answer has {what} ({made.finish_reason}; {spent})", made)


def words_of(error: object, key: str) -> str:
    """What a provider's error says: without the key, which some repeat, and fit to be kept."""
    text = keepable(str(error))
    return text.replace(key, "***") if len(key) >= _SHORTEST_KEY else text


def model_list(names: list[str], model: str, variable: str, where: str = "") -> str:
    """What to say of the models that a provider lists; raises `NoSuchModel` without this one."""
    known = {name.removeprefix("models/").removesuffix(":latest") for name in names}
    if model.removeprefix("models/").removesuffix(":latest") in known:
        return f"{len(names)} models{where}, {model} by default"
    shown = ", ".join(sorted(known)[:_MODELS_SHOWN]) + (
        " ..." if len(known) > _MODELS_SHOWN else ""
    )
    raise NoSuchModel(
        f"it takes the key, but does not list the model {model} among its {len(names)}{where}: set {variable} to one of them ({shown or 'there are none'})"
    )


class OfflineGenerator(Generator):
    """Makes a text of the topic's own words, without a network: for development, and labelled so."""

    name = "offline"
    model = "offline"

    def pieces(self, asked: Prompt) -> Iterator[str | Generated]:
        """A paragraph, sentence by sentence, or the lines of an outline; the same for the same prompt."""
        topic = (
            " ".join(re.findall(r"\w+", asked.topic or asked.prompt)[:12])
            or "nothing in particular"
        )
        written = _OUTLINE if asked.purpose == "outline" else _PARAGRAPH
        sentences = [sentence.format(topic=topic) for sentence in written]
        yield from sentences
        text = "".join(sentences)
        yield Generated(
            text=text,
            provider=self.name,
            model=self.model,
            finish_reason="STOP",
            prompt_tokens=len(asked.prompt.split()),
            output_tokens=len(text.split()),
            offline=True,
            cost=0.0,
        )

    def check(self) -> str:
        """It is always there."""
        return "makes placeholders without a network"


_PARAGRAPH = [
    "This is a placeholder about {topic}. ",
    "No model has written it: it was made offline. ",
    "Set GEMINI_API_KEY or OPENAI_API_KEY to have one written.",
]
_OUTLINE = ["1. What {topic} is about\n", "2. How it is done\n", "3. Where to go from here\n"]
