"""Shows in the Dagster UI why a function is not launched: by a failed tick of its sensor."""

import logging
import time
import traceback

import psycopg

from runyard.dagster_adapter.internals import LoadedSensor, failed_tick_body
from runyard.errors import DatabaseUnavailable
from runyard.store import database
from runyard.store.queries import fetch_all, fetch_one
from runyard.text.redaction import redact

_SILENT_SECONDS = 60.0
_MOST_TEXT = 2000
_log = logging.getLogger("runyard.sensors")


class FailedTicks:
    """The ticks of a process that failed; one a minute for each sensor and kind of error."""

    def __init__(self) -> None:
        self._shown_at: dict[tuple[str, str], float] = {}

    def show(self, sensor: LoadedSensor, error: Exception) -> None:
        """Add a failed tick of a sensor, unless one with an error of this kind was just added.

        A database that does not take it is only logged.
        """
        of = sensor.selector_id, type(error).__name__
        now = time.monotonic()
        if now - self._shown_at.get(of, -_SILENT_SECONDS) < _SILENT_SECONDS:
            return
        self._shown_at[of] = now
        at = time.time()
        message = redact(f"{type(error).__name__}: {error}")[:_MOST_TEXT]
        stack = [redact(line) for line in traceback.format_tb(error.__traceback__)]
        try:
            with database.connection() as connection:
                fetch_one(
                    connection,
                    "add_tick",
                    origin=sensor.origin_id,
                    selector=sensor.selector_id,
                    at=at,
                    status="FAILURE",
                    body=failed_tick_body(sensor, at, type(error).__name__, message, stack),
                )
        except (DatabaseUnavailable, psycopg.Error) as other:
            _log.info("a failed tick is not recorded: %s", type(other).__name__)


def recent() -> list[str]:
    """The errors of ticks that failed within the last two minutes.

    As long as an error lasts, a tick fails every minute.
    """
    with database.connection() as connection:
        rows = fetch_all(connection, "failed_ticks", seconds=2 * _SILENT_SECONDS)
    return [redact(str(row["error"])) for row in rows]
