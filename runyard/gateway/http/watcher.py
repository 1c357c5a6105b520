"""Looks for what clients wait for: one question to the database every tenth of a second, for all of them together.

Nobody's connection holds one of the database's, and while nobody waits nothing is asked. What has changed is told by PostgreSQL's snapshots,
not by times or counters: a step that commits late is not missed, and a client that comes back with its last moment goes on behind it.
"""

import asyncio
import itertools
import json
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from runyard.engine.loops import Trouble
from runyard.gateway.http.database_connection import ReconnectingConnection
from runyard.gateway.http.errors import HttpError
from runyard.store.queries import Row

_SECONDS = 0.1
_MAX_SECONDS_AFTER_ERROR = 1.0
# Streams, and clients that wait for an outcome; one key may have half of them.
_MAX_STREAMS = _MAX_WAITING = 1000
_log = logging.getLogger("runyard.gateway")


@dataclass
class _Stream:
    key: str
    invocation: int
    since: str | None
    changes: asyncio.Queue[Row] = field(default_factory=asyncio.Queue)


@dataclass
class _Ends:
    key: str
    events: set[str]
    reached: asyncio.Event = field(default_factory=asyncio.Event)


class InvocationWatcher:
    """Watches invocations, and the ends of events, for those who ask."""

    def __init__(self) -> None:
        self._streams: dict[int, _Stream] = {}
        self._ends: dict[int, _Ends] = {}
        self._numbers = itertools.count()
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "InvocationWatcher":
        self._task = asyncio.create_task(self._watch(ReconnectingConnection("web watcher")))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def check_room(self, key: str) -> None:
        """Raise `HttpError` where the clients with a key, or all together, have as many streams as there may be."""
        if not _has_room([stream.key for stream in self._streams.values()], key, _MAX_STREAMS):
            raise HttpError(
                503,
                "busy",
                "there are as many streams as can be held: close some, or ask again",
                headers={"Retry-After": "10"},
            )

    async def ended(self, events: Sequence[str], seconds: float, key: str) -> bool:
        """Wait until no invocation of these events is open, for some seconds; return whether that is so.

        Where too many clients wait, with this key or in all, it is as if the time were over.
        """
        if not _has_room([ends.key for ends in self._ends.values()], key, _MAX_WAITING):
            return False
        ends = _Ends(key, set(events))
        number = next(self._numbers)
        self._ends[number] = ends
        self._wanted.set()
        try:
            async with asyncio.timeout(seconds):
                await ends.reached.wait()
        except TimeoutError:
            return False
        finally:
            del self._ends[number]
        return True

    async def changes(
        self, invocation: int, since: str | None, seconds: float, key: str
    ) -> AsyncGenerator[Row | None, None]:
        """What changes of an invocation after a moment (None: all there is), until it is final; None after so many seconds without a change.

        A change has `moment`, `final`, and where they changed `state`, `steps` and `progress`.
        """
        stream = _Stream(key, invocation, since)
        number = next(self._numbers)
        self._streams[number] = stream
        self._wanted.set()
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

    async def _watch(self, connection: ReconnectingConnection) -> None:
        trouble = Trouble(_log, "cannot look for what clients wait for", _MAX_SECONDS_AFTER_ERROR)
        try:
            while True:
                await self._wanted.wait()
                if not self._streams and not self._ends:
                    self._wanted.clear()
                    continue
                try:
                    await self._look_at_streams(connection)
                    await self._look_at_ends(connection)
                    await asyncio.sleep(_SECONDS)
                    trouble.over()
                except Exception as error:
                    await asyncio.sleep(trouble.met(error))
        finally:
            await connection.close()

    async def _look_at_streams(self, connection: ReconnectingConnection) -> None:
        # Of a client that has not yet read the last change no more is asked: it holds one, however slow it is.
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

    async def _look_at_ends(self, connection: ReconnectingConnection) -> None:
        waiting = list(self._ends.values())
        if not waiting:
            return
        events = sorted({event for ends in waiting for event in ends.events})
        still_open = {row["id"] for row in await connection.fetch_all("open_events", events=events)}
        for ends in waiting:
            if not ends.events & still_open:
                ends.reached.set()


def _has_room(keys: Sequence[str], key: str, most: int) -> bool:
    return len(keys) < most and keys.count(key) < most // 2
