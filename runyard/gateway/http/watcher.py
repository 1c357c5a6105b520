"""Polls the database for what clients wait for: ten times a second, one query for all of them.

No client holds a database connection, and while nobody waits, nothing is polled. Changes are found
by PostgreSQL snapshots, not by timestamps or counters: a step that commits late is not missed, and
a client that reconnects with the snapshot of its last message continues after it.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from runyard.gateway.http.database_connection import ReconnectingConnection
from runyard.gateway.http.errors import HttpError
from runyard.gateway.http.poller import Poller
from runyard.gateway.http.stopping import stop
from runyard.store.queries import Row

# Streams, and clients that wait for an outcome. One key may have half of them.
_MAX_STREAMS = _MAX_WAITING = 1000


@dataclass
class _Stream:
    key: str
    invocation: int
    since: str | None
    changes: asyncio.Queue[Row] = field(default_factory=asyncio.Queue)


@dataclass
class _Waiter:
    key: str
    events: set[str]
    finished: asyncio.Event = field(default_factory=asyncio.Event)


class InvocationWatcher(Poller):
    """Watches invocations for streams, and events for clients that wait for their outcome."""

    def __init__(self) -> None:
        super().__init__("web watcher", "cannot poll for what clients wait for")
        self._streams: dict[int, _Stream] = {}
        self._waiters: dict[int, _Waiter] = {}
        self._numbers = itertools.count()

    def check_capacity(self, key: str) -> None:
        """Raise `HttpError` if this key, or all keys together, have too many streams already."""
        if not _has_room([stream.key for stream in self._streams.values()], key, _MAX_STREAMS):
            raise HttpError(
                503,
                "busy",
                "there are too many open streams: close some, or try again",
                headers={"Retry-After": "10"},
            )

    async def wait_until_finished(self, events: Sequence[str], seconds: float, key: str) -> bool:
        """Wait until every invocation of these events is finished; False after a timeout.

        Also False, at once, if too many clients wait already, with this key or in all, or when the
        process is told to stop.
        """
        if not _has_room([waiter.key for waiter in self._waiters.values()], key, _MAX_WAITING):
            return False
        waiter = _Waiter(key, set(events))
        number = next(self._numbers)
        self._waiters[number] = waiter
        self.begin_polling()
        try:
            with stop.setting(waiter.finished):
                async with asyncio.timeout(seconds):
                    await waiter.finished.wait()
        except TimeoutError:
            return False
        finally:
            del self._waiters[number]
        return not stop.is_set

    async def changes(
        self, invocation: int, since: str | None, seconds: float, key: str
    ) -> AsyncGenerator[Row | None, None]:
        """The changes of an invocation since a snapshot (None: everything), until it is final.

        A change has `moment` (its snapshot), `final`, and whatever changed of `state`, `steps` and
        `progress`. None is yielded after each `seconds` without a change.
        """
        stream = _Stream(key, invocation, since)
        number = next(self._numbers)
        self._streams[number] = stream
        self.begin_polling()
        try:
            while True:
                try:
                    change = await asyncio.wait_for(stream.changes.get(), seconds)
                except TimeoutError:
                    yield None
                    continue
                yield change
                if change["final"]:
                    return
        finally:
            del self._streams[number]

    def has_clients(self) -> bool:
        """Whether anybody waits."""
        return bool(self._streams or self._waiters)

    async def poll(self, connection: ReconnectingConnection) -> None:
        """Read what has changed, and which events are open."""
        await self._poll_streams(connection)
        await self._poll_waiters(connection)

    async def _poll_streams(self, connection: ReconnectingConnection) -> None:
        # A client that has not read its last change yet is left out: a slow one buffers only one.
        streams = {
            number: stream for number, stream in self._streams.items() if stream.changes.empty()
        }
        if not streams:
            return
        watched = [
            {"number": number, "invocation": stream.invocation, "since": stream.since}
            for number, stream in streams.items()
        ]
        for row in await connection.fetch_all("changes", watched=json.dumps(watched)):
            stream = streams[row["number"]]
            if row["final"] or row["state"] or row["steps"] or row["progress"]:
                stream.since = row["moment"]
                stream.changes.put_nowait(row)

    async def _poll_waiters(self, connection: ReconnectingConnection) -> None:
        waiters = list(self._waiters.values())
        if not waiters:
            return
        events = sorted({event for waiter in waiters for event in waiter.events})
        still_open = {row["id"] for row in await connection.fetch_all("open_events", events=events)}
        for waiter in waiters:
            if not waiter.events & still_open:
                waiter.finished.set()


def _has_room(keys: Sequence[str], key: str, limit: int) -> bool:
    return len(keys) < limit and keys.count(key) < limit // 2
