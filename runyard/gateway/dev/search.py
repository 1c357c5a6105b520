"""A search for events: its fields as they were typed, read and looked up.

A search is never allowed to read the whole table in one go: the statement looks at a chunk of events, newest first, and the next one, a larger one as long
as that is quick, goes on behind it until enough are found or the time is over. What was not looked at yet is said, with where to go on.
"""

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, get_args
from urllib.parse import urlencode

from runyard.errors import InvalidOption
from runyard.events import INTERNAL_PREFIXES
from runyard.gateway.api.history import as_number
from runyard.gateway.api.schemas import Status
from runyard.store import database
from runyard.store.queries import Row, fetch_all, fetch_one
from runyard.syntax.jsonpath import LONGEST_FILTER, check_filter, path
from runyard.syntax.times import parse_time

_SHOWN = 50
STATUSES = (*get_args(Status), "unmatched")
FIELDS = ("name", "id", "status", "since", "until", "path", "internal")
_CHUNK, _LARGEST_CHUNK = 2_000, 64_000
_SECONDS = 1.0
_STATEMENT_SECONDS = 5
_COMPARED = re.compile(r"[\w.$-]+")


@dataclass(frozen=True)
class Search:
    """What is searched for: the fields as they were typed, `before` is where to go on."""

    typed: Mapping[str, str]
    before: str = ""

    def address(self, **changed: str) -> str:
        """The address of this search, with some fields changed."""
        fields = {name: text for name, text in {**self.typed, **changed}.items() if text}
        return f"/dev?{urlencode(fields)}" if fields else "/dev"


@dataclass(frozen=True)
class SearchResult:
    """Events of a search; `further` is where to go on, None at the end; `looked_until` is how far back it looked, where its time was over before it had enough."""

    events: list[Row]
    further: str | None
    looked_until: datetime | None = None


def find(search: Search) -> SearchResult:
    """The next events that a search meets; raises `InvalidOption` for a field that cannot be read."""
    typed = search.typed
    status = typed["status"] or None
    if status is not None and status not in STATUSES:
        raise InvalidOption(
            f"status: there is no status {status!r}; there are {', '.join(STATUSES)}"
        )
    bounds: dict[str, Any] = {
        "name": typed["name"] or None,
        "ids": _ids(typed["id"]),
        "since": _moment(typed["since"], "since"),
        "until": _moment(typed["until"], "until"),
    }
    wanted = {
        "status": status,
        "filter": as_filter(typed["path"]) if typed["path"] else None,
        "internal": bool(
            typed["internal"] or typed["id"] or typed["name"].startswith(INTERNAL_PREFIXES)
        ),
    }
    place = _place(search.before)
    found: list[Row] = []
    chunk, began = _CHUNK, time.monotonic()
    with database.searching(_STATEMENT_SECONDS) as connection:
        while True:
            looked_at, (at, last) = time.monotonic(), place or (None, None)
            found += fetch_all(
                connection,
                "events_found",
                **bounds,
                **wanted,
                chunk=chunk,
                cursor_at=at,
                cursor_id=last,
                limit=_SHOWN + 1 - len(found),
            )
            if len(found) > _SHOWN:
                return SearchResult(
                    found[:_SHOWN],
                    _written((found[_SHOWN - 1]["received_at"], found[_SHOWN - 1]["id"])),
                )
            row = fetch_one(
                connection, "events_looked_at", **bounds, chunk=chunk, cursor_at=at, cursor_id=last
            )
            if row is None:
                return SearchResult(found, None)
            place = row["received_at"], row["id"]
            now = time.monotonic()
            if now - began > _SECONDS:
                return SearchResult(found, _written(place), place[0])
            chunk = min(2 * chunk, _LARGEST_CHUNK) if now - looked_at < _SECONDS / 8 else chunk


def as_filter(typed: str) -> str:
    """A path in the data as SQL/JSON path: `data.to = ada@example.com`, `data.to` (it is there), or SQL/JSON path itself; raises `InvalidOption`.

    What is compared with is a number, true, false or null where it can be one, or the same as text.
    """
    if typed.startswith(("$", "(", "exists")):
        return check_filter(typed, "path")
    if len(typed) > LONGEST_FILTER:
        raise InvalidOption(
            f'path: it may have {LONGEST_FILTER:,} characters, not {len(typed):,}; look for the beginning with SQL/JSON path: $.data.to starts with "ada"'
        )
    left, equals, right = typed.partition("=")
    if not _COMPARED.fullmatch(left.strip()):
        raise InvalidOption(
            "path: write it as data.to = ada@example.com, or as SQL/JSON path: $.data.total > 100"
        )
    where = "$" + "".join(f".{json.dumps(part)}" for part in path(left.strip(), "path"))
    if not equals:
        return f"exists({where})"
    written = right.strip()
    text = written.strip('"')
    found = f"{where} == {json.dumps(text, ensure_ascii=False)}"
    return f"{found} || {where} == {written}" if _is_literal(written) else found


def _is_literal(text: str) -> bool:
    if text.startswith(("[", "{")):  # no literal, and it may be nested deeper than can be read
        return False
    try:
        return isinstance(json.loads(text, parse_constant=lambda name: name), int | float | None)
    except ValueError:
        return False


def _ids(typed: str) -> Sequence[str] | None:
    """The events that an id leads to, None where none is asked for."""
    if not typed:
        return None
    with database.connection() as connection:
        rows = fetch_all(connection, "events_with_id", given=typed, number=as_number(typed))
    return [row["id"] for row in rows]


def _moment(typed: str, what: str) -> datetime | None:
    return parse_time(typed, what) if typed else None


def _place(before: str) -> tuple[datetime, str] | None:
    at, _, last = before.partition(" ")
    try:
        return (datetime.fromisoformat(at), last) if before else None
    except ValueError:
        raise InvalidOption("before: go on from a page of the search, by its link") from None


def _written(place: tuple[datetime, str]) -> str:
    return f"{place[0].astimezone(UTC).isoformat().replace('+00:00', 'Z')} {place[1]}"
