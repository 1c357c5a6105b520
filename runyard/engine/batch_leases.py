"""The lease of a batch in the event table: launched, begun, taken away, ended.

A lease begins with a claim, and its fencing token is the batch id. Every write of a run names it: a
write under a lease that was taken away changes nothing and raises `LeaseLost`.
"""

import socket
from collections.abc import Sequence
from contextlib import AbstractContextManager

from runyard.engine.invocation_traces import LOST, STOPPED, record_lost_run
from runyard.engine.status import LAUNCHABLE_BATCH
from runyard.functions.registry import find
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import Connection, Row, fetch_all, fetch_one
from runyard.syntax.durations import seconds
from runyard.tracing import recording

# The delay before a function's next launch after one that failed: it doubles each time, without a
# limit on the number of attempts.
_FIRST_LAUNCH_DELAY, _MAX_LAUNCH_DELAY = 1.0, 120.0
_worker_name = socket.gethostname()


def set_worker_name(name: str) -> None:
    """Set the name of this process's worker, which `begin` records."""
    global _worker_name
    _worker_name = name


def mark_launching(batch_id: str) -> bool:
    """Record that the run of a batch is being launched.

    Returns whether it may be: not when the batch has been taken back meanwhile.
    """
    with database.connection() as connection:
        row = fetch_one(connection, "mark_launched", batch=batch_id)
    return row is None or bool(row["marked"]) or row["status"] not in LAUNCHABLE_BATCH


def unlaunched(seconds: float) -> list[Row]:
    """Return batches that were claimed so many seconds ago, and whose run nobody has launched.

    The columns are those of `overdue`.
    """
    with database.connection() as connection:
        return fetch_all(connection, "unlaunched_batches", seconds=seconds)


def batch_of_run(run_id: str, launched_for: str | None = None) -> Row | None:
    """Return a run's batch: `id`, `function`, `status`, `size`; None when it has none.

    `launched_for` is the batch id in the run's tags, for a run that may not have begun its batch.
    """
    with database.connection() as connection:
        return fetch_one(connection, "batch_of_run", run=run_id, batch=launched_for)


def begin(
    batch_id: str, run_id: str, *, fresh: bool = True
) -> tuple[str, list[Row], list[Row]] | None:
    """Begin a batch in a run.

    Returns the function's name, the invocations with their events (those of a group have the others
    as `group`), and their recorded steps; None when the batch is not available to this run, because
    another has it or it has ended. `fresh` says that the run has not worked on it before, so that
    first attempts have no recorded steps.
    """
    with database.transaction() as connection:
        batch = fetch_one(connection, "begin", batch=batch_id, run=run_id, worker=_worker_name)
        if batch is None:
            return None
        rows = fetch_all(
            connection,
            "begin_invocations",
            batch=batch_id,
            run=run_id,
            finish_timeout=_finish_timeout(batch["function"]),
        )
        leaders = [row["id"] for row in rows if row["leads"]]
        if leaders:
            rows = _with_groups(rows, fetch_all(connection, "group_events", leaders=leaders))
        seen = [row["id"] for row in rows if row["seen"] or not fresh]
        steps = fetch_all(connection, "recorded_steps", invocations=seen) if seen else []
    return batch["function"], rows, steps


def _with_groups(rows: Sequence[Row], events: Sequence[Row]) -> list[Row]:
    groups: dict[int, list[Row]] = {}
    for event in events:
        groups.setdefault(event["leader_id"], []).append(event)
    return [{**row, "group": groups.get(row["id"], [])} for row in rows]


def _finish_timeout(function_name: str) -> float | None:
    function = find(function_name)
    timeouts = function.flow.timeouts if function is not None else None
    if timeouts is None or timeouts.finish is None:
        return None
    return seconds(timeouts.finish, "")


