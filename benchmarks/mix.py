"""A stack with many functions, and events spread over all of them at an even rate.

What a burst through one function hides is seen here: the price of a run, and of a function that has
nothing to do. The events and their order are the same in every call.
"""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.databases import number, rows
from benchmarks.event_names import event_name
from benchmarks.installation import installation
from benchmarks.machine import cpu_seconds, memory_mb
from benchmarks.one_function import idle_percent
from benchmarks.percentiles import percentiles
from runyard import Event, send
from runyard.processes.stack import Stack
from runyard.store.embedded import start_embedded, stop_embedded

SECONDS = 60
GROUPS_PER_SECOND = 20
READY_LIMIT_SECONDS = 120
# A stack that keeps up needs none of these: they end the measurement of one that does not.
FIRST_EVENT_LIMIT_SECONDS = 30
DRAIN_LIMIT_SECONDS = 120
PREPARED_LIMIT_SECONDS = 120
_SEED = 17
_OPEN = "status NOT IN ('succeeded', 'failed', 'cancelled', 'skipped')"

Result = dict[str, Any]


@dataclass(frozen=True)
class Mix:
    """How many functions a stack has, and how many events a second it gets."""

    functions: int
    events_per_s: int
    measures_idle: bool = False
    drain_limit_s: float = DRAIN_LIMIT_SECONDS

    def measure(self) -> Result:
        """Many functions: the start of their stack, and a minute of events at an even rate."""
        with _stack(self.functions) as start_s:
            result: Result = {"start_s": start_s, "first_event_s": _first_event(self.functions)}
            result["prepared_s"] = _prepared(self.functions)
            if self.measures_idle:
                result["idle_percent_of_one_core"] = idle_percent()
            result["memory_mb"] = round(memory_mb())
            return result | self._load()

    def _load(self) -> Result:
        before = number("SELECT coalesce(max(id), 0) FROM runyard.invocations")
        runs, cpu, began = _runs(), cpu_seconds(), time.monotonic()
        backlog = _send(self.functions, self.events_per_s)
        sent_in = time.monotonic() - began
        drained_in = _drain(self.drain_limit_s)
        seconds = time.monotonic() - began
        cpu, runs = cpu_seconds() - cpu, _runs() - runs
        return {
            **_latencies(before),
            **_outcomes(before, SECONDS * self.events_per_s),
            "sent_in_s": round(sent_in, 1),
            "drain_s": round(drained_in, 1),
            **dict(zip(("open_at_20_s", "open_at_40_s", "open_at_60_s"), backlog, strict=True)),
            # How many seconds' worth of events the backlog gained in the last two thirds.
            "backlog_growth_s": round((backlog[2] - backlog[0]) / self.events_per_s, 2),
            "runs": runs,
            "runs_per_s": round(runs / seconds, 2),
            "cpu_s": round(cpu, 1),
            "cpu_s_per_run": round(cpu / max(1, runs), 3),
        }


MIXES = {
    "mix10": Mix(10, 1, measures_idle=True, drain_limit_s=30),
    "mix100": Mix(100, 1, measures_idle=True, drain_limit_s=30),
    "mix1000": Mix(1000, 1, measures_idle=True, drain_limit_s=30),
    "load20": Mix(30, 20),
    "load50": Mix(50, 50),
    "load200": Mix(50, 200),
}


@contextmanager
def _stack(functions: int) -> Iterator[float]:
    """Run a stack with this many functions; gives the seconds until it was ready.

    The database exists already, so its creation is not measured.
    """
    with installation("benchmarks.many", BENCH_FUNCTIONS=str(functions)) as postgres:
        start_embedded(postgres)
        stop_embedded(postgres)
        stack = Stack(quiet=True)
        began = time.monotonic()
        try:
            stack.start()
            stack.wait_ready(READY_LIMIT_SECONDS)
            yield round(time.monotonic() - began, 1)
        finally:
            stack.stop()


def _first_event(functions: int) -> float:
    """Send an event to the last function; return the seconds until nothing is open."""
    send(event_name(functions - 1), {"n": 0})
    return round(_drain(FIRST_EVENT_LIMIT_SECONDS), 2)


def _prepared(functions: int) -> float:
    """Wait until the daemon has stored the plans of all jobs; return the seconds it took."""
    began = time.monotonic()
    stored = "SELECT count(*) FROM snapshots WHERE snapshot_type = 'EXECUTION_PLAN'"
    while time.monotonic() - began < PREPARED_LIMIT_SECONDS and number(stored) < functions:
        time.sleep(0.1)
    return round(time.monotonic() - began, 1)


def _send(functions: int, events_per_s: int) -> list[int]:
    """Send small groups at an even rate; return what was open after each third of the time."""
    choose = random.Random(_SEED)
    group = max(1, events_per_s // GROUPS_PER_SECOND)
    groups = SECONDS * events_per_s // group
    backlog: list[int] = []
    began = time.monotonic()
    for sent in range(groups):
        _sleep_until(began + sent * SECONDS / groups)
        send([Event(event_name(choose.randrange(functions)), {"n": n}) for n in range(group)])
        if sent + 1 in (groups // 3, 2 * groups // 3):
            backlog.append(_open())
    _sleep_until(began + SECONDS)
    return [*backlog, _open()]


def _sleep_until(at: float) -> None:
    time.sleep(max(0.0, at - time.monotonic()))


def _drain(limit: float) -> float:
    """Wait until nothing is open, or the limit has passed; return the seconds it took."""
    began = time.monotonic()
    while time.monotonic() - began < limit and _open():
        time.sleep(0.1)
    return time.monotonic() - began


def _open() -> int:
    return number(f"SELECT count(*) FROM runyard.invocations WHERE {_OPEN}")


def _runs() -> int:
    return number("SELECT count(*) FROM runyard.batches")


def _latencies(after: int) -> dict[str, float]:
    """From INSERT to first step. What has not begun counts with the time it has waited so far."""
    return percentiles(
        float(row["s"])
        for row in rows(
            "SELECT extract(epoch FROM"
            " coalesce(steps.started_at, now()) - events.received_at)::float8 AS s"
            " FROM runyard.invocations JOIN runyard.events ON events.id = event_id"
            " LEFT JOIN runyard.steps ON invocation_id = invocations.id AND step = 'first'"
            " WHERE invocations.id > %s",
            after,
        )
    )


def _outcomes(after: int, sent: int) -> dict[str, int]:
    """How many events were sent, and how many of them are still open; none may be lost or fail."""
    [row] = rows(
        "SELECT count(*) AS invocations,"
        " count(*) FILTER (WHERE status = 'succeeded') AS succeeded,"
        f" count(*) FILTER (WHERE {_OPEN}) AS open"
        " FROM runyard.invocations WHERE id > %s",
        after,
    )
    assert row["invocations"] == sent, f"{row['invocations']} of {sent} events are in the table"
    assert row["succeeded"] + row["open"] == sent, f"of {sent} events some failed: {row}"
    return {"events": sent, "left": row["open"]}
