"""The pulse of the daemon: a file in its data folder, touched for as long as its loop goes round.

Dagster's daemons share one report in the database, so that says nothing of a single one.
"""

import math
import time
from contextlib import suppress
from pathlib import Path

from runyard.settings import settings
from runyard.store.data_folder import data_folder

_FILE = "daemon.pulse"
_EVERY_SECONDS = 5.0


class Pulse:
    """Makes the pulse; one that is left of an earlier daemon is deleted.

    Raises `RunyardError` when the data folder belongs to another user.
    """

    def __init__(self) -> None:
        self._file = data_folder() / _FILE
        self._file.unlink(missing_ok=True)
        self._last = -math.inf

    def beat(self) -> None:
        """Touch the file, unless it was touched lately. To fail at it is to be taken for dead."""
        now = time.monotonic()
        if now - self._last < _EVERY_SECONDS:
            return
        with suppress(OSError):
            self._file.touch(mode=0o600)
            self._last = now


def seconds_since_pulse() -> float:
    """How long ago the daemon of this data folder was alive; infinite when there was none."""
    try:
        return time.time() - _pulse_file().stat().st_mtime
    except FileNotFoundError:
        return math.inf


def _pulse_file() -> Path:
    return settings().data / _FILE
