"""Slows down clients that try one key after another.

Only requests with an unknown key come here, so other clients at the same address, such as those
behind one proxy, are never slowed down.
"""

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass

from runyard.gateway.http.errors import HttpError
from runyard.gateway.http.throttled_log import ThrottledWarning

# An address may send this many seconds' worth of unknown keys without delay, for a misconfigured
# client is not an attack. Each further one is delayed by another tenth of a second.
_BURST_SECONDS = 20
_DELAY_STEP_SECONDS = 0.1
_MAX_DELAY_SECONDS = 1.0
_MAX_ADDRESSES = 10_000
# Responses that are delayed at a time, in all and for one address.
_MAX_WAITING = 100
_MAX_WAITING_PER_ADDRESS = 5
_unknown = ThrottledWarning("%d requests came with an unknown key (the latest from %s)")


@dataclass
class _Attempts:
    count: float
    at: float
    waiting: int = 0


class UnknownKeyThrottle:
    """Counts the unknown keys of each address; the most recent addresses are remembered.

    Parameters
    ----------
    rate
        How many attempts of an address are forgotten per second.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._burst = rate * _BURST_SECONDS
        self._attempts: OrderedDict[str, _Attempts] = OrderedDict()
        self._waiting = 0

    async def delay(self, address: str) -> None:
        """Count an unknown key from this address; sleep if there have been too many.

        Raises `HttpError` (429) if too many responses are being delayed already.
        """
        attempts = self._count(address)
        _unknown.warn(address)
        seconds = min(_MAX_DELAY_SECONDS, (attempts.count - self._burst) * _DELAY_STEP_SECONDS)
        if seconds <= 0:
            return
        if self._waiting >= _MAX_WAITING or attempts.waiting >= _MAX_WAITING_PER_ADDRESS:
            message = "too many invalid keys came from this address: wait, then send a valid one"
            raise HttpError(429, "rate_limited", message, headers={"Retry-After": "1"})
        self._waiting += 1
        attempts.waiting += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._waiting -= 1
            attempts.waiting -= 1

    def _count(self, address: str) -> _Attempts:
        now = time.monotonic()
        attempts = self._attempts.setdefault(address, _Attempts(0, now))
        self._attempts.move_to_end(address)
        remaining = max(0.0, attempts.count - (now - attempts.at) * self._rate)
        limit = self._burst + _MAX_DELAY_SECONDS / _DELAY_STEP_SECONDS
        attempts.count = min(limit, remaining) + 1
        attempts.at = now
        if len(self._attempts) > _MAX_ADDRESSES:
            self._attempts.popitem(last=False)
        return attempts
