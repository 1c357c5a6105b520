"""What a span of time comes to: events by name and source, functions with their ends, waits and times. For reports; the event table itself stays behind this."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta

from runyard import clock
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import Row, fetch_all, fetch_one
from runyard.syntax.retention_policy import Retention


def events(start: datetime, end: datetime) -> list[Row]:
    """Events that happened within a span: name, source, events, late (those that came after its end)."""
    return _run("events_rollup", start, end)


def functions(start: datetime, end: datetime) -> list[Row]:
    """Invocations made within a span by function: counts of ends, attempts; `wait` and `run` are p50, p95 and p99 in seconds, None where there are none."""
    return _run("functions_rollup", start, end)


def events_total(start: datetime, end: datetime) -> int:
    """How many events happened within a span."""
    return int(_run("events_total", start, end)[0]["events"])


def changed_days(within: timedelta) -> Sequence[date]:
    """The days (UTC) of which something has come or ended within this time, and all of whose events are still there."""
    now = clock.now()
    oldest = retained_since() or now - timedelta(days=400)
    with database.connection() as connection:
        rows = fetch_all(connection, "changed_days", since=now - within, oldest=oldest)
    return sorted(row["day"] for row in rows if row["day"] >= oldest.date())


def retained_since() -> datetime | None:
    """The time since which everything is still there by RUNYARD_RETENTION; None when nothing is ever deleted."""
    policy = Retention.parse(settings().retention)
    found = [
        before
        for name in (None, *policy.functions)
        if (before := policy.before(clock.now(), name)) is not None
    ]
    return max(found, default=None)


def first_event() -> datetime | None:
    """When the oldest event came that is still there."""
    with database.connection() as connection:
        row = fetch_one(connection, "first_event")
    found: datetime | None = row["at"] if row else None
    return found


def _run(query: str, start: datetime, end: datetime) -> list[Row]:
    with database.transaction() as connection:
        connection.execute("SET LOCAL work_mem = '256MB'")  # a day of a million is sorted in memory
        return fetch_all(connection, query, start=start, end=end)
