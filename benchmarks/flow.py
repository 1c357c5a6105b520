"""The cost of flow control for a claim, compared with the same claim without it.

Limits are looked at in every claim: `flow` claims 500 of 100,000 queued invocations of 1,000
tenants. Admission rules are looked at for each event once, in the first claim after it arrives:
`admission` claims all of 5,000 new ones.
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
ARRIVALS = 5_000
ADMISSION_ROUNDS = 7
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
    "everything": Flow(
        concurrency=(Concurrency(50, key="data.tenant"),),
        throttle=Throttle(100_000, 60, key="data.tenant", burst=1_000),
        rate_limit=RateLimit(10_000, 60, key="data.tenant"),
        idempotency=Idempotency("data.id"),
        priority=Priority("data.level"),
    ),
}


def flow() -> dict[str, Any]:
    """A claim of 500 of 10^5 queued with limits: milliseconds, and the ratio to one without."""
    functions = _functions(LIMITS)
    with other_databases(["flow"]) as urls, using(urls["flow"]):
        _publish(functions)
        for function in functions.values():
            _send(function, 0, QUEUED)
        _analyze()
        times: dict[str, list[float]] = {name: [] for name in functions}
        for number in range(ROUNDS + 1):
            for name, function in functions.items():
                seconds, size = _claim(function)
                assert size == 500
                if number:  # A connection's first is not measured.
                    times[name].append(seconds)
    return _compared(times)


def admission() -> dict[str, Any]:
    """Claims until 5,000 new events are claimed, with admission rules: ms for 500, and the ratio.

    A claim that finds few invocations in each lane takes fewer than one without lanes, so that the
    claims are not compared one by one.
    """
    functions = _functions(ADMISSION)
    with other_databases(["flow"]) as urls, using(urls["flow"]):
        _publish(functions)
        times: dict[str, list[float]] = {name: [] for name in functions}
        for number in range(ADMISSION_ROUNDS + 1):
            for function in functions.values():
                _send(function, number * ARRIVALS, ARRIVALS)
            _analyze()
            for name, function in functions.items():
                seconds = _claim_all(function, ARRIVALS)
                if number:
                    times[name].append(seconds * 500 / ARRIVALS)
    return _compared(times)


def _functions(flows: dict[str, Flow]) -> dict[str, Function]:
    return {
        name: Function(f"flow_{name}", "flow_job", (f"flow/{name}",), max_batch=500, flow=words)
        for name, words in (_PLAIN | flows).items()
    }


def _compared(times: dict[str, list[float]]) -> dict[str, Any]:
    medians = {name: statistics.median(seconds) * 1000 for name, seconds in times.items()}
    return {
        **{f"{name}_ms": round(median, 1) for name, median in medians.items()},
        **{
            f"{name}_ratio": round(median / medians["plain"], 2)
            for name, median in medians.items()
            if name != "plain"
        },
    }


def _publish(functions: dict[str, Function]) -> None:
    migrate()
    with registry.use(*functions.values()):
        registry.publish()


def _send(function: Function, first: int, count: int) -> None:
    for start in range(first, first + count, 5_000):
        send(
            [
                Event(function.event, {"tenant": n % TENANTS, "level": n % 5, "id": n})
                for n in range(start, start + 5_000)
            ]
        )


def _analyze() -> None:
    with database.connection() as connection:
        connection.execute("VACUUM ANALYZE runyard.invocations")


def _claim_all(function: Function, count: int) -> float:
    """Claim until that many are claimed; return the seconds that the claims took."""
    total = 0.0
    while count:
        seconds, size = _claim(function)
        assert size, f"{count} are left, and a claim gets none"
        total += seconds
        count -= size
    return total


def _claim(function: Function) -> tuple[float, int]:
    """Claim up to 500, with no other batch open; return the seconds, and how many it got."""
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
    return seconds, int(row["size"])
