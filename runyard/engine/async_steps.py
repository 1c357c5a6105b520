"""Runs async steps: an event loop in a thread of its own works on many items at a time.

An item whose time is up is cancelled and fails alone, and so is one whose invocation has been
cancelled; the process is ended only when a coroutine blocks the loop itself, as a step in a thread
would. The items that wait behind such a coroutine are not charged for it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from inspect import isawaitable, iscoroutinefunction, unwrap
from typing import Any, TypeGuard

from runyard.engine.items import Item
from runyard.engine.step_threads import StepThreads
from runyard.engine.steps import Result, StepRecorder, StepSpan, encode
from runyard.errors import StepTimeout, interrupts

AsyncDo = Callable[..., Awaitable[object]]
# How much later than an item's timeout the process of a loop that is blocked is ended.
BLOCKED_SECONDS = 5.0
_PAUSE_SECONDS = 0.1
# A loop that has done nothing for longer is blocked.
_BLOCKED_AFTER_SECONDS = 1.0


def is_async(do: Callable[..., Any]) -> TypeGuard[AsyncDo]:
    """Return whether a step is an `async def` function, or one inside of decorators."""
    while isinstance(do, partial):
        do = do.func
    return iscoroutinefunction(unwrap(do))


class AsyncStep:
    """The items of one async step.

    Parameters
    ----------
    do
        The step.
    items
        The items, which may end early; one is taken whenever another is done.
    recorder
        Takes the results.
    limit
        How long an item may take, in seconds.
    is_paused
        Whether no item may begin now.
    is_cancelled
        Whether an item need not be worked on any more.
    """

    def __init__(
        self,
        do: AsyncDo,
        items: Iterator[Item],
        recorder: StepRecorder,
        *,
        limit: float,
        is_paused: Callable[[], bool],
        is_cancelled: Callable[[Item], bool],
    ) -> None:
        self._do = do
        self._items = items
        self._recorder = recorder
        self._limit = limit
        self._is_paused = is_paused
        self._is_cancelled = is_cancelled
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._timeouts: dict[int, tuple[Item, asyncio.Timeout]] = {}
        self._places: dict[asyncio.Task[None], int] = {}
        self._seen = time.monotonic()

    def run(self, places: int, grace: Callable[[], float]) -> None:
        """Work on all items, `places` at a time.

        When this is interrupted or the lease is lost, what is in progress is cancelled, and given
        `grace()` seconds to end. Raises what `StepRecorder.record` raises.
        """
        thread = StepThreads(lambda _: asyncio.run(self._run_all(places)), 1)
        try:
            thread.start()
            thread.wait(self._check)
        finally:
            self._cancel()
            thread.abandon(grace())

    def _cancel(self) -> None:
        if self._loop is not None and self._main is not None:
            with suppress(RuntimeError):  # the loop is closed: all is done
                self._loop.call_soon_threadsafe(self._main.cancel)

    def _check(self) -> None:
        """Raise what the recorder's `check` raises; called from outside of the loop.

        While the loop is blocked, only the item that blocks it counts as in progress.
        """
        self._recorder.check()
        blocked = time.monotonic() - self._seen > _BLOCKED_AFTER_SECONDS
        task = asyncio.current_task(self._loop) if blocked and self._loop is not None else None
        if task in self._places:
            for place in [place for place in list(self._timeouts) if place != self._places[task]]:
                self._recorder.end(place)

    async def _run_all(self, places: int) -> None:
        self._loop, self._main = asyncio.get_running_loop(), asyncio.current_task()
        tasks = [asyncio.ensure_future(self._work(place)) for place in range(places)]
        self._places = {task: place for place, task in enumerate(tasks)}
        watch = asyncio.ensure_future(self._watch())
        try:
            await asyncio.gather(*tasks)
        except asyncio.CancelledError:
            pass  # `run` knows why
        finally:
            for task in (*tasks, watch):
                task.cancel()
            await asyncio.gather(*tasks, watch, return_exceptions=True)

    async def _watch(self) -> None:
        """Let the time be up for items whose invocation is cancelled meanwhile."""
        loop = asyncio.get_running_loop()
        while True:
            was_blocked = time.monotonic() - self._seen > _BLOCKED_AFTER_SECONDS
            self._seen = time.monotonic()
            for place, (item, timeout) in list(self._timeouts.items()):
                if was_blocked:
                    self._recorder.begin_again(item, place)
                if self._is_cancelled(item) and not timeout.expired():
                    timeout.reschedule(loop.time())
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _work(self, place: int) -> None:
        self._recorder.enter(place)
        for item in self._items:
            while self._is_paused():
                await asyncio.sleep(_PAUSE_SECONDS)
                self._recorder.check()
            if not self._is_cancelled(item):
                result = await self._attempt(item, place)
                if result is not None:
                    # Saving waits for the database, and other items need not.
                    await asyncio.to_thread(self._recorder.record, [result])

    async def _attempt(self, item: Item, place: int) -> Result | None:
        """Return the result of an item; None when its invocation was cancelled on the way."""
        self._recorder.begin(item, place)
        try:
            with StepSpan(item) as span:
                result = await self._result(item, place)
        finally:
            self._recorder.end(place)
        if result is not None:
            result.span = span
        return result

    async def _result(self, item: Item, place: int) -> Result | None:
        started = time.time()
        try:
            async with asyncio.timeout(self._limit) as timeout:
                self._timeouts[place] = item, timeout
                try:
                    made: object = self._do(item)
                    output = await made if isawaitable(made) else made
                finally:
                    del self._timeouts[place]
            return Result(item, started, time.time(), *encode(output))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return Result(item, started, time.time(), error=error)
        except interrupts():
            raise
        except BaseException as error:
            if isinstance(error, TimeoutError) and timeout.expired():
                if self._is_cancelled(item):
                    return None
                error = StepTimeout(
                    f"step {self._recorder.step} did not end within {self._limit:g} s and was"
                    " cancelled: give it more time with timeout=, or what it calls a shorter one"
                )
            return Result(item, started, time.time(), error=error)
