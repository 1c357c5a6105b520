"""Inserts events for many requests at once.

Requests that arrive while an INSERT is under way share the next one: the busier it is, the more a statement and its commit carry. Each
request gets its answer after the commit that holds its events, all of them or none.

An event with an id of the caller's own waits for whoever else is sending that id, be it a transaction that an application keeps open: such
requests have a connection to themselves, and not for long, so that nobody else waits behind them.
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
# What may wait for its turn; more is refused at once rather than kept in memory.
_MAX_WAITING_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class EncodedEvents:
    """The events of a request, checked and encoded; `keyed` says that some have an id of the caller's own."""

    json: str
    count: int
    keyed: bool

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, object]], sender: str) -> "EncodedEvents":
        """Of elements as `runyard.events.rows_of` makes them, of one sender (`Key.sender`); raises `InvalidEvent` for what JSON or PostgreSQL cannot hold."""
        whose = [{**row, "sender": sender} for row in rows] if sender else rows
        return cls(as_json(whose), len(rows), any("id" in row for row in rows))


@dataclass
class _Request:
    rows: EncodedEvents
    answer: asyncio.Future[list[str]]


class EventWriter:
    """Takes the events of requests, and inserts them."""

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

    async def send(self, rows: EncodedEvents) -> list[str]:
        """Insert events; return their ids after the commit.

        Raises `DatabaseUnavailable` (nothing was accepted, or it is not known: sent again with the same ids, nothing is done twice), psycopg's
        errors for what the database refuses, and `HttpError` when too much is waiting.
        """
        if not rows.count:
            return []
        if self._bytes > _MAX_WAITING_BYTES:
            raise HttpError(
                503,
                "busy",
                "more events are coming in than can be kept; nothing was accepted. Send them again",
                headers={"Retry-After": "1"},
            )
        request = _Request(rows, asyncio.get_running_loop().create_future())
        self._bytes += len(rows.json)
        (self._keyed if rows.keyed else self._plain).put_nowait(request)
        try:
            ids = await request.answer
        finally:
            self._bytes -= len(rows.json)
        counters.events.inc(rows.count)
        return ids


async def _write(connection: ReconnectingConnection, queue: asyncio.Queue[_Request]) -> None:
    try:
        while True:
            await _insert(connection, await _next(queue))
    finally:
        await connection.close()


async def _next(queue: asyncio.Queue[_Request]) -> list[_Request]:
    """Wait for a request; take it with those that are waiting behind it, as many as an INSERT may carry."""
    requests = [await queue.get()]
    events = requests[0].rows.count
    while events < _MAX_EVENTS and not queue.empty():
        requests.append(queue.get_nowait())
        events += requests[-1].rows.count
    return requests


async def _insert(connection: ReconnectingConnection, requests: Sequence[_Request]) -> None:
    try:
        [row] = await connection.fetch_all(
            "send_shared", events=f"[{','.join(request.rows.json[1:-1] for request in requests)}]"
        )
    except asyncio.CancelledError:
        for request in requests:
            _fail(request, DatabaseUnavailable("the web process stops"))
        raise
    except psycopg.Error as error:
        if len(requests) == 1:
            _fail(requests[0], error)
            return
        # One of them holds what the database refuses: the others are not to suffer for it.
        for request in requests:
            await _insert(connection, [request])
    except Exception as error:
        for request in requests:
            _fail(request, error)
    else:
        given = 0
        for request in requests:
            if not request.answer.done():
                request.answer.set_result(row["ids"][given : given + request.rows.count])
            given += request.rows.count


def _fail(request: _Request, error: Exception) -> None:
    if not request.answer.done():
        request.answer.set_exception(error)
