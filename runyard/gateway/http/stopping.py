"""Ends what waits in this process when it is told to stop: streams, and requests for an outcome.

Their clients ask again, and another process answers. All other requests are finished.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Any


class Stop:
    """Whether the process was told to stop; sets events when it is."""

    def __init__(self) -> None:
        self.is_set = False
        self._events: set[asyncio.Event] = set()

    def set(self) -> None:
        """Note that the process stops. Called in the event loop."""
        self.is_set = True
        for event in self._events:
            event.set()

    @contextmanager
    def setting(self, event: asyncio.Event) -> Iterator[None]:
        """Set an event as soon as the process is told to stop, inside of a `with` block."""
        self._events.add(event)
        try:
            if self.is_set:
                event.set()
            yield
        finally:
            self._events.discard(event)


stop = Stop()


async def until_stop(messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The messages of a stream, which ends when the process is told to stop."""
    stopped = asyncio.Event()
    with stop.setting(stopped):
        stopping = asyncio.ensure_future(stopped.wait())
        try:
            while (message := await _next(messages, stopping)) is not None:
                yield message
        finally:
            stopping.cancel()


async def _next(messages: AsyncIterator[bytes], stopping: "asyncio.Future[Any]") -> bytes | None:
    """The next message; None at the end."""
    coming = asyncio.ensure_future(anext(messages, None))
    try:
        await asyncio.wait((coming, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not coming.done():
            coming.cancel()
            with suppress(asyncio.CancelledError):
                await coming
    return None if coming.cancelled() else coming.result()
