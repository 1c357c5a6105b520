"""Whether the event table wants partitions: the same events in one table, and in one for each day.

Both have the columns and indexes of `runyard.events`. A primary key of a partitioned table contains
what it is partitioned by: with days of `received_at` an id alone is unique no longer, and is looked
up in every partition. The id begins with its time, so that it can be what separates the days.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.databases import number, other_databases, using
from benchmarks.machine import cpu_seconds
from runyard.processes.migrate import migrate
from runyard.store import database

DAYS = 30
EVENTS_A_DAY = 50_000
_TIMES = 41
_BATCH = 100
_TABLES = ("plain", "by_time", "by_id")
_KEYS = {"plain": "id", "by_time": "id, received_at", "by_id": "id"}
_SEPARATED = {"by_time": "received_at", "by_id": "id"}
_DATA = "jsonb_build_object('n', n, 'text', repeat('x', 200))"

Measures = dict[str, float]


def partitions() -> dict[str, Any]:
    """Events in one table, in days by time, and in days by id: sending, reading, deleting a day."""
    with other_databases(["partitions"]) as urls, using(urls["partitions"]):
        migrate()
        for table in _TABLES:
            _create(table)
        measured = {table: _measured(table) | _deleted(table) for table in _TABLES}
    return {
        f"{table}_{name}": round(value, 3)
        for table, measures in measured.items()
        for name, value in measures.items()
    }


def _create(table: str) -> None:
    """Create a table like that of the events, in partitions or not, and fill it."""
    separated = _SEPARATED.get(table)
    partitioned = f" PARTITION BY RANGE ({separated})" if separated else ""
    _run(
        f"CREATE TABLE {table} (LIKE runyard.events INCLUDING DEFAULTS){partitioned}",
        f"ALTER TABLE {table} ADD PRIMARY KEY ({_KEYS[table]})",
        f"CREATE INDEX ON {table} (received_at, id)",
        f"CREATE INDEX ON {table} (name, xid)",
        f"CREATE INDEX ON {table} (name, received_at, id)",
        f"CREATE INDEX ON {table} (caused_by) WHERE caused_by IS NOT NULL",
        f"CREATE INDEX ON {table} USING brin (ts) WITH (pages_per_range = 32)",
    )
    if separated:
        _run(*(_partition(table, separated, day) for day in range(DAYS + 1)))
    _run(_insert(table, 1, DAYS * EVENTS_A_DAY), f"VACUUM ANALYZE {table}")


def _partition(table: str, separated: str, day: int) -> str:
    place = _id if separated == "id" else _time
    first, end = (place(str(at * EVENTS_A_DAY + 1)) for at in (day, day + 1))
    return f"CREATE TABLE {table}_{day} PARTITION OF {table} FOR VALUES FROM ({first}) TO ({end})"


def _id(number: str) -> str:
    """The id of an event by its number, which grows with time as a ULID does."""
    return f"lpad(({number})::text, 26, '0')"


def _time(number: str) -> str:
    """When an event came, by its number."""
    return f"'2026-01-01'::timestamptz + ({number} - 1) * interval '1 day' / {EVENTS_A_DAY}"


def _insert(table: str, first: int, last: int) -> str:
    return (
        f"INSERT INTO {table} (id, name, data, source, ts, received_at)"
        f" SELECT {_id('n')}, 'bench/' || n % 40, {_DATA}, 'bench', {_time('n')}, {_time('n')}"
        f" FROM generate_series({first}, {last}) AS n"
    )


def _measured(table: str) -> Measures:
    newest = f"SELECT id FROM {table} ORDER BY received_at DESC, id DESC LIMIT 50"
    middle = DAYS * EVENTS_A_DAY // 2
    start = DAYS * EVENTS_A_DAY + 1
    inserts = [
        _insert(table, at, at + _BATCH - 1) for at in range(start, start + _TIMES * _BATCH, _BATCH)
    ]
    by_id = [f"SELECT data FROM {table} WHERE id = '{middle + n:026}'" for n in range(_TIMES)]
    return {
        "insert_100_ms": _median_ms(inserts),
        "by_id_ms": _median_ms(by_id),
        "newest_50_ms": _median_ms([newest] * _TIMES),
    }


def _deleted(table: str) -> Measures:
    """Delete the oldest day: rows and the vacuum after them, or the partition."""
    if table in _SEPARATED:
        dropped = _timed(lambda: _run(f"DROP TABLE {table}_0"))
        return dict(zip(("drop_ms", "drop_cpu_ms"), dropped, strict=True))
    oldest = f"SELECT id FROM {table} ORDER BY received_at, id LIMIT 2000"

    def delete() -> None:
        for _ in range(0, EVENTS_A_DAY, 2000):
            _run(f"DELETE FROM {table} WHERE id IN ({oldest})")

    deleted, vacuumed = _timed(delete), _timed(lambda: _run(f"VACUUM {table}"))
    left = number(f"SELECT count(*) FROM {table} WHERE id <= '{EVENTS_A_DAY:026}'")
    assert not left, f"{left} old events are left"
    names = ("delete_ms", "delete_cpu_ms", "vacuum_ms", "vacuum_cpu_ms")
    return dict(zip(names, (*deleted, *vacuumed), strict=True))


def _median_ms(statements: Sequence[str]) -> float:
    times: list[float] = []
    with database.connection() as connection:
        for statement in statements:
            began = time.perf_counter()
            connection.execute(statement.encode(), prepare=True)
            times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def _timed(do: Callable[[], object]) -> tuple[float, float]:
    """Do something; return the milliseconds that it took, and those of the processor."""
    cpu, began = cpu_seconds(), time.monotonic()
    do()
    return 1000 * (time.monotonic() - began), 1000 * (cpu_seconds() - cpu)


def _run(*statements: str) -> None:
    with database.connection() as connection:
        for statement in statements:
            connection.execute(statement.encode())