def release(
    batch_id: str,
    expected: str,
    status: str,
    *,
    attempts: int,
    delay: float = 0.0,
    error: str | None = None,
    crashed: bool = False,
    failed: bool = False,
    force: bool = False,
) -> int | None:
    """Take a lease away; the batch's open invocations become `status`, or failed.

    Returns how many, or None when it was too late.

    Parameters
    ----------
    expected
        The status in which the batch was seen. Without `force` its lease must also have run out.
    status
        `queued` (invocations that have had `attempts` attempts fail) or `cancelled`.
    delay
        Seconds until the next attempt.
    error
        Why, as JSON.
    crashed
        The worker was lost during the run. For an invocation that was alone in its batch this is
        an attempt. Among several the cause is unknown: none of them loses an attempt, and the
        second time they are claimed apart, in halves, until the cause is found.
    failed
        The batch never began, because its run could not be launched or failed on the way to it
        (`error` says why). This is no attempt. The function's launches back off until a run of it
        begins.
    """
    with _until_recorded() as connection:
        row = fetch_one(
            connection,
            "release",
            batch=batch_id,
            expected=expected,
            status=status,
            attempts=attempts,
            delay=delay,
            error=error,
            crashed=crashed,
            failed=failed,
            force=force,
            lease=settings().lease_seconds,
            first_delay=_FIRST_LAUNCH_DELAY,
            most_delay=_MAX_LAUNCH_DELAY,
        )
        if row is not None:
            in_company = crashed and row["size"] > 1
            _record_released(connection, [batch_id], LOST, returned=int(in_company))
    return None if row is None else int(row["size"])


def hand_back(worker: str) -> list[str]:
    """Return what the processes of a worker are doing to the queue; no attempt is counted.

    From then on their runs can no longer write anything; their ids are returned.
    """
    with _until_recorded() as connection:
        rows = fetch_all(connection, "hand_back", name=worker, lease=settings().lease_seconds)
        _record_released(connection, [row["id"] for row in rows], STOPPED, returned=1)
    return [row["run_id"] for row in rows]


def _until_recorded() -> AbstractContextManager[Connection]:
    """A connection on which leases are taken away.

    While traces are recorded that is a transaction: nobody else has the invocations before their
    spans are recorded.
    """
    return database.transaction() if recording.is_on() else database.connection()


def _record_released(
    connection: Connection, batches: Sequence[str], error: str, *, returned: int
) -> None:
    """Record the spans of runs whose leases were taken away, because of this type of error.

    `returned` is how many attempts their invocations have got back.
    """
    if batches and recording.is_on():
        for row in fetch_all(connection, "released_invocations", batches=batches):
            record_lost_run({**row, "attempt": row["attempt"] + returned}, error)


def overdue() -> list[Row]:
    """Return batches whose worker stopped sending heartbeats or whose run never began.

    The columns are `id`, `function`, `status`, `run_id`, `cancelled`.
    """
    with database.connection() as connection:
        return fetch_all(connection, "overdue_batches", lease=settings().lease_seconds)


def renew_claim(batch_id: str, seconds: float) -> bool:
    """Renew the lease of a batch whose run is on its way to it.

    Returns whether it was renewed: not when the run was launched longer than `seconds` ago, or is
    to be cancelled.
    """
    with database.connection() as connection:
        return fetch_one(connection, "renew_claim", batch=batch_id, seconds=seconds) is not None


def request_cancel(batch_id: str | None, run_id: str) -> Row | None:
    """Ask the run of a batch to stop; return the open batch, with the columns of `overdue`.

    None when the run has no open batch.
    """
    with database.connection() as connection:
        return fetch_one(connection, "request_cancel", batch=batch_id, run=run_id)


def mark_ended(run_id: str) -> None:
    """Record that the process of a run is free again."""
    with database.connection() as connection:
        fetch_all(connection, "mark_run_ended", run=run_id)


def unended() -> list[Row]:
    """Return batches that ended two leases ago or more, but whose run and process may not have.

    The columns are `id`, `run_id`, `status`.
    """
    with database.connection() as connection:
        return fetch_all(connection, "batches_with_open_runs", lease=settings().lease_seconds)


def unbegun() -> list[str]:
    """Return the ids of batches that were released a lease ago or more before their run began.

    Those that `mark_unbegun_ended` was called for are left out.
    """
    with database.connection() as connection:
        rows = fetch_all(connection, "unbegun_batches", lease=settings().lease_seconds)
    return [row["id"] for row in rows]


def mark_unbegun_ended(batch_id: str) -> None:
    """Record that no run of a batch is left that was released before its run began."""
    with database.connection() as connection:
        fetch_all(connection, "mark_batch_ended", batch=batch_id)
