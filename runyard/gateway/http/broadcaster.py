"""Passes on what is published to channels, from whatever process, to the subscribers of this one.

Messages are rows in the database. As long as there are subscribers, one query reads the new ones of
all their channels, ten times a second; nobody holds a connection of their own. Like the changes of
invocations, messages are found by PostgreSQL snapshots: one that is committed late is not missed.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress

from runyard.errors import RunyardError
from runyard.gateway.http.database_connection import ReconnectingConnection
from runyard.gateway.http.errors import HttpError
from runyard.gateway.http.poller import Poller
from runyard.store.queries import Row

_MAX_SUBSCRIBERS = 400
# What may wait for a subscriber that reads slowly.
_MAX_WAITING = 1_000
_MAX_WAITING_BYTES = 4 * 1024 * 1024


class TooSlow(RunyardError):
    """A subscriber has not read its messages for too long."""


class Subscriber:
    """Somebody who reads the messages of some topics."""

    def __init__(self, topics: Collection[tuple[str, str]]) -> None:
        self.topics = frozenset(topics)
        self.has_begun = asyncio.Event()
        self._messages: deque[str] = deque()
        self._bytes = 0
        self._is_cut = False
        self._has_news = asyncio.Event()

    async def next(self, seconds: float) -> str | None:
        """Return the next message, as JSON; None after so many seconds without one.

        Raises `TooSlow`.
        """
        if not self._messages and not self._is_cut:
            self._has_news.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._has_news.wait(), seconds)
        if self._is_cut:
            raise TooSlow("messages were not read for too long: subscribe again")
        if not self._messages:
            return None
        message = self._messages.popleft()
        self._bytes -= len(message)
        return message

    def add(self, message: str) -> None:
        """Add a message, unless too many wait already."""
        self._messages.append(message)
        self._bytes += len(message)
        if len(self._messages) > _MAX_WAITING or self._bytes > _MAX_WAITING_BYTES:
            self._is_cut = True
            self._messages.clear()
        self._has_news.set()


class Broadcaster(Poller):
    """The subscribers of this process; an async context manager."""

    def __init__(self) -> None:
        super().__init__("web broadcaster", "cannot poll for messages of channels")
        self._subscribers: dict[int, Subscriber] = {}
        self._numbers = itertools.count()
        self._since: str | None = None

    def check_capacity(self) -> None:
        """Raise `HttpError` if there are too many subscribers already."""
        if len(self._subscribers) >= _MAX_SUBSCRIBERS:
            raise HttpError(
                503,
                "busy",
                "there are too many subscriptions: close some, or try again",
                headers={"Retry-After": "10"},
            )

    @asynccontextmanager
    async def subscribe(self, topics: Collection[tuple[str, str]]) -> AsyncIterator[Subscriber]:
        """Subscribe to topics, each of which is a channel and a name.

        What is published once the block has begun is not missed.
        """
        subscriber, number = Subscriber(topics), next(self._numbers)
        if not self._subscribers:
            self._since = None  # what was published while nobody listened is nobody's
        self._subscribers[number] = subscriber
        self.begin_polling()
        try:
            await subscriber.has_begun.wait()
            yield subscriber
        finally:
            del self._subscribers[number]

    def has_clients(self) -> bool:
        """Whether there are subscribers."""
        return bool(self._subscribers)

    async def poll(self, connection: ReconnectingConnection) -> None:
        """Read what was published since the last time, and pass it on."""
        subscribers = list(self._subscribers.values())
        channels = {channel for each in subscribers for channel, _ in each.topics}
        rows = await connection.fetch_all("published", since=self._since, channels=sorted(channels))
        self._since = rows[0]["moment"]
        for subscriber in subscribers:
            if subscriber.has_begun.is_set():
                _pass_on(rows, subscriber)
            subscriber.has_begun.set()


def _pass_on(rows: Collection[Row], subscriber: Subscriber) -> None:
    for row in rows:
        if (row["channel"], row["topic"]) in subscriber.topics:
            subscriber.add(row["message"])
