"""A line of the log for what strangers can make happen as often as they like: one in a while, with how often it was."""

import logging
import time

_SECONDS = 10.0


class ThrottledWarning:
    """Warns at most every ten seconds.

    Parameters
    ----------
    message
        What is said: with a `%d` for how often it happened since the last line, and a `%s` for the latest case.
    """

    def __init__(self, message: str) -> None:
        self._message = message
        self._log = logging.getLogger("runyard.gateway")
        self._said_at = float("-inf")
        self._times = 0

    def warn(self, latest: object) -> None:
        """It happened once more."""
        self._times += 1
        now = time.monotonic()
        if now - self._said_at >= _SECONDS:
            self._log.warning(self._message, self._times, latest)
            self._said_at, self._times = now, 0
