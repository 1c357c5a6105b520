"""Threads that work on a step together, and are left behind where they do not end.

A thread pool of the standard library waits for its threads without bound, at its own exit and at
the end of the process. These are waited for as long as the caller says; those that are left behind
do not keep the process from ending.
"""

import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from queue import Empty, SimpleQueue

_LOOK_SECONDS = 0.2
_left: list[threading.Thread] = []


class StepThreads:
    """Threads, each with a place (from 0) and the context of the thread that makes them."""

    def __init__(self, work: Callable[[int], None], size: int) -> None:
        self._work = work
        self._ended: SimpleQueue[BaseException | None] = SimpleQueue()
        self._threads = [self._thread(place) for place in range(size)]

    def start(self) -> None:
        """Let them begin."""
        for thread in self._threads:
            thread.start()

    def wait(self, look: Callable[[], None]) -> None:
        """Wait until all have ended; raise what one of them raises, or `look`, called now and then."""
        for _ in self._threads:
            while True:
                look()
                try:
                    error = self._ended.get(timeout=_LOOK_SECONDS)
                except Empty:
                    continue
                if error is not None:
                    raise error
                break

    def leave(self, seconds: float) -> None:
        """Wait so many seconds at most for those still at work, then leave the others behind."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        _left.extend(thread for thread in self._threads if thread.is_alive())

    def _thread(self, place: int) -> threading.Thread:
        run, arguments = copy_context().run, (self._run, place)
        return threading.Thread(target=run, args=arguments, name=f"step_{place}", daemon=True)

    def _run(self, place: int) -> None:
        try:
            self._work(place)
        except BaseException as error:
            self._ended.put(error)
        else:
            self._ended.put(None)


def any_abandoned() -> bool:
    """Whether threads that were left behind are still at work in this process."""
    _left[:] = [thread for thread in _left if thread.is_alive()]
    return bool(_left)
