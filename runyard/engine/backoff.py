"""How the endless loops of a process handle errors: by backing off, and without flooding the log.

A loop that ends is worse than one that fails: its process stays alive and looks healthy, while its
leases run out and nothing is woken any more.
"""

import logging
import threading
import time
from collections.abc import Callable

from runyard.text.redaction import redact

_LOG_INTERVAL = 60.0
_FIRST_WAIT = 0.25
_MAX_DOUBLINGS = 16
_MAX_TEXT = 300


class Backoff:
    """The errors of one loop.

    Each kind of error is logged once a minute at most, and the waits between attempts double while
    errors last.

    Parameters
    ----------
    log
        Where errors are logged.
    what
        What does not work, as the log puts it: `no heartbeat`.
    longest
        The longest wait, in seconds.
    """

    def __init__(self, log: logging.Logger, what: str, longest: float) -> None:
        self._log = log
        self._what = what
        self._longest = longest
        self._failures = 0
        self._logged: dict[str, float] = {}

    def failed(self, error: Exception) -> float:
        """Note an error; return how many seconds to wait before the next attempt."""
        kind = type(error).__name__
        now = time.monotonic()
        if now - self._logged.get(kind, -_LOG_INTERVAL) >= _LOG_INTERVAL:
            self._logged[kind] = now
            text = redact(" ".join(str(error).split()))[:_MAX_TEXT]
            reason = f"{kind} ({text})" if text else kind
            self._log.warning("%s: %s; trying again", self._what, reason)
        self._failures += 1
        return min(self._longest, _FIRST_WAIT * 2.0 ** min(self._failures, _MAX_DOUBLINGS))

    def succeeded(self) -> None:
        """Note a success: the next error waits as briefly as the first one."""
        self._failures = 0

    def repeat(self, work: Callable[[], object], seconds: float, stopped: threading.Event) -> None:
        """Do something now and every so many seconds, until `stopped` is set. No error ends it."""
        while not stopped.is_set():
            try:
                work()
            except Exception as error:
                stopped.wait(self.failed(error))
            else:
                self.succeeded()
                stopped.wait(seconds)
