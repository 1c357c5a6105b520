"""Work that goes on after its request was answered: in a thread, a piece at a time, until the process stops."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress

from starlette.concurrency import run_in_threadpool

from runyard.text.redaction import redact

_log = logging.getLogger("runyard.gateway")


class BackgroundRunner:
    """Takes iterators to their ends. What is stopped in the middle must be able to go on another time."""

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
        """Do all the pieces of an iterator."""
        task = asyncio.create_task(_exhaust(pieces))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _exhaust(pieces: Iterator[object]) -> None:
    over = object()
    try:
        while await run_in_threadpool(next, pieces, over) is not over:
            pass
    except Exception as error:
        _log.error("work in the background stopped: %s", redact(repr(error)))
