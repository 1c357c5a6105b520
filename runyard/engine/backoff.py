"""What the endless loops of a process do with errors: none of them ends, and none fills the log.

A loop that ends is worse than one that fails: its process lives on and looks well, while its leases run out and nobody is woken any more.
"""

import logging
import time

from runyard.text.redaction import redact

_AGAIN_SECONDS = 60.0
_FIRST_WAIT = 0.25
_MOST_TEXT = 300


class Backoff:
    """The errors of one loop: each kind is said once a minute at most, and the waits between tries grow while they last.

    Parameters
    ----------
    log
        Where they are said.
    what
        What does not work: `no heartbeat`.
    longest
        The longest wait, in seconds.
    """

    def __init__(self, log: logging.Logger, what: str, longest: float) -> None:
        self._log = log
        self._what = what
        self._longest = longest
        self._failures = 0
        self._said: dict[str, float] = {}

    def failed(self, error: Exception) -> float:
        """Note an error; return how many seconds to wait before the next try."""
        kind = type(error).__name__
        now = time.monotonic()
        if now - self._said.get(kind, -_AGAIN_SECONDS) >= _AGAIN_SECONDS:
            self._said[kind] = now
            text = redact(" ".join(str(error).split()))[:_MOST_TEXT]
            self._log.warning(
                "%s: %s%s; trying again", self._what, kind, f" ({text})" if text else ""
            )
        self._failures += 1
        return min(self._longest, _FIRST_WAIT * 2.0 ** min(self._failures, 16))

    def succeeded(self) -> None:
        """It works, or works again: the next error waits as little as the first one."""
        self._failures = 0
