"""The cost of flow control for a claim, compared with the same claim without it.

A claim takes 500 of 100,000 queued invocations of 1,000 tenants. Limits are looked at in every
claim, admission rules at each event once, in the first claim after it arrives.
"""

import statistics
import time
from typing import Any

from benchmarks.databases import other_databases, using
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
_PLAIN = {"plain": Flow()}
LIMITS = {
    "one_limit": Flow(concurrency=(Concurrency(2_000),)),
    "by_tenant": Flow(concurrency=(Concurrency(50, key="data.tenant"),)),
    "limits": Flow(
        concurrency=(Concurrency(3_000), Concurrency(50, key="data.tenant")),
        throttle=Throttle(100_000, 60, key="data.tenant", burst=1_000),
        priority=Priority("data.level"),
    ),
}
ADMISSION = {
    "admission": Flow(
        concurrency=(Concurrency(50, key="data.tenant"),),
        rate_limit=RateLimit(10_000, 60, key="data.tenant"),
        idempotency=Idempotency("data.id"),
    ),
}


def flow() -> dict[str, Any]:
    """A claim of 500 of 10^5 queued with limits: milliseconds, and the ratio to one without."""
    return _measure(LIMITS)


def admission() -> dict[str, Any]:
    """The same with admission rules (rate limit and idempotency) and a limit by key."""
    return _measure(ADMISSION)


def _measure(flows: dict[str, Flow]) -> dict[str, Any]:
    functions = [
        Function(f"flow_{name}", "flow_job", (f"flow/{name}",), max_batch=500, flow=words)
        for name, words in (_PLAIN | flows).items()
    ]
    times: dict[str, list[float]] = {function.name: [] for function in functions}
    with other_databases(["flow"]) as urls, using(urls["flow"]):
        _fill(functions)
        for number in range(ROUNDS + 1):
            for function in functions:
                seconds = _claim(function)
                if number:  # A connection's first is not measured.
                    times[function.name].append(seconds)
    medians = {name: statistics.median(times[f"flow_{name}"]) * 1000 for name in _PLAIN | flows}
    return {
        **{f"{name}_ms": round(median, 1) for name, median in medians.items()},
        **{f"{name}_ratio": round(medians[name] / medians["plain"], 2) for name in flows},
    }


def _fill(functions: list[Function]) -> None:
    registry._functions = {function.name: function for function in functions}
    migrate()
    registry.publish()
    for function in functions:
        for start in range(0, QUEUED, 5_000):
            send(
                [
                    Event(function.event, {"tenant": n % TENANTS, "level": n % 5, "id": n})
                    for n in range(start, start + 5_000)
                ]
            )
    with database.connection() as connection:
        connection.execute("VACUUM ANALYZE runyard.invocations")


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
