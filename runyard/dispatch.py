"""Claim, begin, keep, settle, release: the life of a batch in the event table.

A claim is a lease. Its token is the batch id, and every write of a run names it: a write under a lease that has been
taken away changes nothing and raises `LeaseLost`.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runyard.errors import LeaseLost
from runyard.events import new_ulid
from runyard.registry import Function
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import Row, one, run

# Batches that may wait for a free slot, for each slot there is: enough that no slot idles while the daemon makes the
# next runs, few enough that what arrives meanwhile still joins a larger batch.
WAITING_PER_SLOT = 1
_SLOTS_WITHOUT_WORKERS = 2
_worker_name = socket.gethostname()


@dataclass(frozen=True)
class Claim:
    """A batch that was claimed: its id, how many invocations it has, and the event where it is one."""

    batch_id: str
    size: int
    event_id: str | None


def set_worker_name(name: str) -> None:
    """Name this process's worker, as `begin` will record it."""
    global _worker_name
    _worker_name = name


def claim(function: Function) -> list[Claim] | None:
    """Claim due invocations of a function: batches of up to `max_batch`, as many as the workers can soon take.

    An empty list means that nothing is due; None that enough batches wait for the workers already.
    """
    claims: list[Claim] = []
    with database.connection() as connection:
        room = _room(connection)
        if room <= 0:
            return None
        while len(claims) < room:
            batch_id = new_ulid()
            row = one(connection, "claim", function=function.name, max_batch=function.max_batch, batch=batch_id)
            if row is None or not row["size"]:
                break
            claims.append(Claim(batch_id, row["size"], row["event_id"] if row["size"] == 1 else None))
            if row["size"] < function.max_batch:
                break
    return claims


def _room(connection: Any) -> int:
    row = one(connection, "capacity", lease=settings().lease_seconds)
    assert row is not None
    slots = int(row["slots"]) or _SLOTS_WITHOUT_WORKERS
    idle = max(0, slots - int(row["running"]))
    return idle + slots * WAITING_PER_SLOT - int(row["waiting"])


def seconds_until_due(function: Function) -> float | None:
    """Seconds until the next queued invocation of a function is due (negative: overdue), None when none is queued."""
    with database.connection() as connection:
        row = one(connection, "next_due", function=function.name)
    return None if row is None else row["seconds"]


def claim_events(function: str, events_json: str, source: str) -> str:
    """Insert events and claim their invocations of one function at once; return the batch id."""
    batch_id = new_ulid()
    with database.transaction() as connection:
        ids = [row["id"] for row in run(connection, "send", events=events_json, source=source)]
        run(connection, "claim_events", events=ids, function=function, batch=batch_id)
    return batch_id


def claim_replay(parent_batch: str) -> str:
    """Claim the events of a batch again, as new invocations; return the new batch id."""
    return _claim_from("claim_replay", parent_batch)


def claim_unfinished(parent_batch: str) -> str:
    """Claim what a batch left failed, cancelled or waiting for an attempt; return the new batch id."""
    return _claim_from("claim_unfinished", parent_batch)


def _claim_from(statement: str, parent_batch: str) -> str:
    batch_id = new_ulid()
    with database.connection() as connection:
        run(connection, statement, parent=parent_batch, batch=batch_id)
    return batch_id


def batch_of_run(run_id: str, launched_for: str | None = None) -> Row | None:
    """The batch that a run works or worked on: `id`, `function`, `status`, `size`; None where it has none.

    `launched_for` is the id in the run's tags: its batch, should the run not have begun it.
    """
    with database.connection() as connection:
        return one(connection, "batch_of_run", run=run_id, batch=launched_for)


def begin(batch_id: str, run_id: str, *, fresh: bool = True) -> tuple[str, list[Row], list[Row]] | None:
    """A run takes its batch: return the function's name, its invocations with their events, and their kept steps.

    None when the batch is not there for this run: another has it, or it is done. `fresh` says that the run has not
    worked on it before, so that the steps of first attempts need not be looked for.
    """
    with database.transaction() as connection:
        batch = one(connection, "begin", batch=batch_id, run=run_id, worker=_worker_name)
        if batch is None:
            return None
        rows = run(connection, "begin_invocations", batch=batch_id, run=run_id)
        seen = [row["id"] for row in rows if row["attempt"] > 1 or not fresh]
        steps = run(connection, "kept_steps", invocations=seen) if seen else []
    return batch["function"], rows, steps


def keep(batch_id: str, run_id: str, step: str, results: Sequence[tuple[int, int, str | None, str | None, float, float]]) -> None:
    """Keep results of a step: (invocation, attempt, output JSON, error JSON, start, end in epoch seconds); raises `LeaseLost`."""
    invocations, attempts, outputs, errors, started, finished = (list(column) for column in zip(*results, strict=True))
    with database.connection() as connection:
        row = one(
            connection, "keep_steps", batch=batch_id, run=run_id, step=step, invocations=invocations,
            attempts=attempts, outputs=outputs, errors=errors, started=started, finished=finished,
        )  # fmt: skip
    if row is None:
        raise LeaseLost(f"batch {batch_id} is no longer this run's: another run goes on with it")


@dataclass(frozen=True)
class Outcome:
    """What became of an invocation: its new status, the wait before another attempt, output and error as JSON."""

    invocation_id: int
    status: str
    delay: float = 0.0
    output: str | None = None
    error: str | None = None


def settle(batch_id: str, run_id: str, outcomes: Sequence[Outcome]) -> None:
    """Write all outcomes of a batch and end its lease; raises `LeaseLost`."""
    with database.connection() as connection:
        row = one(
            connection, "settle", batch=batch_id, run=run_id,
            invocations=[outcome.invocation_id for outcome in outcomes],
            statuses=[outcome.status for outcome in outcomes], delays=[outcome.delay for outcome in outcomes],
            outputs=[outcome.output for outcome in outcomes], errors=[outcome.error for outcome in outcomes],
        )  # fmt: skip
    if row is None:
        raise LeaseLost(f"batch {batch_id} is no longer this run's: another run goes on with it")


def release(
    batch_id: str,
    expected: str,
    status: str,
    *,
    attempts: int,
    delay: float = 0.0,
    error: str | None = None,
    counted: bool = False,
    crashed: bool = False,
    force: bool = False,
) -> int | None:
    """Take a lease away; its open invocations become `status`, or failed. Return how many, None when it was too late.

    Parameters
    ----------
    expected
        The status that the batch was seen in; without `force` it must also have been silent for longer than a lease.
    status
        `queued` (those that had `attempts` attempts fail) or `cancelled`.
    delay
        Seconds until the next attempt.
    counted
        The run failed before it began the batch: that was an attempt too.
    crashed
        The worker was lost in the middle of it.
    """
    with database.connection() as connection:
        row = one(
            connection, "release", batch=batch_id, expected=expected, status=status, attempts=attempts, delay=delay,
            error=error, counted=counted, crashed=crashed, force=force, lease=settings().lease_seconds,
        )  # fmt: skip
    return None if row is None else int(row["size"])


def overdue() -> list[Row]:
    """Batches whose worker fell silent or whose run never began: `id`, `function`, `status`, `run_id`, `cancelled`."""
    with database.connection() as connection:
        return run(connection, "overdue_batches", lease=settings().lease_seconds)


def request_cancel(batch_id: str | None, run_id: str) -> Row | None:
    """Ask the run of a batch to stop; return the open batch as `overdue` gives it, None when there is none."""
    with database.connection() as connection:
        return one(connection, "request_cancel", batch=batch_id, run=run_id)
