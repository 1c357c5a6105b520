"""Polls the database for the clients of this process, ten times a second, while there are any.

However many clients there are, one connection serves them all; none holds one of its own.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import Self

from runyard.engine.backoff import Backoff
from runyard.engine.tasks import end_task
from runyard.gateway.http.database_connection import ReconnectingConnection

_POLL_SECONDS = 0.1
_MAX_BACKOFF_SECONDS = 1.0
_log = logging.getLogger("runyard.gateway")


class Poller(ABC):
    """What polls for clients; an async context manager.

    Parameters
    ----------
    connection_name
        The name of its connection, as the database shows it.
    failure
        What the log says while it cannot poll.
    """

    def __init__(self, connection_name: str, failure: str) -> None:
        self._connection_name = connection_name
        self._failure = failure
        self._has_news = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(
            self._poll_forever(ReconnectingConnection(self._connection_name))
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await end_task(self._task)

    def begin_polling(self) -> None:
        """Poll from now on: there is a client."""
        self._has_news.set()

    @abstractmethod
    def has_clients(self) -> bool:
        """Whether there is a client; while there is none, nothing is polled."""

    @abstractmethod
    async def poll(self, connection: ReconnectingConnection) -> None:
        """Read once for all clients, and tell each what concerns it."""

    async def _poll_forever(self, connection: ReconnectingConnection) -> None:
        backoff = Backoff(_log, self._failure, _MAX_BACKOFF_SECONDS)
        try:
            while True:
                await self._has_news.wait()
                if not self.has_clients():
                    self._has_news.clear()
                    continue
                try:
                    await self.poll(connection)
                    await asyncio.sleep(_POLL_SECONDS)
                    backoff.succeeded()
                except Exception as error:
                    await asyncio.sleep(backoff.failed(error))
        finally:
            await connection.close()
