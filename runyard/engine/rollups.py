"""Statistics over a span of time: events by name and source; invocations by function."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta

from runyard import clock
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import Row, fetch_all, fetch_one
from runyard.syntax.retention_policy import Retention


def events(start: datetime, end: datetime) -> list[Row]:
    """Return counts of the events that happened within a span, by name and source.

    The columns are `name`, `source`, `events`, and `late` for those received after its end.
    """
    return _query("events_rollup", start, end)


def functions(start: datetime, end: datetime) -> list[Row]:
    """Return counts of the invocations created within a span, by function.

    There are counts of outcomes and attempts; `wait` and `run` are the 50th, 95th and 99th
    percentile in seconds, None without invocations.
    """
    return _query("functions_rollup", start, end)


def events_total(start: datetime, end: datetime) -> int:
    """Return how many events happened within a span."""
    return int(_query("events_total", start, end)[0]["events"])


def changed_days(within: timedelta) -> Sequence[date]:
    """Return the days (UTC) whose events or invocations have changed within this time.

    Days of which events may have been deleted are left out.
    """
    now = clock.now()
    oldest = retained_since() or now - timedelta(days=400)
    with database.connection() as connection:
        rows = fetch_all(connection, "changed_days", since=now - within, oldest=oldest)
    return sorted(row["day"] for row in rows if row["day"] >= oldest.date())


def retained_since() -> datetime | None:
    """Return the time since which RUNYARD_RETENTION keeps everything; None: nothing is deleted."""
    policy = Retention.parse(settings().retention)
    now = clock.now()
    limits = [policy.before(now, name) for name in (None, *policy.functions)]
    return max((limit for limit in limits if limit is not None), default=None)


def first_event() -> datetime | None:
    """Return when the oldest event that still exists was received."""
    with database.connection() as connection:
        row = fetch_one(connection, "first_event")
    at: datetime | None = row["at"] if row else None
    return at


def _query(query: str, start: datetime, end: datetime) -> list[Row]:
    with database.transaction() as connection:
        # Enough to sort a day of a million events in memory.
        connection.execute("SET LOCAL work_mem = '256MB'")
        return fetch_all(connection, query, start=start, end=end)
