"""The stack with one busy function: idle, latency, a run for every event, and a burst."""

import time
from typing import Any

from benchmarks.databases import number, rows
from benchmarks.machine import cpu_seconds
from benchmarks.percentiles import percentiles
from runyard import Event, send

BURST = 20_000
SINGLES = 150
LATENCY_EVENTS = 60
IDLE_SECONDS = 30
_SETTLE_SECONDS = 10

Result = dict[str, Any]


def idle() -> Result:
    """CPU usage of the idle stack, database included: percent of one core."""
    return {"percent_of_one_core": idle_percent()}


def idle_percent() -> float:
    """Wait until the stack has settled, then measure its CPU usage: percent of one core."""
    time.sleep(_SETTLE_SECONDS)
    before = cpu_seconds()
    time.sleep(IDLE_SECONDS)
    return round(100 * (cpu_seconds() - before) / IDLE_SECONDS, 2)


def latency() -> Result:
    """One event a second: seconds from its INSERT to the first line of its first op."""
    ids: list[str] = []
    for _ in range(LATENCY_EVENTS):
        began = time.monotonic()
        ids += send("bench/single", {"n": 1})
        time.sleep(max(0.0, 1 - (time.monotonic() - began)))
    _wait("bench_single")
    seconds = [
        float(row["s"])
        for row in rows(
            "SELECT extract(epoch FROM steps.started_at - events.received_at)::float8 AS s"
            " FROM runyard.events JOIN runyard.invocations ON event_id = events.id"
            " JOIN runyard.steps ON invocation_id = invocations.id AND step = 'first'"
            " WHERE events.id = ANY (%s)",
            ids,
        )
    ]
    assert len(seconds) == LATENCY_EVENTS, "an event is lost"
    return percentiles(seconds)


def single() -> Result:
    """One run per event, with three checkpointed steps: runs a second, all results counted."""
    return {
        "runs_per_s": round(run_events("bench/single", "bench_single", SINGLES), 2),
        "runs": SINGLES,
    }


def burst() -> Result:
    """A burst in batches, with three checkpointed steps: events a second end to end.

    All results are counted in the table.
    """
    run_events("bench/batched", "bench_batched", 2000)
    return {
        "events_per_s": round(run_events("bench/batched", "bench_batched", BURST)),
        "events": BURST,
    }


def run_events(name: str, function: str, count: int) -> float:
    """Send events to a function with three steps, and wait for it; return events a second."""
    before = _completed_steps()
    began = time.monotonic()
    for start in range(0, count, 500):
        send([Event(name, {"n": n}) for n in range(start, min(count, start + 500))])
    _wait(function)
    seconds = time.monotonic() - began
    completed = _completed_steps() - before
    assert completed == 3 * count, f"{completed} of {3 * count} step results are in the table"
    return count / seconds


def _completed_steps() -> int:
    return number("SELECT count(*) FROM runyard.steps WHERE output IS NOT NULL")


def _wait(function: str, seconds: float = 180) -> None:
    """Wait until a function has no open invocation.

    The queries are cheap, so that polling does not slow down what is measured.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        queued = rows(
            "SELECT 1 AS n FROM runyard.invocations WHERE function = %s"
            " AND status = 'queued' LIMIT 1",
            function,
        )
        if not queued and not rows(
            "SELECT 1 AS n FROM runyard.batches WHERE status IN ('claimed', 'running')"
            " AND function = %s LIMIT 1",
            function,
        ):
            return
        time.sleep(0.05)
    raise AssertionError(f"{function} is not done after {seconds} s")
