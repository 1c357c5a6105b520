"""Inserts the events of many requests with one statement.

Requests that arrive during an INSERT share the next one: the busier it is, the more each statement
and its commit carry. A request gets its response after the commit of its events, which are accepted
all together or not at all.

An event with an id of the caller's own waits for any other transaction that sends the same id, even
one that an application keeps open. Such requests have a connection to themselves and a short lock
timeout, so that no other request waits behind them.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psycopg

from runyard.errors import DatabaseUnavailable
from runyard.events import as_json
from runyard.gateway.http import counters
from runyard.gateway.http.database_connection import ReconnectingConnection
from runyard.gateway.http.errors import HttpError

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

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, object]], sender: str) -> "EncodedEvents":
        """Encode the rows of `runyard.events.rows_of` for one sender (`Key.sender`).

        Raises `InvalidEvent` for values that JSON or PostgreSQL cannot represent.
        """
        sent = [{**row, "sender": sender} for row in rows] if sender else rows
        return cls(as_json(sent), len(rows), any("id" in row for row in rows))


@dataclass
class _Request:
    events: EncodedEvents
    ids: asyncio.Future[list[str]]


class EventWriter:
    """Queues the events of requests, and inserts them."""

    def __init__(self) -> None:
        self._plain: asyncio.Queue[_Request] = asyncio.Queue()
        self._keyed: asyncio.Queue[_Request] = asyncio.Queue()
        self._bytes = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "EventWriter":
        self._tasks = [
            asyncio.create_task(_write(ReconnectingConnection("web writer", _LOCK_SECONDS), queue))
            for queue in (self._plain, self._keyed)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task

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
        request = _Request(events, asyncio.get_running_loop().create_future())
        self._bytes += len(events.json)
        (self._keyed if events.keyed else self._plain).put_nowait(request)
        try:
            ids = await request.ids
        finally:
            self._bytes -= len(events.json)
        counters.events.inc(events.count)
        return ids


async def _write(connection: ReconnectingConnection, queue: asyncio.Queue[_Request]) -> None:
    try:
        while True:
            await _insert(connection, await _next(queue))
    finally:
        await connection.close()


async def _next(queue: asyncio.Queue[_Request]) -> list[_Request]:
    """Wait for a request; return it with those queued behind it, as many as fit an INSERT."""
    requests = [await queue.get()]
    count = requests[0].events.count
    while count < _MAX_EVENTS and not queue.empty():
        requests.append(queue.get_nowait())
        count += requests[-1].events.count
    return requests


async def _insert(connection: ReconnectingConnection, requests: Sequence[_Request]) -> None:
    try:
        [row] = await connection.fetch_all(
            "send_shared", events=f"[{','.join(request.events.json[1:-1] for request in requests)}]"
        )
    except asyncio.CancelledError:
        for request in requests:
            _fail(request, DatabaseUnavailable("the web process is stopping"))
        raise
    except psycopg.Error as error:
        if len(requests) == 1:
            _fail(requests[0], error)
            return
        # One of them holds something that the database rejects: retry each on its own.
        for request in requests:
            await _insert(connection, [request])
    except Exception as error:
        for request in requests:
            _fail(request, error)
    else:
        start = 0
        for request in requests:
            if not request.ids.done():
                request.ids.set_result(row["ids"][start : start + request.events.count])
            start += request.events.count


def _fail(request: _Request, error: Exception) -> None:
    if not request.ids.done():
        request.ids.set_exception(error)
