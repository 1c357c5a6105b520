"""The threads of a step, which can be abandoned when they do not end.

A thread pool of the standard library waits for its threads without limit, when it shuts down and
when the process exits. These threads are waited for as long as the caller says, and those that are
abandoned do not keep the process from exiting.
"""

import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from queue import Empty, SimpleQueue

_CHECK_SECONDS = 0.2
_abandoned: list[threading.Thread] = []


class StepThreads:
    """Threads that share the work of a step.

    Parameters
    ----------
    work
        What each thread does; it is called with the thread's number, from 0, in a copy of the
        creating thread's context.
    size
        How many threads.
    """

    def __init__(self, work: Callable[[int], None], size: int) -> None:
        self._work = work
        self._ended: SimpleQueue[BaseException | None] = SimpleQueue()
        self._threads = [self._thread(place) for place in range(size)]

    def start(self) -> None:
        """Start all threads."""
        for thread in self._threads:
            thread.start()

    def wait(self, check: Callable[[], None]) -> None:
        """Wait until all threads have ended, calling `check` every now and then.

        Raises what a thread or `check` raises.
        """
        for _ in self._threads:
            while True:
                check()
                try:
                    error = self._ended.get(timeout=_CHECK_SECONDS)
                except Empty:
                    continue
                if error is not None:
                    raise error
                break

    def abandon(self, grace: float) -> None:
        """Wait up to `grace` seconds for busy threads, then abandon those that are left."""
        deadline = time.monotonic() + grace
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        _abandoned.extend(thread for thread in self._threads if thread.is_alive())

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
    """Return whether abandoned threads are still busy in this process."""
    _abandoned[:] = [thread for thread in _abandoned if thread.is_alive()]
    return bool(_abandoned)
