"""Which functions the loop leaves alone for a while, although they are due.

The last claim of such a function found nothing, as when another transaction has locked what is due,
or failed. The same function waits longer each time, until it is launched.
"""

import time

_FIRST_WAIT = 0.005
_MAX_DOUBLINGS = 16


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
        self._times: dict[str, int] = {}

    def postpone(self, function: str, seconds: float = 0.0) -> None:
        """Leave a function alone for so many seconds, or longer if it has been postponed before."""
        times = self._times[function] = self._times.get(function, -1) + 1
        wait = max(seconds, _FIRST_WAIT * 2.0 ** min(times, _MAX_DOUBLINGS))
        self._until[function] = time.monotonic() + min(self._longest, wait)

    def seconds_left(self, function: str) -> float:
        """Return for how many seconds a function is still left alone; 0 if it is not."""
        return max(0.0, self._until.get(function, 0.0) - time.monotonic())

    def launched(self, function: str) -> None:
        """Note that a function was launched."""
        self._until.pop(function, None)
        self._times.pop(function, None)

    def interrupt(self) -> None:
        """Let every function be tried now, because something has changed."""
        self._until.clear()
