"""Tasks of asyncio that work in the background until they are ended."""

import asyncio
from contextlib import suppress
from typing import Any


async def end_task(task: "asyncio.Task[Any]") -> None:
    """Cancel a task, and wait until it has ended; raises what it failed with before."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
