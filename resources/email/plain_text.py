"""Turns HTML into plain text, for mails that came without a plain part.

lxml reports one tag after the other and builds no tree. So the time grows with the length alone,
however deep the tags are nested and however many attributes they have.
"""

import re
from contextlib import suppress
from typing import Any

from lxml import etree

LONGEST_TEXT = 256 * 1024
_CUT = "\n\n[The rest is in the HTML part of this mail.]"
# Gaps between two words, weakest first: of several, the strongest counts.
_GAPS = ("", " ", "  ", "\n", "\n\n")
_NONE, _SPACE, _CELL, _LINE, _BLANK = range(5)
_TAGS = {
    **dict.fromkeys(
        ("p", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "pre", "hr", "dl"), _BLANK
    ),
    **dict.fromkeys(
        (
            "address",
            "article",
            "aside",
            "body",
            "caption",
            "center",
            "dd",
            "details",
            "div",
            "dt",
            "fieldset",
            "figcaption",
            "figure",
            "footer",
        ),
        _LINE,
    ),
    **dict.fromkeys(
        ("form", "header", "legend", "li", "main", "nav", "section", "summary", "table", "tr"),
        _LINE,
    ),
    **dict.fromkeys(("td", "th"), _CELL),
}
_UNSEEN = frozenset(
    (
        "head",
        "script",
        "style",
        "title",
        "template",
        "noframes",
        "iframe",
        "object",
        "svg",
        "math",
        "select",
    )
)
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:https?:|mailto:|tel:)", re.IGNORECASE)
# Soft hyphens, and characters without width that fill the previews of mails.
_WITHOUT_WIDTH = dict.fromkeys((0x00AD, 0x034F, 0x200B, 0xFEFF))
_LONGEST_LINK = 2000
_DEEPEST_LIST = 8


def plain_text(html: str) -> str:
    """The text of HTML, with a line for each block, list markers, and link addresses.

    Styles, scripts, comments and hidden elements are left out. A text of more than `LONGEST_TEXT`
    characters is cut, with a note at its end.
    """
    layout = _Layout()
    # An error means that nothing (more) can be read; the text up to there is kept.
    with suppress(etree.LxmlError):
        # As bytes, because the encoding that the HTML declares no longer applies.
        etree.fromstring(
            html.encode(errors="replace"),
            etree.HTMLParser(target=layout, encoding="utf-8", huge_tree=True),
        )
    return layout.text()


class _Layout:
    """Lays out text; the target of an `lxml.etree.HTMLParser`."""

    def __init__(self) -> None:
        self._written: list[str] = []
        self._length = 0
        self._gap = _NONE
        self._mark = ""  # of a list item, before its first word
        self._open: list[str] = []
        # How many tags were open where the outermost hidden one began.
        self._unseen_from: int | None = None
        self._verbatim = 0
        # The number of the last item of each open list; None for unordered lists.
        self._lists: list[int | None] = []
        self._links: list[tuple[str, int]] = []

    def start(self, tag: str, attributes: Any) -> None:
        """Handle an opening tag."""
        self._open.append(tag)
        if self._unseen_from is not None:
            return
        if tag in _UNSEEN or _HIDDEN.search(attributes.get("style", "")):
            self._unseen_from = len(self._open)
            return
        self._part(_TAGS.get(tag, _NONE))
        match tag:
            case "br":
                self._part(_BLANK if self._gap == _LINE else _LINE)
            case "ul" | "ol":
                self._part(_LINE if self._lists else _BLANK)
                self._lists.append(0 if tag == "ol" else None)
            case "li":
                self._mark = self._next_mark()
            case "pre":
                self._verbatim += 1
            case "a":
                self._links.append(
                    (" ".join(attributes.get("href", "").split()), len(self._written))
                )
            case "img":
                self.data(attributes.get("alt", ""))

    def end(self, tag: str) -> None:
        """Handle a closing tag."""
        depth = len(self._open)
        if self._open:
            self._open.pop()
        if self._unseen_from is not None:
            if depth <= self._unseen_from:
                self._unseen_from = None
            return
        match tag:
            case "a" if self._links:
                self._end_link(*self._links.pop())
            case "ul" | "ol" if self._lists:
                self._lists.pop()
                self._part(_LINE if self._lists else _BLANK)
            case "pre" if self._verbatim:
                self._verbatim -= 1
        self._part(_TAGS.get(tag, _NONE))

    def data(self, text: str) -> None:
        """Handle text."""
        if self._unseen_from is not None:
            return
        if self._verbatim:
            self._write(text)
            return
        words = " ".join(text.translate(_WITHOUT_WIDTH).split())
        if text[:1].isspace():
            self._part(_SPACE)
        if words:
            self._write(words)
        if text[-1:].isspace():
            self._part(_SPACE)

    def close(self) -> None:
        """Required by the parser."""

    def text(self) -> str:
        """The text so far, ending with a line break."""
        whole = "".join(self._written).strip()
        return (
            whole if self._length <= LONGEST_TEXT else whole[:LONGEST_TEXT].rstrip() + _CUT
        ) + "\n"

    def _part(self, gap: int) -> None:
        self._gap = max(self._gap, gap)

    def _write(self, words: str) -> None:
        if self._length > LONGEST_TEXT:
            return
        begins = not self._written or self._gap >= _LINE
        before = _GAPS[self._gap] if self._written else ""
        if begins and self._lists:
            before += "  " * min(len(self._lists) - 1, _DEEPEST_LIST) + (self._mark or "  ")
            self._mark = ""
        self._written.append(before + words)
        self._length += len(before) + len(words)
        self._gap = _NONE

    def _next_mark(self) -> str:
        if not self._lists or self._lists[-1] is None:
            return "- "
        self._lists[-1] += 1
        return f"{self._lists[-1]}. "

    def _end_link(self, address: str, since: int) -> None:
        """Write a link's address after its text, unless the text is the address."""
        if not _ADDRESS.match(address) or len(address) > _LONGEST_LINK:
            return
        # A link of more pieces than this does not show its own address.
        words = "".join(self._written[since : since + 4]).strip()
        if address.removeprefix("mailto:").removeprefix("tel:").removesuffix(
            "/"
        ) == words.removesuffix("/").removeprefix("- "):
            return
        if not words:
            self.data(address)
            return
        self._gap = _SPACE
        self._write(f"({address})")
