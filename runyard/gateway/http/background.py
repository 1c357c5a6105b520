"""Work that continues in a thread after its response was sent, until the process stops."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress

from starlette.concurrency import run_in_threadpool

from runyard.text.redaction import redact

_log = logging.getLogger("runyard.gateway")


class BackgroundRunner:
    """Exhausts iterators in the background.

    The process may stop between two pieces, so the work must be resumable.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "BackgroundRunner":
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for task in list(self._tasks):
            with suppress(asyncio.CancelledError):
                await task

    def run(self, pieces: Iterator[object]) -> None:
        """Start to exhaust an iterator."""
        task = asyncio.create_task(_exhaust(pieces))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _exhaust(pieces: Iterator[object]) -> None:
    end = object()
    try:
        while await run_in_threadpool(next, pieces, end) is not end:
            pass
    except Exception as error:
        _log.error("background work failed: %s", redact(repr(error)))
