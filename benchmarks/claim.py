"""What a claim costs when the table has a long history."""

import statistics
import time
from typing import Any

from benchmarks.databases import other_databases, rows, using
from runyard import Event, send
from runyard.events import new_ulid
from runyard.functions import registry
from runyard.functions.registry import Function
from runyard.processes.migrate import migrate
from runyard.store import database
from runyard.store.queries import fetch_one

ROUNDS = 9


def claim() -> dict[str, Any]:
    """A claim of 500 among 10^4 and 10^6 finished invocations: milliseconds, and the ratio."""
    names = {"claim_small": 10_000, "claim_large": 1_000_000}
    function = Function("claimed", "claimed_job", ("bench/claimed",), max_batch=500)
    times: dict[str, list[float]] = {name: [] for name in names}
    with other_databases(list(names)) as urls:
        for name, finished in names.items():
            with using(urls[name]):
                _fill(function, finished)
        for _ in range(ROUNDS):
            for name in names:
                with using(urls[name]):
                    claim_once(function)  # A connection's first is not measured.
                    times[name].append(claim_once(function))
    small, large = (statistics.median(times[name]) * 1000 for name in names)
    return {
        "among_1e4_ms": round(small, 2),
        "among_1e6_ms": round(large, 2),
        "ratio": round(large / small, 2),
    }


def _fill(function: Function, finished: int) -> None:
    migrate()
    with registry.use(function):
        registry.publish()
    with database.connection() as connection:
        connection.execute(
            "INSERT INTO runyard.invocations (event_id, function, status, finished_at)"
            " SELECT lpad(n::text, 26, '0'), 'claimed', 'succeeded', now()"
            " FROM generate_series(1, %s) AS n",
            (finished,),
        )
    for _ in range(2 * ROUNDS):
        send([Event("bench/claimed", {"n": n}) for n in range(600)])
    with database.connection() as connection:
        connection.execute("VACUUM ANALYZE runyard.invocations")


def claim_once(function: Function) -> float:
    """Claim 500 invocations of a function, with no other batch open; return the seconds."""
    rows("UPDATE runyard.batches SET status = 'finished' WHERE status = 'claimed' RETURNING 1 AS n")
    with database.connection() as connection:
        began = time.perf_counter()
        row = fetch_one(
            connection, "claim", function=function.name, max_batch=500, batch=new_ulid()
        )
        seconds = time.perf_counter() - began
    assert row is not None
    assert row["size"] == 500
    return seconds
