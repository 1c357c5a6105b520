"""The content family's table, and what is looked at in a text before it is kept."""

import re
from collections.abc import Sequence
from typing import Any

from dagster import ConfigurableResource
from psycopg.types.json import Jsonb

from runyard.store import database

_ENDED = re.compile(r"[.!?…:\"'”»)\]。！？]\s*$")
_BEFORE_HEADING = re.compile(r"^[\s#*\-]*(?:\d+[.)])?[\s*]*")
_AFTER_HEADING = "*" + "".join(filter(str.isspace, map(chr, range(0x3001))))
# A text this much shorter or longer than asked for is looked at by somebody.
_SHORTEST, _LONGEST = 0.5, 2.0
_TELLING_WORDS = 20


class Contents(ConfigurableResource[Any]):
    """Writes `app.content`."""

    def save(self, row: dict[str, Any]) -> None:
        """Keep a text under its id; the same one again changes nothing."""
        values = {**row, "outline": Jsonb(row["outline"]), "usage": Jsonb(row["usage"])}
        with database.connection() as connection:
            # by content_pkey
            connection.execute(
                "INSERT INTO app.content (id, event_id, user_id, topic, kind, language, status, outline, text, provider, model, offline, prompt_versions, usage, remarks)"
                " VALUES (%(id)s, %(event_id)s, %(user)s, %(topic)s, %(kind)s, %(language)s, %(status)s, %(outline)s, %(text)s, %(provider)s, %(model)s, %(offline)s,"
                " %(prompt_versions)s, %(usage)s, %(remarks)s) ON CONFLICT (id) DO NOTHING",
                values,
            )


def headings(text: str, most: int) -> list[str]:
    """The lines of an outline without their numbers and marks, `most` at most; the whole text as one heading where it has no lines."""
    lines = [_BEFORE_HEADING.sub("", line, count=1).rstrip(_AFTER_HEADING) for line in text.splitlines()]
    return [line[:300] for line in lines if line][:most] or [text.strip()[:300]]


def remarks(sections: Sequence[str], language: str, length: int, unfinished: Sequence[int]) -> list[str]:
    """What somebody should look at in a text of these sections; `unfinished` are the numbers of sections that the model did not end."""
    found = [f"section {number} has no end" for number, section in enumerate(sections, 1) if number in unfinished or not _ENDED.search(section)]
    text = "\n".join(sections)
    words = len(text.split())
    if not _SHORTEST * length <= words <= _LONGEST * length:
        found.append(f"it has {words} words, {length} were asked for")
    written = _language(text) if words >= _TELLING_WORDS else language
    if written != language:
        found.append(f"its language seems to be {written}, {language} was asked for")
    return found


def _language(text: str) -> str:
    import py3langid  # 0.5 s, and needed here alone

    return str(py3langid.classify(text)[0])
