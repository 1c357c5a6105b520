"""The text of a model's answer: without its reasoning, and without what no table can hold.

Servers of local models often leave the reasoning in the text: `<think>...</think>`, nested, never
closed, or without the opening tag, which some chat templates put into the prompt. Others use the
marks of OpenAI's Harmony format, where reasoning is in the channel `analysis`.
"""

import re

_TAG = re.compile(
    r"<(?P<close>/?)(?:seed:)?(?:think(?:ing)?|thoughts?|reasoning)(?:\s[^<>]{0,200})?/?>"
    r"|\[(?P<close_square>/?)THINK\]|◁(?P<close_triangle>/?)think▷"
    r"|<\|(?P<harmony>start|channel|constrain|message|end|return|call)\|>",
    re.IGNORECASE,
)
_REASONING_CHANNEL = re.compile(r"\s*(?:analysis|commentary)\b")
_LONGEST_HEADER = 100
_LONGEST_TAG = 220
_LONGEST_ROW = 8
_FENCE = "```"


class AnswerText:
    """Takes an answer piece by piece, and returns the text in it.

    Tags inside code (between backticks) are text, because the answer may be about them.

    Attributes
    ----------
    thought
        How many characters of reasoning were removed.
    """

    def __init__(self) -> None:
        self.thought = 0
        self._said: list[str] = []
        self._rest = ""  # may be the beginning of a tag or a mark
        self._depth = 0
        self._ended = False  # whether a reasoning has ended
        self._since_close: list[str] | None = None  # text after a closing tag within a reasoning
        self._header: str | None = None  # of a Harmony message
        self._in_fence = False
        self._in_backticks = False

    def take(self, piece: str) -> str:
        """The text that is certain at the end of this piece."""
        return self._read(self._rest + piece, last=False)

    def take_thought(self, piece: str) -> None:
        """Count reasoning that the provider itself has separated from the text."""
        self.thought += len(piece)

    def finish(self) -> str:
        """The rest of the text, now that the answer is complete.

        Reasoning that mentions its own tag looks nested and never ends; the text is then
        everything after the last closing tag.
        """
        said = self._read(self._rest, last=True)
        if self._depth and self._since_close:
            late = "".join(self._since_close)
            self.thought -= len(late)
            said += self._say(late)
        return said

    def text(self) -> str:
        """The whole text; shorter than its pieces together when a lone closing tag came late."""
        return "".join(self._said)

    def _read(self, text: str, *, last: bool) -> str:
        said: list[str] = []
        at = 0
        for tag in _TAG.finditer(text):
            said.append(self._between(text[at : tag.start()]))
            at = tag.end()
            if not self._depth and (self._in_fence or self._in_backticks):
                said.append(self._say(tag.group()))
            elif tag["harmony"]:
                self._take_mark(tag["harmony"].lower())
            elif any(tag.groups()):
                self._close()
            elif not tag.group().endswith("/>"):
                self._depth += 1
                self._since_close = None
        end = len(text) if last else _safe_end(text, at)
        said.append(self._between(text[at:end]))
        self._rest = text[end:]
        return "".join(said)

    def _take_mark(self, mark: str) -> None:
        """Read a mark; `<|start|>assistant<|channel|>analysis<|message|>` opens a reasoning."""
        if mark in ("start", "channel"):
            self._header = ""
        elif mark != "constrain":
            is_reasoning = mark == "message" and _REASONING_CHANNEL.match(self._header or "")
            self._depth, self._since_close = (1 if is_reasoning else 0), None
            self._header = None

    def _between(self, text: str) -> str:
        if self._header is not None:
            self._header = (self._header + text)[:_LONGEST_HEADER]
            return ""
        if not self._depth:
            return self._say(text)
        self.thought += len(text)
        if self._since_close is not None:
            self._since_close.append(text)
        return ""

    def _say(self, text: str) -> str:
        text = keepable(text if self._said else text.lstrip())
        if text:
            self._said.append(text)
            self._look_for_code(text)
        return text

    def _close(self) -> None:
        if self._depth:
            self._depth -= 1
            self._since_close = [] if self._depth else None
        elif not self._ended:
            # The reasoning had no opening tag: everything so far belongs to it.
            self.thought += sum(map(len, self._said))
            self._said.clear()
            self._in_fence = self._in_backticks = False
        self._ended = True

    def _look_for_code(self, text: str) -> None:
        """Track whether the text ends inside a fence, or inside backticks on its last line."""
        for number, part in enumerate(text.split(_FENCE)):
            if number:
                self._in_fence = not self._in_fence
                self._in_backticks = False
            *before, line = part.split("\n")
            if before:
                self._in_backticks = False
            if not self._in_fence and line.count("`") % 2:
                self._in_backticks = not self._in_backticks


def keepable(text: str) -> str:
    """The text without NUL and with surrogate pairs joined; a lone surrogate becomes U+FFFD."""
    text = text.replace("\x00", "")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _safe_end(text: str, since: int) -> int:
    """Where the text can be cut without splitting a tag, a row of backticks or a character."""
    end = max(len(text) - _LONGEST_ROW, since + len(text[since:].rstrip("`")))
    if end > since and "\ud800" <= text[end - 1] <= "\udbff":
        end -= 1
    begins = max(since, end - _LONGEST_TAG)
    start = max(text.rfind(mark, begins, end) for mark in "<[◁")
    if start < 0 or any(mark in text[start:end] for mark in ">]▷"):
        return end
    return start
