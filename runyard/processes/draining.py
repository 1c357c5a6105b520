"""How a worker stops: it takes no more runs, and those in progress have some time to finish.

The time is over early when the worker is told to stop a second time.
"""

import logging
import time
from collections.abc import Callable

from runyard.settings import settings

_LOOK_SECONDS = 0.1
_SAY_SECONDS = 5.0
# Within this time a second signal is the first one again: a terminal sends it to a process and to
# its parent, which passes it on.
_SAME_STOP_SECONDS = 1.0


class Drain:
    """The time that runs in progress have to finish.

    Parameters
    ----------
    log
        Where it is said how many runs are left.
    runs_left
        Returns how many runs are in progress.
    """

    def __init__(self, log: logging.Logger, runs_left: Callable[[], int]) -> None:
        self._log = log
        self._runs_left = runs_left
        self._begun_at: float | None = None
        # Signal handlers take no locks, not even that of an Event: the code that they interrupt may
        # hold it.
        self._is_cut_short = False

    @property
    def has_begun(self) -> bool:
        """Whether the process was told to stop."""
        return self._begun_at is not None

    def begin(self) -> bool:
        """Note that the process was told to stop; the second time, the time to finish is over.

        Returns whether it was the first time. Safe to call in a signal handler.
        """
        now = time.monotonic()
        if self._begun_at is None:
            self._begun_at = now
            return True
        if now - self._begun_at >= _SAME_STOP_SECONDS:
            self._is_cut_short = True
        return False

    def await_begin(self, seconds: float) -> None:
        """Wait for so long, or until the process is told to stop."""
        until = time.monotonic() + seconds
        while not self.has_begun and (left := until - time.monotonic()) > 0:
            time.sleep(min(_LOOK_SECONDS, left))

    def wait(
        self, is_done: Callable[[], bool], changed: Callable[[int], None] = lambda _: None
    ) -> bool:
        """Wait until all is done; False when the time is over first.

        `changed` is called with the number of runs left, at the beginning and whenever it changes.
        """
        until = time.monotonic() + settings().drain_timeout
        left, said_at = -1, -_SAY_SECONDS
        while not is_done():
            now = time.monotonic()
            before, left = left, self._runs_left()
            if left != before:
                changed(left)
            if left and now - said_at >= _SAY_SECONDS:
                self._say(left, until - now)
                said_at = now
            if now >= until or self._is_cut_short:
                return is_done()
            time.sleep(min(_LOOK_SECONDS, until - now))
        return True

    def _say(self, left: int, seconds: float) -> None:
        runs = "1 run" if left == 1 else f"{left} runs"
        self._log.warning("draining: %s left, up to %.0f s", runs, max(0.0, seconds))
