"""Executes runs of functions of applications in the test process, at a time that the test sets.

Only Dagster is left out: runs are claimed, driven and settled by what a caller process uses.
"""

from datetime import timedelta

from runyard import clock
from runyard.apps import catalog
from runyard.apps.driver import drive, target_of
from runyard.engine import batch_claims, batch_leases, housekeeping, settlement
from runyard.engine.due import seconds_until_due
from runyard.engine.items import BatchState, items_from_rows
from runyard.engine.lease import Heartbeat
from runyard.functions.registry import Function
from runyard.store import database
from runyard.store.queries import fetch_one
from tests.tables import rows

_heartbeat = Heartbeat()
_heartbeat.of_threads = True  # a cancelled run must not interrupt the tests


def functions() -> list[Function]:
    """The functions of all applications."""
    names = rows("SELECT name FROM runyard.functions WHERE location LIKE 'app %%' ORDER BY name")
    found = [catalog.remote_function(row["name"]) for row in names]
    return [remote.function for remote in found if remote is not None]


def work() -> int:
    """Execute what is due, until nothing is; return the number of runs."""
    runs = 0
    while executed := _round():
        runs += executed
        assert runs < 1_000, "runs give rise to runs without end"
    return runs


def _round() -> int:
    housekeeping.match_waits()
    housekeeping.expire()
    batches = [
        (function.name, claim.batch_id)
        for function in functions()
        for claim in batch_claims.claim(function) or ()
    ]
    for name, batch in batches:
        execute(name, batch)
    return len(batches)


def execute(name: str, batch: str) -> None:
    """Execute a batch as one run."""
    run = f"run-{batch}"
    _, found, steps = batch_leases.begin(batch, run)
    items, failures = items_from_rows(found, steps, run)
    assert not failures
    state = BatchState(batch, run, name, items, _heartbeat.start(batch, run))
    try:
        drive(state, items, target_of(name))
    except KeyboardInterrupt:  # each of its invocations is cancelled: as after any run that stops
        attempts = target_of(name).retry.attempts
        batch_leases.release(batch, "running", "cancelled", attempts=attempts, force=True)
        return
    finally:
        _heartbeat.stop(batch)
    settlement.settle(batch, run, list(state.settled.values()))


def advance(**duration: float) -> None:
    """Let time pass, and execute what becomes due, at its own time."""
    until = clock.now() + timedelta(**duration)
    work()
    while (due := _seconds_to_next()) is not None and clock.now() + timedelta(seconds=due) <= until:
        clock.freeze(clock.now() + timedelta(seconds=due, microseconds=1))
        work()
    clock.freeze(until)
    work()


def _seconds_to_next() -> float | None:
    waits = [seconds_until_due(function) for function in functions()]
    with database.connection() as connection:
        row = fetch_one(connection, "next_expiry")
    waits.append(row["seconds"] if row else None)
    return min((wait for wait in waits if wait is not None and wait > 0), default=None)
