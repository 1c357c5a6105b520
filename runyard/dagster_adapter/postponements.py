"""Which functions the loop leaves alone for a while, although they are due.

The last claim of such a function found nothing, as when its limits leave no room in any of its many
lanes, or another transaction has locked what is due; or it failed. A notification ends a wait: what
it says may concern any function. Only claims that take long, as those of many lanes do, are not
repeated with every notification: the loop does nothing else meanwhile.
"""

import time

_FIRST_WAIT = 0.005
_MAX_DOUBLINGS = 16
# Claims of a function in vain, if each takes longer than this, take up to a tenth of the time.
_QUICK = 0.02
_SHARE = 10


class Postponements:
    """Until when each function is left alone.

    Parameters
    ----------
    longest
        The longest time, in seconds.
    """

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._until: dict[str, float] = {}
        self._until_at_least: dict[str, float] = {}
        self._tried_at: dict[str, float] = {}
        self._times: dict[str, int] = {}

    def trying(self, function: str) -> None:
        """Note that a claim of a function begins; the method that is called next ends it."""
        self._tried_at[function] = time.monotonic()

    def postpone(self, function: str, seconds: float) -> None:
        """Leave a function alone for so many seconds."""
        now = time.monotonic()
        took = now - self._tried_at.pop(function, now)
        self._until[function] = now + min(self._longest, seconds)
        if took > _QUICK:
            self._until_at_least[function] = now + min(self._longest, _SHARE * took)

    def postpone_longer(self, function: str, least: float = _FIRST_WAIT) -> None:
        """Leave a function alone for at least so many seconds, longer each time."""
        times = self._times[function] = self._times.get(function, -1) + 1
        self.postpone(function, max(least, _FIRST_WAIT * 2.0 ** min(times, _MAX_DOUBLINGS)))

    def seconds_left(self, function: str) -> float:
        """Return for how many seconds a function is still left alone; 0 if it is not."""
        until = max(self._until.get(function, 0.0), self._until_at_least.get(function, 0.0))
        return max(0.0, until - time.monotonic())

    def launched(self, function: str) -> None:
        """Note that a function was launched."""
        for kept in (self._until, self._until_at_least, self._tried_at, self._times):
            kept.pop(function, None)

    def interrupt(self) -> None:
        """Let every function be tried again, because something has changed."""
        self._until.clear()
