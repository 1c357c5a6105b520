"""What a long history costs: the same statements and pages with 10^5, 10^6 and 10^7 events.

Each event has an invocation, and both have the indexes and the order of rows that two weeks of
sending give them. `exponent` says how a measure grows: 0 not at all, 1 in proportion to the table.
"""

import math
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from starlette.testclient import TestClient

from benchmarks.claim import claim_once
from benchmarks.databases import number, other_databases, using
from benchmarks.laws import exponent, extrapolated
from benchmarks.machine import cpu_seconds
from benchmarks.pages import median_seconds
from runyard import Event, send
from runyard.engine import retention
from runyard.functions import registry
from runyard.functions.registry import Function
from runyard.processes.migrate import migrate
from runyard.store import database
from runyard.syntax.retention_policy import Retention

SIZES = (100_000, 1_000_000, 10_000_000)
FORETOLD = 100_000_000
# Retention deletes the same number of events at each size: their day is before those of the others.
OLD = 50_000
_KEPT = Retention.parse("15d")
_SENDS, _CLAIMS = 60, 10
_FUNCTIONS, _NAMES = 20, 40
_TABLES = ("events", "invocations", "steps")
_CLAIMED = Function("claimed", "claimed_job", ("bench/claimed",), max_batch=500)

Measures = dict[str, float]


def table_size() -> dict[str, float]:
    """Sending, claims, pages, retention, vacuum with up to 10^7 events: ms, and how they grow."""
    measured: dict[int, Measures] = {}
    for size in SIZES:
        with other_databases(["table_size"]) as urls, using(urls["table_size"]):
            measured[size] = _measured(size)
    result: dict[str, float] = {}
    for name in measured[SIZES[0]]:
        by_size = {size: measured[size][name] for size in SIZES}
        result |= {f"{name}_{_power(size)}": value for size, value in by_size.items()}
        result[f"{name}_{_power(FORETOLD)}_foretold"] = extrapolated(by_size, FORETOLD)
        result[f"{name}_exponent"] = exponent(by_size)
    return {name: float(f"{value:.3g}") for name, value in result.items()}


def _power(size: int) -> str:
    """A size as a power of ten, for the name of a result."""
    return f"1e{round(math.log10(size))}"


def _measured(size: int) -> Measures:
    began = time.monotonic()
    _fill(size)
    print(f"  {size:,} events are in the table after {time.monotonic() - began:.0f} s", flush=True)
    return {
        "send_100_ms": 1000 * statistics.median(_send_hundred() for _ in range(_SENDS)),
        "claim_500_ms": 1000 * statistics.median(_claim_times()),
        **_pages(size),
        **_upkeep(),
        "bytes_per_event": _bytes() / size,
    }


def _fill(size: int) -> None:
    """Insert so many events, each with an invocation; the oldest ones have steps too."""
    migrate()
    with registry.use(_CLAIMED):
        registry.publish()
    with database.connection() as connection:
        connection.execute(
            "INSERT INTO runyard.functions (name, job, triggers, max_batch, attempts)"
            " SELECT 'function_' || n, 'job', '{}', 500, 5 FROM generate_series(0, %s - 1) AS n",
            (_FUNCTIONS,),
        )
        # Its transition table would hold all of the rows.
        connection.execute("ALTER TABLE runyard.events DISABLE TRIGGER fan_out")
    times = (
        "generate_series(1, %(size)s) AS n, LATERAL (SELECT CASE WHEN n <= %(old)s"
        " THEN now() - interval '20 days' + n * interval '1 s'"
        " ELSE now() - (%(size)s - n) * interval '14 days' / %(size)s END AS at) AS times"
    )
    statements = (
        "INSERT INTO runyard.events (id, name, data, source, ts, received_at, target)"
        " SELECT lpad(n::text, 26, '0'), 'bench/' || n %% %(names)s,"
        " jsonb_build_object('n', n, 'text', repeat('x', 200)), 'bench', at, at, 'nobody'"
        f" FROM {times}",
        "INSERT INTO runyard.invocations (event_id, function, status, attempt, due_at, created_at,"
        " started_at, finished_at)"
        " SELECT lpad(n::text, 26, '0'), 'function_' || n %% %(functions)s,"
        " CASE WHEN n %% 1000 = 7 THEN 'failed' ELSE 'succeeded' END, 1, at, at, at,"
        f" at + interval '1 s' FROM {times}",
        "INSERT INTO runyard.steps (invocation_id, step, attempt, output, started_at, finished_at)"
        " SELECT n, step, 1, to_jsonb(repeat('y', 100)), now(), now()"
        " FROM generate_series(1, %(old)s) AS n,"
        " unnest('{first,second,third}'::text[]) AS step",
    )
    parameters = {"size": size, "old": OLD, "names": _NAMES, "functions": _FUNCTIONS}

    def run(statement: str) -> None:
        with database.connection() as connection:
            connection.execute(statement.encode(), parameters)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, statements))
    with database.connection() as connection:
        connection.execute("ALTER TABLE runyard.events ENABLE TRIGGER fan_out")
        connection.execute(f"VACUUM ANALYZE {_tables()}".encode())


