"""How many runs a second one daemon launches, and two, when nothing else holds them up.

There are no workers: a row of `runyard.workers` says that there are eight with 16 slots, and each
run that the broker has got counts as done a moment later, for one statement for all of them. So a
daemon claims, writes and hands over one run after the other.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.background import meanwhile
from benchmarks.databases import number, rows
from benchmarks.event_names import event_name
from benchmarks.many_hosts import many_hosts
from runyard import Event, send

RUNS = 2_000
_SLOTS = 8 * 16
_DONE_EVERY_SECONDS = 0.1
# How many functions the events are for, and how many daemons there are.
_LOADS = {"one_function": (1, 1), "50_functions": (50, 1), "two_daemons": (50, 2)}
_LIMIT_SECONDS = 120
_LAUNCHED = "SELECT count(*) FROM runyard.batches WHERE launched_at IS NOT NULL"

Result = dict[str, Any]


def launches() -> Result:
    """Runs a second that a daemon launches, for one function and for 50, and two daemons: CPU."""
    return {
        f"{name}_{measure}": value
        for name, (functions, daemons) in _LOADS.items()
        for measure, value in _launched(functions, daemons).items()
    }


def _launched(functions: int, daemons: int) -> Result:
    """Send events, and measure from the first tenth of their runs to the last."""
    with many_hosts(
        "benchmarks.many", BENCH_FUNCTIONS=str(functions), BENCH_MAX_BATCH="1"
    ) as hosts:
        for _ in range(daemons - 1):
            hosts.add_daemon()
        with _workers_without_work():
            send(_events(functions, functions))  # A daemon prepares a job before its first run.
            _wait_for_runs(functions)
            send(_events(functions, RUNS))
            _wait_for_runs(functions + RUNS // 10)
            before, first, began = hosts.cpu_seconds(), number(_LAUNCHED), time.monotonic()
            _wait_for_runs(functions + RUNS * 9 // 10)
            cpu, last = hosts.cpu_seconds(), number(_LAUNCHED)
            seconds, runs = time.monotonic() - began, last - first
    used = {role: cpu[role] - before[role] for role in ("daemon", "database", "broker", "code")}
    return {
        "runs_per_s": round(runs / seconds, 1),
        **{f"{role}_cores": round(cpu_s / seconds, 2) for role, cpu_s in used.items()},
        **{f"{role}_ms_per_run": round(1000 * cpu_s / runs, 2) for role, cpu_s in used.items()},
    }


@contextmanager
def _workers_without_work() -> Iterator[None]:
    """Let there seem to be workers, for whom every run is done as soon as it is launched."""
    rows(
        "INSERT INTO runyard.workers (name, host, pid, slots, heartbeat_at)"
        " VALUES ('nobody', 'nowhere', 1, %s, now() + interval '1 h') RETURNING 1 AS n",
        _SLOTS,
    )
    with meanwhile(_finish_launched, _DONE_EVERY_SECONDS):
        yield


def _finish_launched() -> None:
    rows(
        "UPDATE runyard.batches SET status = 'finished', finished_at = now(), ended_at = now()"
        " WHERE status = 'claimed' AND launched_at IS NOT NULL RETURNING runyard.wake_v1('')"
    )


def _events(functions: int, count: int) -> list[Event]:
    return [Event(event_name(n % functions), {"n": n}) for n in range(count)]


def _wait_for_runs(count: int) -> None:
    deadline = time.monotonic() + _LIMIT_SECONDS
    while (launched := number(_LAUNCHED)) < count:
        assert time.monotonic() < deadline, f"{launched} of {count} runs after {_LIMIT_SECONDS} s"
        time.sleep(0.1)
