"""The cost of flow control for a claim, compared with the same claim without it.

A claim takes 500 of 100,000 queued invocations of 1,000 tenants.
"""

import statistics
import time
from typing import Any

from runyard import Event, send
from runyard.events import new_ulid
from runyard.functions import registry
from runyard.functions.flow_control import (
    Concurrency,
    Flow,
    Idempotency,
    Priority,
    RateLimit,
    Throttle,
)
from runyard.functions.registry import Function
from runyard.processes.migrate import migrate
from runyard.store import database
from runyard.store.queries import fetch_one

QUEUED = 100_000
TENANTS = 1_000
ROUNDS = 9
FLOWS = {
    "plain": Flow(),
    "one_limit": Flow(concurrency=(Concurrency(2_000),)),
    "by_tenant": Flow(concurrency=(Concurrency(50, key="data.tenant"),)),
    "limits": Flow(
        concurrency=(Concurrency(3_000), Concurrency(50, key="data.tenant")),
        throttle=Throttle(100_000, 60, key="data.tenant", burst=1_000),
        priority=Priority("data.level"),
    ),
    "admission": Flow(
        concurrency=(Concurrency(50, key="data.tenant"),),
        rate_limit=RateLimit(10_000, 60, key="data.tenant"),
        idempotency=Idempotency("data.id"),
    ),
}


def flow() -> dict[str, Any]:
    """A claim of 500 of 10^5 queued with flow control: milliseconds, and the ratio to without."""
    functions = {
        name: Function(f"flow_{name}", "flow_job", (f"flow/{name}",), max_batch=500, flow=words)
        for name, words in FLOWS.items()
    }
    registry._functions = {function.name: function for function in functions.values()}
    migrate()
    registry.publish()
    for name in functions:
        for start in range(0, QUEUED, 5_000):
            send(
                [
                    Event(f"flow/{name}", {"tenant": n % TENANTS, "level": n % 5, "id": n})
                    for n in range(start, start + 5_000)
                ]
            )
    with database.connection() as connection:
        connection.execute("VACUUM ANALYZE runyard.invocations")
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(ROUNDS + 1):
        for name, function in functions.items():
            seconds = _claim(function)
            if number:  # A connection's first is not measured.
                times[name].append(seconds)
    medians = {name: statistics.median(found) * 1000 for name, found in times.items()}
    return {
        **{f"{name}_ms": round(found, 1) for name, found in medians.items()},
        **{
            f"{name}_ratio": round(found / medians["plain"], 2)
            for name, found in medians.items()
            if name != "plain"
        },
    }


def _claim(function: Function) -> float:
    with database.connection() as connection:
        connection.execute(
            "UPDATE runyard.batches SET status = 'finished' WHERE status = 'claimed'"
        )
        parameters: dict[str, Any] = {
            "function": function.name,
            "max_batch": 500,
            "batch": new_ulid(),
        }
        began = time.perf_counter()
        row = (
            fetch_one(connection, "claim_lanes", just=None, **parameters)
            if function.flow.uses_lanes
            else fetch_one(connection, "claim", **parameters)
        )
        seconds = time.perf_counter() - began
    assert row is not None
    assert row["size"] > 0
    return seconds
