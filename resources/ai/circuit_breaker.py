"""A circuit breaker: a provider that is down or out of quota is not called for a while."""

import threading
import time
from dataclasses import dataclass, field

_FAILURES = 5
_REST_SECONDS = 30.0


@dataclass
class CircuitBreaker:
    """Opens after consecutive failures, or for as long as the provider says.

    Then one call is let through, and its outcome decides.

    Attributes
    ----------
    failures
        How many consecutive failures open it.
    rest
        Seconds for which they open it.
    """

    failures: int = _FAILURES
    rest: float = _REST_SECONDS
    _failed: int = 0
    _until: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def seconds_left(self) -> float:
        """Seconds for which it stays open, 0 when a call may go through.

        The first call after a rest keeps the others out until it has ended.
        """
        with self._lock:
            left = self._until - time.monotonic()
            if left > 0:
                return left
            if self._failed >= self.failures:
                self._until = time.monotonic() + self.rest
            return 0.0

    def succeeded(self) -> None:
        """A call has succeeded: close it."""
        with self._lock:
            self._failed, self._until = 0, 0.0

    def failed(self, wait: float | None = None) -> None:
        """A call has failed; `wait` is the pause in seconds that the provider asks for."""
        with self._lock:
            self._failed += 1
            if wait is not None:
                self._until = max(self._until, time.monotonic() + wait)
            elif self._failed >= self.failures:
                self._until = time.monotonic() + self.rest
