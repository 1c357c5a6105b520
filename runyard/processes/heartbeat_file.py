"""The daemon's heartbeat: a file in its data folder, touched for as long as its loops go round.

Dagster's daemons share one report in the database, so that says nothing of a single one.
"""

import math
import time
from collections.abc import Callable
from contextlib import suppress

from runyard.settings import settings
from runyard.store.data_folder import data_folder

_FILE = "daemon.heartbeat"
_INTERVAL_SECONDS = 5.0
# A loop that has made no progress for so long has stopped: none of its steps may take longer.
_STOPPED_SECONDS = 60.0


class HeartbeatFile:
    """The file of this daemon; one that is left of an earlier daemon is deleted.

    Parameters
    ----------
    clock
        The time in seconds.

    Raises `RunyardError` when the data folder belongs to another user.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = data_folder() / _FILE
        self._file.unlink(missing_ok=True)
        self._clock = clock
        self._last = -math.inf
        self._progress: list[float] = []

    def of_loop(self) -> Callable[[], None]:
        """Add a loop of the daemon; returns what it is to call whenever it makes progress.

        That touches the file, unless it was touched lately or another loop has stopped.
        """
        place = len(self._progress)
        self._progress.append(self._clock())

        def progress() -> None:
            self._progress[place] = self._clock()
            self._touch()

        return progress

    def _touch(self) -> None:
        """Touch the file if it is time and all loops go round.

        An error is ignored: if it lasts, `runyard alive daemon` fails, and the daemon is restarted.
        """
        now = self._clock()
        if now - self._last < _INTERVAL_SECONDS or now - min(self._progress) > _STOPPED_SECONDS:
            return
        with suppress(OSError):
            self._file.touch(mode=0o600)
            self._last = now


def seconds_since_heartbeat() -> float:
    """How long ago the daemon of this data folder was alive; infinite when there was none."""
    try:
        return time.time() - (settings().data / _FILE).stat().st_mtime
    except FileNotFoundError:
        return math.inf
