"""Inserts the events of many requests with one statement.

A request gets its response after the commit of its events, which are accepted all together or not
at all.

An event with an id of the caller's own waits for any other transaction that sends the same id, even
one that an application keeps open. Such requests have a connection to themselves and a short lock
timeout, so that no other request waits behind them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from runyard.events import as_json
from runyard.gateway.http import counters
from runyard.gateway.http.database_connection import ReconnectingConnection
from runyard.gateway.http.errors import HttpError
from runyard.gateway.http.group_commit import GroupCommit
from runyard.gateway.http.sent_spans import SentSpans, begin_sending
from runyard.tracing import recording

_LOCK_SECONDS = 1.0
_MAX_EVENTS = 2000
# Events that may be queued; more are rejected at once instead of being kept in memory.
_MAX_QUEUED_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class EncodedEvents:
    """The validated, encoded events of a request; `keyed` if any has an id of the caller's own."""

    json: str
    count: int
    keyed: bool
    spans: SentSpans = field(default_factory=SentSpans)

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, object]], sender: str) -> "EncodedEvents":
        """Encode the rows of `runyard.events.rows_of` for one sender (`Key.sender`).

        Raises `InvalidEvent` for values that JSON or PostgreSQL cannot represent.
        """
        spans = SentSpans()
        if sender or recording.is_on():
            rows = sent = [{**row, "sender": sender} if sender else {**row} for row in rows]
            spans = begin_sending(sent)
        return cls(as_json(rows), len(rows), any("id" in row for row in rows), spans)


class EventWriter:
    """Queues the events of requests, and inserts them."""

    def __init__(self) -> None:
        self._plain, self._keyed = (
            GroupCommit(
                ReconnectingConnection("web writer", _LOCK_SECONDS),
                _insert,
                size=lambda events: events.count,
                most=_MAX_EVENTS,
            )
            for _ in range(2)
        )
        self._bytes = 0

    async def __aenter__(self) -> "EventWriter":
        await self._plain.__aenter__()
        await self._keyed.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._plain.__aexit__()
        await self._keyed.__aexit__()

    async def send(self, events: EncodedEvents) -> list[str]:
        """Insert events; return their ids after the commit.

        Raises `DatabaseUnavailable` if nothing was accepted or the outcome is unknown (it is safe
        to retry with the same ids), the errors of psycopg for what the database rejects, and
        `HttpError` if too much is queued.
        """
        if not events.count:
            return []
        if self._bytes > _MAX_QUEUED_BYTES:
            raise HttpError(
                503,
                "busy",
                "too many events are waiting to be stored; nothing was accepted. Send them again",
                headers={"Retry-After": "1"},
            )
        self._bytes += len(events.json)
        try:
            ids = await (self._keyed if events.keyed else self._plain).put(events)
        except Exception as error:
            events.spans.end(error)
            raise
        finally:
            self._bytes -= len(events.json)
        events.spans.end()
        counters.events.inc(events.count)
        return ids


async def _insert(
    connection: ReconnectingConnection, group: Sequence[EncodedEvents]
) -> list[list[str]]:
    [row] = await connection.fetch_all(
        "send_shared", events=f"[{','.join(events.json[1:-1] for events in group)}]"
    )
    ids = iter(row["ids"])
    return [list(islice(ids, events.count)) for events in group]
