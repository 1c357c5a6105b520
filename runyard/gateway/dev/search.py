"""Searches for events by the fields of a form.

No statement may scan the whole table: each looks at a chunk of events, newest first, and the next
one continues after it, with a larger chunk as long as that is fast, until there are enough results
or the time is up. Then the result says how far back the search got, and where to continue.
"""

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from runyard.engine.status import STATUSES as INVOCATION_STATUSES
from runyard.errors import InvalidOption
from runyard.events import INTERNAL_PREFIXES
from runyard.gateway.api.history import as_number
from runyard.store import database
from runyard.store.queries import Row, fetch_all, fetch_one
from runyard.syntax.jsonpath import MAX_FILTER_LENGTH, check_filter, parse_path
from runyard.syntax.times import parse_time

_SHOWN = 50
STATUSES = (*INVOCATION_STATUSES, "unmatched")
FIELDS = ("name", "id", "status", "since", "until", "path", "internal")
_CHUNK, _LARGEST_CHUNK = 2_000, 64_000
_SECONDS = 1.0
_STATEMENT_SECONDS = 5
_COMPARED = re.compile(r"[\w.$-]+")


@dataclass(frozen=True)
class Search:
    """A search: the fields as they were typed, and `before`, where to continue."""

    typed: Mapping[str, str]
    before: str = ""

    def address(self, **changed: str) -> str:
        """The path of this search, with some fields changed."""
        fields = {name: text for name, text in {**self.typed, **changed}.items() if text}
        return f"/dev?{urlencode(fields)}" if fields else "/dev"


@dataclass(frozen=True)
class SearchResult:
    """The events of a search, and where to continue, None at the end.

    `looked_until` is how far back the search got, if its time was up before it had enough.
    """

    events: list[Row]
    further: str | None
    looked_until: datetime | None = None


def find(search: Search) -> SearchResult:
    """The next events that match a search; raises `InvalidOption` for a field that is invalid."""
    typed = search.typed
    status = typed["status"] or None
    if status is not None and status not in STATUSES:
        raise InvalidOption(
            f"status: there is no status {status!r}; use one of {', '.join(STATUSES)}"
        )
    bounds: dict[str, Any] = {
        "name": typed["name"] or None,
        "ids": _ids(typed["id"]),
        "since": _time(typed["since"], "since"),
        "until": _time(typed["until"], "until"),
    }
    conditions = {
        "status": status,
        "filter": as_filter(typed["path"]) if typed["path"] else None,
        "internal": bool(
            typed["internal"] or typed["id"] or typed["name"].startswith(INTERNAL_PREFIXES)
        ),
    }
    position = _decode(search.before)
    events: list[Row] = []
    chunk, began = _CHUNK, time.monotonic()
    with database.searching(_STATEMENT_SECONDS) as connection:
        while True:
            chunk_began, (at, last) = time.monotonic(), position or (None, None)
            events += fetch_all(
                connection,
                "search_events",
                **bounds,
                **conditions,
                chunk=chunk,
                cursor_at=at,
                cursor_id=last,
                limit=_SHOWN + 1 - len(events),
            )
            if len(events) > _SHOWN:
                shown = events[:_SHOWN]
                return SearchResult(shown, _encode((shown[-1]["received_at"], shown[-1]["id"])))
            row = fetch_one(
                connection, "search_events_end", **bounds, chunk=chunk, cursor_at=at, cursor_id=last
            )
            if row is None:
                return SearchResult(events, None)
            position = row["received_at"], row["id"]
            now = time.monotonic()
            if now - began > _SECONDS:
                return SearchResult(events, _encode(position), position[0])
            if now - chunk_began < _SECONDS / 8:
                chunk = min(2 * chunk, _LARGEST_CHUNK)


def as_filter(typed: str) -> str:
    """A condition on the data as SQL/JSON path; raises `InvalidOption`.

    It is `data.to = ada@example.com`, `data.to` (which exists), or SQL/JSON path itself. A value
    that could be a number, true, false or null matches that as well as the same text.
    """
    if typed.startswith(("$", "(", "exists")):
        return check_filter(typed, "path")
    if len(typed) > MAX_FILTER_LENGTH:
        raise InvalidOption(
            f"path: it may have {MAX_FILTER_LENGTH:,} characters, not {len(typed):,}; search for"
            ' the beginning with SQL/JSON path: $.data.to starts with "ada"'
        )
    left, equals, right = typed.partition("=")
    if not _COMPARED.fullmatch(left.strip()):
        raise InvalidOption(
            "path: write it as data.to = ada@example.com, or as SQL/JSON path: $.data.total > 100"
        )
    where = "$" + "".join(f".{json.dumps(part)}" for part in parse_path(left.strip(), "path"))
    if not equals:
        return f"exists({where})"
    value = right.strip()
    text = json.dumps(value.strip('"'), ensure_ascii=False)
    condition = f"{where} == {text}"
    return f"{condition} || {where} == {value}" if _is_literal(value) else condition


def _is_literal(text: str) -> bool:
    if text.startswith(("[", "{")):  # not a literal, and possibly nested too deeply to parse
        return False
    try:
        return isinstance(json.loads(text, parse_constant=lambda name: name), int | float | None)
    except ValueError:
        return False


def _ids(typed: str) -> Sequence[str] | None:
    """The events that belong to an id; None if there is no id in the search."""
    if not typed:
        return None
    with database.connection() as connection:
        rows = fetch_all(connection, "events_by_any_id", given=typed, number=as_number(typed))
    return [row["id"] for row in rows]


def _time(typed: str, what: str) -> datetime | None:
    return parse_time(typed, what) if typed else None


def _decode(before: str) -> tuple[datetime, str] | None:
    at, _, last = before.partition(" ")
    try:
        return (datetime.fromisoformat(at), last) if before else None
    except ValueError:
        raise InvalidOption(
            "before: is not a position in this search: use the links of its pages"
        ) from None


def _encode(position: tuple[datetime, str]) -> str:
    at, last = position
    return f"{at.astimezone(UTC).isoformat().replace('+00:00', 'Z')} {last}"
