"""Deletes old events and all that came of them, in small chunks.

An invocation is deleted when it ended longer ago than its function's retention time; an event when
it was received longer ago than the general one, has no invocation left, and its idempotency key, if
any, has expired (after 24 hours). Open invocations stay, however old, and so does one that is
requeued while it is being deleted.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg import sql

from runyard import clock
from runyard.events import ulid_at
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import Row, fetch_all
from runyard.syntax.retention_policy import Retention

CHUNK = 2000
# A table is vacuumed when its share and its number of dead rows exceed these.
_DEAD_SHARE, _DEAD_ROWS = 0.2, 10_000
Say = Callable[[str], None]


@dataclass
class Swept:
    """What was deleted, or would be: the number of rows by kind."""

    rows: dict[str, int] = field(default_factory=dict[str, int])

    def add(self, kind: str, number: int) -> None:
        """Count some more rows."""
        self.rows[kind] = self.rows.get(kind, 0) + number


def sweep(
    *, dry_run: bool = False, say: Say = lambda _: None, retention: Retention | None = None
) -> Swept:
    """Delete old rows from the event table, or on a dry run only count them.

    `say` is called with messages on the progress. `retention` replaces RUNYARD_RETENTION.
    """
    policy = retention or Retention.parse(settings().retention)
    now, swept = clock.now(), Swept()
    with database.connection() as connection:
        names = [row["name"] for row in fetch_all(connection, "function_names")]
    for name in names:
        before = policy.before(now, name)
        if before is not None:
            for rows in _chunks("old_invocations", "created_at", function=name, before=before):
                deleted = _delete("delete_invocations", rows, dry_run, before=before)
                swept.add("invocations", deleted)
            say(f"{name}: {swept.rows.get('invocations', 0)} invocations so far")
    before = policy.before(now)
    if before is None:
        return swept
    for rows in _chunks("old_events", "received_at", before=before):
        done = [row for row in rows if row["done"]]
        swept.add("events", _delete("delete_events", done, dry_run))
    say(f"{swept.rows.get('events', 0)} events")
    _sweep_batches(before, dry_run, swept)
    if not dry_run:
        with database.connection() as connection:
            fetch_all(connection, "delete_expired", before=before)
    return swept


def vacuum(*, dry_run: bool = False) -> list[str]:
    """Vacuum the tables that have many dead rows, which stay usable; return their names."""
    names = [
        row["name"]
        for row in health("table_health")
        if row["dead"] > _DEAD_ROWS and row["dead"] > _DEAD_SHARE * (row["live"] + row["dead"])
    ]
    if not dry_run:
        with database.connection() as connection:
            for name in names:
                table = sql.Identifier(*name.split("."))
                connection.execute(sql.SQL("VACUUM (ANALYZE) {}").format(table))
    return names


def health(report: str) -> list[Row]:
    """Return a report of `retention.sql`: `overdue`, `table_health` or `index_health`."""
    with database.connection() as connection:
        return fetch_all(connection, report)


def _chunks(query: str, ordered_by: str, **parameters: Any) -> Iterator[list[Row]]:
    at: datetime | None = None
    last: Any = None
    while True:
        with database.connection() as connection:
            rows = fetch_all(
                connection, query, after_at=at, after_id=last, limit=CHUNK, **parameters
            )
        if not rows:
            return
        yield rows
        at, last = rows[-1][ordered_by], rows[-1]["id"]


def _delete(query: str, rows: list[Row], dry_run: bool, **parameters: Any) -> int:
    """Delete the rows that have not changed meanwhile; return how many.

    On a dry run return how many rows there are.
    """
    if not rows or dry_run:
        return len(rows)
    with database.connection() as connection:
        return len(fetch_all(connection, query, ids=[row["id"] for row in rows], **parameters))


def _sweep_batches(before: datetime, dry_run: bool, swept: Swept) -> None:
    after = ""
    while True:
        with database.connection() as connection:
            rows = fetch_all(
                connection, "old_batches", below=ulid_at(before), after=after, limit=CHUNK
            )
        if not rows:
            return
        swept.add("batches", _delete("delete_batches", rows, dry_run))
        after = rows[-1]["id"]
