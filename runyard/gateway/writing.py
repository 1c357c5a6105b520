"""Inserts events for many requests at once.

Requests that arrive while an INSERT is under way share the next one: the busier it is, the more a statement and its commit carry. Each
request gets its answer after the commit that holds its events, all of them or none.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import psycopg

from runyard.errors import DatabaseUnavailable
from runyard.gateway import counters
from runyard.gateway.line import Line
from runyard.gateway.problems import Problem

# Two at a time: while one waits for its commit, the other inserts.
_LINES = 2
_MOST_EVENTS = 2000
# What may wait for its turn; more is refused at once rather than kept in memory.
_MOST_WAITING_BYTES = 64 * 1024 * 1024


@dataclass
class _Request:
    rows: str
    count: int
    answer: asyncio.Future[list[str]]


class Writer:
    """Takes the events of requests, and inserts them."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[_Request] = asyncio.Queue()
        self._bytes = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Writer":
        self._tasks = [asyncio.create_task(self._write(Line("web writer"))) for _ in range(_LINES)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task

    async def send(self, rows: str, count: int) -> list[str]:
        """Insert events, as `runyard.events.as_json` gives them; return their ids after the commit.

        Raises `DatabaseUnavailable` (nothing was accepted, or it is not known: sent again with the same ids, nothing is done twice), psycopg's
        errors for what the database refuses, and `Problem` when too much is waiting.
        """
        if self._bytes > _MOST_WAITING_BYTES:
            raise Problem(503, "busy", "more events are coming in than can be kept; nothing was accepted. Send them again", headers={"Retry-After": "1"})
        request = _Request(rows, count, asyncio.get_running_loop().create_future())
        self._bytes += len(rows)
        self._waiting.put_nowait(request)
        try:
            ids = await request.answer
        finally:
            self._bytes -= len(rows)
        counters.events.inc(count)
        return ids

    async def _write(self, line: Line) -> None:
        try:
            while True:
                await self._insert(line, await self._next())
        finally:
            await line.close()

    async def _next(self) -> list[_Request]:
        """Wait for a request; take it with those that are waiting behind it, as many as an INSERT may carry."""
        requests = [await self._waiting.get()]
        events = requests[0].count
        while events < _MOST_EVENTS and not self._waiting.empty():
            requests.append(self._waiting.get_nowait())
            events += requests[-1].count
        return requests

    async def _insert(self, line: Line, requests: Sequence[_Request]) -> None:
        try:
            [row] = await line.run("send_shared", events=f"[{','.join(request.rows[1:-1] for request in requests)}]")
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
                await self._insert(line, [request])
        except Exception as error:
            for request in requests:
                _fail(request, error)
        else:
            given = 0
            for request in requests:
                if not request.answer.done():
                    request.answer.set_result(row["ids"][given : given + request.count])
                given += request.count


def _fail(request: _Request, error: Exception) -> None:
    if not request.answer.done():
        request.answer.set_exception(error)
