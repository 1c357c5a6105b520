"""Slows down whoever tries one key after another: an address gets its answers ever later, and then none but that it is to wait.

Only requests whose key is not known come here: others from the same address, behind the same proxy, are never slowed.
"""

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass

from runyard.gateway.http.errors import HttpError
from runyard.gateway.http.throttled_log import ThrottledWarning

# Of twenty seconds so many wrong keys of an address are answered at once: a client that was set up wrongly is no attack. Then each one more takes
# a tenth of a second more.
_AT_ONCE_SECONDS = 20
_LATER_SECONDS = 0.1
_LONGEST_SECONDS = 1.0
_MAX_ADDRESSES = 10_000
# Answers that are kept back at a time, in all and for one address.
_MAX_WAITING = 100
_MAX_WAITING_AN_ADDRESS = 5
_unknown = ThrottledWarning("%d requests came with a key that is not known (the latest from %s)")


@dataclass
class _Tries:
    count: float
    at: float
    waiting: int = 0


class UnknownKeyThrottle:
    """The addresses that have sent keys that are not known, those who did so last.

    Parameters
    ----------
    rate
        How many of an address are forgotten a second.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._at_once = rate * _AT_ONCE_SECONDS
        self._tries: OrderedDict[str, _Tries] = OrderedDict()
        self._waiting = 0

    async def delay(self, address: str) -> None:
        """An address has sent a key that is not known: wait a while if it does so often; raises `HttpError` (429) where too many wait already."""
        tries = self._note(address)
        _unknown.warn(address)
        seconds = min(_LONGEST_SECONDS, (tries.count - self._at_once) * _LATER_SECONDS)
        if seconds <= 0:
            return
        if self._waiting >= _MAX_WAITING or tries.waiting >= _MAX_WAITING_AN_ADDRESS:
            message = "too many keys that are not valid here have come from this address: wait, then give one that is"
            raise HttpError(429, "rate_limited", message, headers={"Retry-After": "1"})
        self._waiting += 1
        tries.waiting += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._waiting -= 1
            tries.waiting -= 1

    def _note(self, address: str) -> _Tries:
        now = time.monotonic()
        tries = self._tries.setdefault(address, _Tries(0, now))
        self._tries.move_to_end(address)
        most = self._at_once + _LONGEST_SECONDS / _LATER_SECONDS
        tries.count = min(most, max(0.0, tries.count - (now - tries.at) * self._rate)) + 1
        tries.at = now
        if len(self._tries) > _MAX_ADDRESSES:
            self._tries.popitem(last=False)
        return tries
