"""The daemon's heartbeat: a file in its data folder, touched for as long as its loop goes round.

Dagster's daemons share one report in the database, so that says nothing of a single one.
"""

import math
import time
from contextlib import suppress

from runyard.settings import settings
from runyard.store.data_folder import data_folder

_FILE = "daemon.heartbeat"
_INTERVAL_SECONDS = 5.0


class HeartbeatFile:
    """The file of this daemon; one that is left of an earlier daemon is deleted.

    Raises `RunyardError` when the data folder belongs to another user.
    """

    def __init__(self) -> None:
        self._file = data_folder() / _FILE
        self._file.unlink(missing_ok=True)
        self._last = -math.inf

    def touch(self) -> None:
        """Touch the file, unless it was touched lately.

        An error is ignored: if it lasts, `runyard alive daemon` fails, and the daemon is restarted.
        """
        now = time.monotonic()
        if now - self._last < _INTERVAL_SECONDS:
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
