"""The event loop on which this process makes its calls, in a thread of its own, with one client.

Runs of many functions share it, and so share connections to the same application.
"""

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as NotYet
from contextlib import AbstractContextManager, suppress
from typing import Any, TypeVar

from runyard.apps.calls import Caller
from runyard.apps.trust import guard

T = TypeVar("T")
_LONGEST_WAIT = 5.0
# As in Inngest's own server: answers may take as long as a step.
CALL_SECONDS = 7_200.0


class CallLoop:
    """Runs coroutines that make calls."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._caller: Caller | None = None

    def run(
        self,
        make: Callable[[Caller], Coroutine[Any, Any, T]],
        check: Callable[[], None],
        telling: Callable[[Callable[[], None]], AbstractContextManager[None]],
        grace: float = 5.0,
    ) -> T:
        """Run a coroutine to its end, calling `check` whenever there is news.

        `telling` lets a function be called when there is, inside of a `with` block. When `check`
        raises, or this thread is interrupted, the coroutine is cancelled, and given `grace` seconds
        to end.
        """
        news = threading.Event()
        task: Future[asyncio.Task[T]] = Future()
        future = self._submit(make, task)
        future.add_done_callback(lambda _: news.set())
        try:
            with telling(news.set):
                while not future.done():
                    news.clear()
                    check()
                    if not future.done():
                        news.wait(_LONGEST_WAIT)
            return future.result()
        finally:
            if not future.done():
                # Not the future itself, which would then be done at once, and its task later.
                with suppress(CancelledError, NotYet):
                    running = task.result(grace)
                    running.get_loop().call_soon_threadsafe(running.cancel)
                    future.exception(grace)
                future.cancel()

    def close(self) -> None:
        """Close the client and end the thread; the next call begins anew."""
        with self._lock:
            loop, caller, thread = self._loop, self._caller, self._thread
            self._loop = self._caller = self._thread = None
        if loop is None or caller is None or thread is None:
            return
        with suppress(NotYet):
            asyncio.run_coroutine_threadsafe(_close(caller), loop).result(_LONGEST_WAIT)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_LONGEST_WAIT)

    def _submit(
        self,
        make: Callable[[Caller], Coroutine[Any, Any, T]],
        task: "Future[asyncio.Task[T]]",
    ) -> "Future[T]":
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_run_forever, args=(self._loop,), name="runyard-calls", daemon=True
                )
                self._thread.start()
                self._caller = asyncio.run_coroutine_threadsafe(_open_caller(), self._loop).result()
            assert self._caller is not None
            return asyncio.run_coroutine_threadsafe(_told(make(self._caller), task), self._loop)


async def _told(coroutine: Coroutine[Any, Any, T], task: "Future[asyncio.Task[T]]") -> T:
    """Run a coroutine, and tell in which task."""
    own: Any = asyncio.current_task()
    task.set_result(own)
    return await coroutine


async def _open_caller() -> Caller:
    return await Caller(guard(), CALL_SECONDS).__aenter__()


async def _close(caller: Caller) -> None:
    await caller.__aexit__(None, None, None)
    await asyncio.sleep(0)  # in which its sockets are closed


def _run_forever(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


async def in_thread(do: Callable[[], T]) -> T:
    """Run what blocks in a thread, and wait for it even if this is cancelled meanwhile."""
    return await asyncio.shield(asyncio.to_thread(do))


call_loop = CallLoop()
atexit.register(call_loop.close)


def _after_fork() -> None:
    """Forget the loop: a fork copies the object, but not its thread."""
    CallLoop.__init__(call_loop)


os.register_at_fork(after_in_child=_after_fork)
