"""How long events and all that came of them are kept, and their deletion in small steps.

An invocation goes when it ended before its
function's time; an event when it came before the general time, no invocation of it is left, and its idempotency key, if it has one, is free again (24 hours).
What still runs, sleeps or waits stays, however old, and what is taken up again while it is being deleted.
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
# A table with more dead rows than this share, and this many, is vacuumed at once.
_DEAD_SHARE, _DEAD_ROWS = 0.2, 10_000
Say = Callable[[str], None]


@dataclass
class Swept:
    """What was deleted, or would be: rows by kind."""

    rows: dict[str, int] = field(default_factory=dict[str, int])

    def add(self, kind: str, number: int) -> None:
        """Count some more."""
        self.rows[kind] = self.rows.get(kind, 0) + number


def sweep(
    *, dry_run: bool = False, say: Say = lambda _: None, retention: Retention | None = None
) -> Swept:
    """Delete what is old from the event table, or only count it; `say` is told how far it is."""
    policy = retention or Retention.parse(settings().retention)
    now, swept = clock.now(), Swept()
    with database.connection() as connection:
        names = [row["name"] for row in fetch_all(connection, "function_names")]
    for name in names:
        before = policy.before(now, name)
        if before is not None:
            for rows in _chunks("old_invocations", "created_at", function=name, before=before):
                swept.add(
                    "invocations", _delete("delete_invocations", rows, dry_run, before=before)
                )
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
    """Vacuum the tables that have many dead rows; return their names. Each is open to all others meanwhile."""
    found = [
        row["name"]
        for row in health("table_health")
        if row["dead"] > _DEAD_ROWS and row["dead"] > _DEAD_SHARE * (row["live"] + row["dead"])
    ]
    if not dry_run:
        with database.connection() as connection:
            for name in found:
                connection.execute(
                    sql.SQL("VACUUM (ANALYZE) {}").format(sql.Identifier(*name.split(".")))
                )
    return found


def health(what: str) -> list[Row]:
    """One of the reports of `retention.sql`: `overdue`, `table_health`, `index_health`."""
    with database.connection() as connection:
        return fetch_all(connection, what)


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
    """Delete rows that are still as they were found; return how many (on a dry run: how many there are)."""
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
