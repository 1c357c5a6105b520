"""Text of others within Markdown, as Dagster's UI renders it."""

import re

_WITH_A_MEANING = re.compile(r"[\\`*_{}\[\]()<>#!|~&]")


def escaped(text: str) -> str:
    """Return Markdown that shows a text as it is, in one line: no link, no image, no HTML."""
    return _WITH_A_MEANING.sub(r"\\\g<0>", " ".join(text.split()))
