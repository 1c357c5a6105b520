"""Warnings for what clients can cause as often as they like: logged now and then, with a count."""

import logging
import time

_INTERVAL_SECONDS = 10.0


class ThrottledWarning:
    """A warning that is logged at most every ten seconds.

    Parameters
    ----------
    message
        The text, with a `%d` for the number of occurrences since the last line, and a `%s` for the
        latest case.
    """

    def __init__(self, message: str) -> None:
        self._message = message
        self._log = logging.getLogger("runyard.gateway")
        self._logged_at = float("-inf")
        self._count = 0

    def warn(self, latest: object) -> None:
        """Count one occurrence."""
        self._count += 1
        now = time.monotonic()
        if now - self._logged_at >= _INTERVAL_SECONDS:
            self._log.warning(self._message, self._count, latest)
            self._logged_at, self._count = now, 0