def _send_hundred() -> float:
    events = [Event("bench/claimed", {"n": n, "text": "x" * 200}) for n in range(100)]
    began = time.perf_counter()
    send(events)
    return time.perf_counter() - began


def _claim_times() -> list[float]:
    claim_once(_CLAIMED)  # A connection's first is not measured.
    return [claim_once(_CLAIMED) for _ in range(_CLAIMS)]


def _pages(size: int) -> Measures:
    """The pages that people and monitoring ask for."""
    from runyard.gateway.app import build_app

    middle = OLD + (size - OLD) // 2
    paths = {
        "first_page_ms": "/dev",
        "by_name_ms": "/dev?name=bench/3",
        "by_id_ms": f"/dev?id={middle:026}",
        "by_rare_status_ms": "/dev?status=failed",
        "event_ms": f"/dev/events/{middle:026}",
        "invocation_ms": f"/dev/invocations/{middle}",
        "function_ms": "/dev/functions/function_3",
        "functions_ms": "/dev/functions",
        "health_ms": "/dev/health",
        "metrics_ms": "/metrics",
    }
    with TestClient(build_app(None, development=True), base_url="http://localhost") as client:
        return {name: 1000 * median_seconds(client, path) for name, path in paths.items()}


def _upkeep() -> Measures:
    """Retention of the old events with all that belongs to them, and the vacuum after it."""
    swept, sweep_cpu = _timed(lambda: retention.sweep(retention=_KEPT))
    left = number("SELECT count(*) FROM runyard.events WHERE received_at < now() - interval '15 d'")
    assert not left, f"retention has left {left} old events"

    def vacuum() -> None:
        with database.connection() as connection:
            # Of a small share of dead rows it would leave the indexes for the next time.
            connection.execute(f"VACUUM (INDEX_CLEANUP ON) {_tables()}".encode())

    vacuumed, vacuum_cpu = _timed(vacuum)
    return {
        "delete_us_per_event": 1e6 * swept / OLD,
        "delete_cpu_us_per_event": 1e6 * sweep_cpu / OLD,
        "vacuum_s": vacuumed,
        "vacuum_cpu_s": vacuum_cpu,
    }


def _timed(do: Callable[[], object]) -> tuple[float, float]:
    """Do something; return the seconds that it took, and the CPU seconds of the server."""
    cpu, began = cpu_seconds(), time.monotonic()
    do()
    return time.monotonic() - began, cpu_seconds() - cpu


def _bytes() -> int:
    return number(
        "SELECT sum(pg_total_relation_size('runyard.' || name))::bigint"
        " FROM unnest('{events,invocations}'::text[]) AS name"
    )


def _tables() -> str:
    return ", ".join(f"runyard.{name}" for name in _TABLES)
