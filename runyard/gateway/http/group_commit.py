"""Group commit: one statement writes what many requests have brought.

Requests that arrive during a statement share the next one: the busier it is, the more each
statement and its commit carry. A request gets its result after the commit.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

import psycopg

from runyard.engine.tasks import end_task
from runyard.errors import DatabaseUnavailable
from runyard.gateway.http.database_connection import ReconnectingConnection

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class _Request(Generic[Item, Result]):
    item: Item
    result: "asyncio.Future[Result]"


class GroupCommit(Generic[Item, Result]):
    """Queues what requests bring, and writes it; an async context manager.

    Parameters
    ----------
    connection
        The connection to write with, which nothing else uses.
    write
        Writes items with one statement, and returns their results in the same order.
    size, most
        The size of an item, and that of a statement from which on it takes no other item.
    key
        What only one item of a statement may have.
    """

    def __init__(
        self,
        connection: ReconnectingConnection,
        write: Callable[[ReconnectingConnection, Sequence[Item]], Awaitable[Sequence[Result]]],
        size: Callable[[Item], int],
        most: int,
        key: Callable[[Item], object] = id,
    ) -> None:
        self._connection = connection
        self._write = write
        self._size = size
        self._most = most
        self._key = key
        self._queue: deque[_Request[Item, Result]] = deque()
        self._arrived = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._write_forever())
        return self

    async def __aexit__(self, *_: object) -> None:
        await end_task(self._task)

    async def put(self, item: Item) -> Result:
        """Write an item and return its result, after the commit.

        Raises `DatabaseUnavailable` if nothing was written or the outcome is unknown, and the
        errors of psycopg for what the database rejects.
        """
        request = _Request[Item, Result](item, asyncio.get_running_loop().create_future())
        self._queue.append(request)
        self._arrived.set()
        return await request.result

    async def _write_forever(self) -> None:
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                while self._queue:
                    await self._write_group(self._next_group())
        finally:
            await self._connection.close()

    def _next_group(self) -> Sequence[_Request[Item, Result]]:
        """Take the oldest request, with those behind it that fit into the same statement."""
        group: list[_Request[Item, Result]] = []
        keys: set[object] = set()
        size = 0
        while self._queue and size < self._most:
            key = self._key(self._queue[0].item)
            if key in keys:
                break
            keys.add(key)
            group.append(self._queue.popleft())
            size += self._size(group[-1].item)
        return group

    async def _write_group(self, group: Sequence[_Request[Item, Result]]) -> None:
        try:
            results = await self._write(self._connection, [request.item for request in group])
        except asyncio.CancelledError:
            for request in group:
                _fail(request, DatabaseUnavailable("the web process is stopping"))
            raise
        except psycopg.Error as error:
            if len(group) == 1:
                _fail(group[0], error)
                return
            # One of them holds something that the database rejects: retry each on its own.
            for request in group:
                await self._write_group([request])
        except Exception as error:
            for request in group:
                _fail(request, error)
        else:
            for request, result in zip(group, results, strict=True):
                if not request.result.done():
                    request.result.set_result(result)


def _fail(request: "_Request[Item, Result]", error: Exception) -> None:
    if not request.result.done():
        request.result.set_exception(error)
