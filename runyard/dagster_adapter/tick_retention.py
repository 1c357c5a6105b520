"""Retention of the ticks of sensors, according to `retention` in `dagster.yaml`.

Dagster's own sensor daemon purges the ticks of a sensor after each of its ticks. The daemon of
Runyard purges those of all sensors together, every few minutes.
"""

from collections.abc import Sequence
from datetime import UTC, timedelta

from dagster import DagsterInstance

from runyard import clock
from runyard.dagster_adapter.internals import InstigatorType
from runyard.store import database
from runyard.store.queries import fetch_one

_CHUNK = 2000
_MOST_CHUNKS = 50


class TickRetention:
    """Deletes ticks, and remembers up to which id there is nothing left to delete.

    A purge reads the rows since the last one; after a restart, the first purges read all of them.
    """

    def __init__(self) -> None:
        self._passed: dict[int, int] = {}

    def purge(self, instance: DagsterInstance) -> int:
        """Delete ticks that are older than the settings say, up to a limit; return how many."""
        return sum(
            self._purge(days, statuses)
            for days, statuses in _settings(instance).items()
            if days > 0
        )

    def _purge(self, days: int, statuses: Sequence[str]) -> int:
        before = clock.now().astimezone(UTC).replace(tzinfo=None) - timedelta(days=days)
        count = 0
        for _ in range(_MOST_CHUNKS):
            with database.connection() as connection:
                row = fetch_one(
                    connection,
                    "purge_ticks",
                    statuses=statuses,
                    before=before,
                    after=self._passed.get(days, 0),
                    limit=_CHUNK,
                )
            if row is None or row["last"] is None:
                break
            count += row["count"]
            self._passed[days] = row["last"]
            if not row["more"]:
                break
        return count


def _settings(instance: DagsterInstance) -> dict[int, list[str]]:
    """The statuses of ticks by how many days they are kept; not positive: for ever."""
    by_days: dict[int, list[str]] = {}
    for status, days in instance.get_tick_retention_settings(InstigatorType.SENSOR).items():
        by_days.setdefault(days, []).append(status.value)
    return by_days
