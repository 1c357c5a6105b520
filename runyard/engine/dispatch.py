"""The life of a batch in the event table: claimed, begun, its steps saved, settled or released.

A claim is a lease whose fencing token is the batch id. Every write of a run names it: a write under
a lease that was taken away changes nothing and raises `LeaseLost`.
"""

import json
import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import psycopg

from runyard.engine.status import LAUNCHABLE_BATCH
from runyard.errors import LeaseLost
from runyard.events import new_ulid
from runyard.functions.registry import Function, find
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import Connection, Row, fetch_all, fetch_one
from runyard.syntax.durations import seconds
from runyard.text.error_text import fit

# Batches that may wait for a free slot, per slot: enough that no slot idles while the daemon makes
# the next runs, few enough that events which arrive meanwhile still join a larger batch.
WAITING_PER_SLOT = 1
_SLOTS_WITHOUT_WORKERS = 2
# One claim looks at 150 lanes. After 15,000 blocked lanes a tick waits for something to change, and
# the next one continues from there.
_MAX_LANE_CLAIMS = 100
_EXPIRE_CHUNK = 500
# How long a tick of the daemon has to launch what it claimed. After that a batch no longer counts
# as waiting, and its invocations may be claimed again.
LAUNCH_SECONDS = 3.0
# The delay before a function's next launch after one that failed: it doubles each time, without a
# limit on the number of attempts.
_FIRST_LAUNCH_DELAY, _MAX_LAUNCH_DELAY = 1.0, 120.0
# PostgreSQL takes statements of 1 GB and JSON values of 256 MB, but holds them in memory several
# times.
_MAX_CHARACTERS = 64 * 1024 * 1024
# The errors caused by the values in a statement: data (22), constraints (23), limits (54, XX000),
# text that cannot be encoded.
_REJECTED = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.InternalError,
    psycopg.errors.ProgramLimitExceeded,
    psycopg.errors.StatementTooComplex,
    UnicodeEncodeError,
)
_log = logging.getLogger("runyard.engine.dispatch")
_worker_name = socket.gethostname()

T = TypeVar("T")


@dataclass(frozen=True)
class Claim:
    """A batch that was claimed.

    Attributes
    ----------
    batch_id
        Its id.
    size
        How many invocations it has.
    event_id
        The event, when there is only one invocation.
    previous_run
        The run that worked on its invocations before, when there is only one.
    alone
        Whether its invocations are suspected of having crashed their workers. They are claimed
        apart from others, which may be due as well.
    """

    batch_id: str
    size: int
    event_id: str | None
    previous_run: str | None = None
    alone: bool = False


class Claimable(Protocol):
    """What a claim needs to know of a function: see `registry.Function`."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def largest(self) -> int:
        """How many invocations a batch takes at most."""

    @property
    def uses_lanes(self) -> bool:
        """Whether its flow control puts invocations into lanes."""


def set_worker_name(name: str) -> None:
    """Set the name of this process's worker, which `begin` records."""
    global _worker_name
    _worker_name = name


def claim(function: Function) -> list[Claim] | None:
    """Claim due invocations of a function, in as many batches as the workers can soon take.

    Returns an empty list when no invocation may run now, and None when enough batches are waiting
    for the workers already.
    """
    with database.connection() as connection:
        row = fetch_one(
            connection, "capacity", lease=settings().lease_seconds, launch=LAUNCH_SECONDS
        )
        assert row is not None
        most = room(row)
        return claim_some(connection, function, most) if most > 0 else None


def room(capacity: Row) -> int:
    """How many batches the workers can soon take, by a row of `capacity`; negative: too many."""
    slots = int(capacity["slots"]) or _SLOTS_WITHOUT_WORKERS
    idle = max(0, slots - int(capacity["running"]))
    return idle + slots * WAITING_PER_SLOT - int(capacity["waiting"])


def claim_some(connection: Connection, function: Claimable, most: int) -> list[Claim]:
    """Claim due invocations of a function in up to `most` batches."""
    claims: list[Claim] = []
    while len(claims) < most:
        claimed = _claim_one(connection, function, None)
        if claimed is None:
            break
        claims.append(claimed)
        is_last = claimed.size < function.largest and not claimed.alone
        if is_last and not function.uses_lanes:
            break
    return claims


def _claim_one(
    connection: Connection, function: Claimable, just: Sequence[int] | None
) -> Claim | None:
    batch_id = new_ulid()
    parameters: dict[str, Any] = {
        "function": function.name,
        "max_batch": function.largest,
        "batch": batch_id,
    }
    if function.uses_lanes:
        row = _claim_lanes(connection, just, parameters)
    elif just is not None:
        row = fetch_one(
            connection, "claim_invocations", just=just, function=function.name, batch=batch_id
        )
    else:
        row = fetch_one(connection, "claim", **parameters)
    if row is None or not row["size"]:
        return None
    return Claim(
        batch_id,
        row["size"],
        row.get("event_id") if row["size"] == 1 else None,
        row.get("previous_run"),
        row.get("alone", False),
    )


def _claim_lanes(
    connection: Connection, just: Sequence[int] | None, parameters: dict[str, Any]
) -> Row | None:
    """Claim by lanes, passing over those that are blocked now."""
    row: Row | None = None
    for _ in range(_MAX_LANE_CLAIMS):
        row = _unless_deadlocked(
            connection, lambda: fetch_one(connection, "claim_lanes", just=just, **parameters)
        )
        if row is None or row["size"] or not row["more"]:
            break
    return row


def _unless_deadlocked(connection: Connection, do: Callable[[], T]) -> T:
    """Retry once after a deadlock: bulk cancels and claims of singletons may lock the same rows.

    The first attempt has a savepoint, so that the connection's transaction can continue.
    """
    try:
        with connection.transaction():
            return do()
    except psycopg.errors.DeadlockDetected:
        return do()


def seconds_until_due(function: Claimable) -> float | None:
    """Return the seconds until a function's next invocation may be claimed; negative: overdue.

    None when that depends on an event or on the end of a run.
    """
    query = "next_due_lanes" if function.uses_lanes else "next_due"
    with database.connection() as connection:
        row = fetch_one(connection, query, function=function.name)
    return None if row is None else row["seconds"]


def claim_events(function: Function, events_json: str, source: str) -> str | None:
    """Insert events and claim their invocations of one function at once; return the batch id.

    Returns None when flow control lets none of them run now: they stay queued, and the function's
    sensor launches them in their turn.
    """
    with database.transaction() as connection:
        events = fetch_all(connection, "send", events=events_json, source=source)
        invocations = fetch_all(
            connection,
            "invocations_of_events",
            events=[row["id"] for row in events],
            function=function.name,
        )
        claimed = _claim_one(connection, function, [row["id"] for row in invocations])
    return None if claimed is None else claimed.batch_id


def claim_replay(function: Function, parent_batch: str) -> str | None:
    """Replay the events of a batch, and claim the new invocations; returns as `claim_events`."""
    return _claim_from("replay_batch", function, parent_batch)


def claim_unfinished(function: Function, parent_batch: str) -> str | None:
    """Claim what failed or was cancelled in a batch, or awaits another attempt.

    Returns the new batch id, or None when there is nothing to claim.
    """
    return _claim_from("requeue_batch", function, parent_batch)


def _claim_from(statement: str, function: Function, parent_batch: str) -> str | None:
    with database.transaction() as connection:
        ids = [row["id"] for row in fetch_all(connection, statement, parent=parent_batch)]
        claimed = _claim_one(connection, function, ids) if ids else None
    return None if claimed is None else claimed.batch_id


def set_paused(function: str, paused: bool) -> bool:
    """Pause or resume a function; return whether there is such a function."""
    with database.connection() as connection:
        return fetch_one(connection, "pause", function=function, paused=paused) is not None


def match_waits() -> int:
    """Match events that came since the last call with waits; return how many waits are over."""
    with database.connection() as connection:
        row = fetch_one(connection, "match")
    return int(row["count"]) if row else 0


def expire() -> int:
    """Cancel invocations whose `Timeouts` have passed; return how many."""
    total = 0
    with database.connection() as connection:
        while row := fetch_one(connection, "expired", limit=_EXPIRE_CHUNK):
            total += int(row["count"])
            if row["count"] < _EXPIRE_CHUNK:
                break
    return total


def apply_deferred_requests() -> int:
    """Apply the requests of SQL that their transactions could not; return how many."""
    with database.connection() as connection:
        row = fetch_one(connection, "apply_deferred_requests")
    return int(row["count"] or 0) if row else 0


def purge() -> int:
    """Delete rows that flow control and waits no longer need; return how many."""
    with database.connection() as connection:
        row = fetch_one(connection, "purge")
    return int(row["count"]) if row else 0


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

    Returns the function's name, the invocations with their events, and their recorded steps; None
    when the batch is not available to this run, because another has it or it has ended. `fresh`
    says that the run has not worked on it before, so that first attempts have no recorded steps.
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
        seen = [row["id"] for row in rows if row["seen"] or not fresh]
        steps = fetch_all(connection, "recorded_steps", invocations=seen) if seen else []
    return batch["function"], rows, steps


def _finish_timeout(function_name: str) -> float | None:
    function = find(function_name)
    timeouts = function.flow.timeouts if function is not None else None
    if timeouts is None or timeouts.finish is None:
        return None
    return seconds(timeouts.finish, "")


# Invocation, attempt, output JSON, error JSON, start and end in seconds since the epoch.
StepRow = tuple[int, int, str | None, str | None, float, float]


def save_steps(
    batch_id: str,
    run_id: str,
    step: str,
    results: Sequence[StepRow],
    *,
    events: Mapping[int, str] | None = None,
) -> dict[int, str]:
    """Save results of a step.

    Parameters
    ----------
    events
        By invocation, events to send in the same transaction as its result: elements of the array
        for `runyard.send_v1`, separated by commas.

    Returns
    -------
    The invocations whose results the database rejects, each with the reason; nothing of these is
    saved.

    Raises
    ------
    LeaseLost
        Another run has the batch; nothing is saved.
    """
    sent = events or {}

    def save(some: Sequence[StepRow]) -> None:
        elements = ",".join(sent[row[0]] for row in some if row[0] in sent)
        invocations, attempts, outputs, errors, started, finished = (
            list(column) for column in zip(*some, strict=True)
        )
        with database.transaction() if elements else database.connection() as connection:
            if elements:
                fetch_all(connection, "send", events=f"[{elements}]", source="step")
            row = fetch_one(
                connection,
                "record_steps",
                batch=batch_id,
                run=run_id,
                step=step,
                invocations=invocations,
                attempts=attempts,
                outputs=outputs,
                errors=errors,
                started=started,
                finished=finished,
            )
            if row is None:
                raise LeaseLost(batch_id)

    sized = [
        (row, len(row[2] or "") + len(row[3] or "") + len(sent.get(row[0], ""))) for row in results
    ]
    rejected = [bad for some in _chunks(sized) for bad in _bisect_rejected(some, save)]
    return {row[0]: reason for row, reason in rejected}


def _chunks(sized: Sequence[tuple[T, int]]) -> Iterator[list[T]]:
    """Split rows, each given with its approximate size, into chunks that fit into a statement."""
    chunk: list[T] = []
    total = 0
    for row, size in sized:
        if chunk and total + size > _MAX_CHARACTERS:
            yield chunk
            chunk, total = [], 0
        chunk.append(row)
        total += size
    if chunk:
        yield chunk


def _bisect_rejected(
    rows: Sequence[T], write: Callable[[Sequence[T]], None]
) -> list[tuple[T, str]]:
    """Write rows in one statement, or in halves when the database rejects one of them.

    Returns the rejected rows, each with the reason; all others are written.
    """
    try:
        write(rows)
    except _REJECTED as error:
        if len(rows) == 1:
            reason = error.diag.message_primary if isinstance(error, psycopg.Error) else None
            return [(rows[0], reason or str(error))]
        middle = len(rows) // 2
        return _bisect_rejected(rows[:middle], write) + _bisect_rejected(rows[middle:], write)
    return []


def register_waits(
    batch_id: str,
    run_id: str,
    step: str,
    requests: Sequence[Mapping[str, Any]],
    children: Callable[[set[int]], str | None] | None = None,
) -> list[Row]:
    """Register what invocations wait for at a step, each only once.

    Parameters
    ----------
    requests
        What `runyard.wait_v1` takes, for each invocation.
    children
        Given the invocations that have not registered this wait before, returns events to send
        along with it (see `rows_as_json`).

    Returns
    -------
    A row for each invocation: `invocation_id`, `done`, `expired`, `result`, `due`.

    Raises
    ------
    LeaseLost
        Another run has the batch; nothing is registered.
    """
    invocations = [request["invocation"] for request in requests]
    with database.transaction() as connection:
        fetch_all(connection, "lock_waits")
        if fetch_one(connection, "lock_lease", batch=batch_id, run=run_id) is None:
            raise LeaseLost(batch_id)
        if children is not None:
            rows = fetch_all(connection, "registered_waits", step=step, invocations=invocations)
            known = {row["invocation_id"] for row in rows}
            events = children(set(invocations) - known)
            if events is not None:
                fetch_all(connection, "send", events=events, source="step")
        return fetch_all(connection, "wait", step=step, waits=json.dumps(requests))


def register_storable_waits(
    batch_id: str,
    run_id: str,
    step: str,
    requests: Sequence[Mapping[str, Any]],
    children: Callable[[set[int]], str | None] | None = None,
) -> tuple[list[Row], dict[int, str]]:
    """Register waits like `register_waits`, except for those that the database rejects.

    Returns the rows, and the invocations whose waits were rejected, each with the reason.
    """
    rows: list[Row] = []

    def write(some: Sequence[Mapping[str, Any]]) -> None:
        rows.extend(register_waits(batch_id, run_id, step, some, children))

    rejected = _bisect_rejected(requests, write)
    return rows, {request["invocation"]: reason for request, reason in rejected}


def record_dropped(run_id: str, op: str, left: Mapping[str, Any]) -> None:
    """Record which invocations had left a run's batch when an op ended, and their waits.

    `left` has the invocations (`dropped`) and the waits (`suspended`).
    """
    with database.connection() as connection:
        fetch_all(connection, "remember_dropped", run=run_id, op=op, left=json.dumps(left))


def dropped_by_op(run_id: str) -> Mapping[str, Mapping[str, Any]]:
    """Return what `record_dropped` has recorded for a run's batch, by op."""
    with database.connection() as connection:
        row = fetch_one(connection, "dropped_by_op", run=run_id)
    return row["dropped_by_op"] if row else {}


@dataclass(frozen=True)
class Outcome:
    """What became of an invocation in a run.

    Attributes
    ----------
    invocation_id
        The invocation.
    status
        Its new status.
    delay
        For `queued`: seconds until the next attempt.
    output, error
        Its output or error, as JSON.
    attempt
        For `queued`: how often its step has been tried.
    suspended
        For `sleeping` and `waiting`: the steps at which it waits.
    """

    invocation_id: int
    status: str
    delay: float = 0.0
    output: str | None = None
    error: str | None = None
    attempt: int | None = None
    suspended: tuple[str, ...] = ()


def settle(batch_id: str, run_id: str, outcomes: Sequence[Outcome]) -> None:
    """Write all outcomes of a batch and end its lease; raises `LeaseLost`.

    An outcome that the database rejects is written as a failure that says so; the others are not
    affected.
    """
    sized = [
        (outcome, len(outcome.output or "") + len(outcome.error or "")) for outcome in outcomes
    ]
    chunks = list(_chunks(sized))
    if len(chunks) < 2:
        try:
            return _settle_at_once(batch_id, run_id, outcomes)
        except _REJECTED as error:
            _log.warning(
                "the database rejects some outcomes of batch %s; writing smaller groups: %s",
                batch_id,
                error,
            )
    return _settle_in_chunks(batch_id, run_id, chunks)


def _settle_at_once(batch_id: str, run_id: str, outcomes: Sequence[Outcome]) -> None:
    suspended = any(outcome.suspended for outcome in outcomes)
    with database.transaction() if suspended else database.connection() as connection:
        if suspended:
            fetch_all(connection, "lock_waits")
        _settle(connection, batch_id, run_id, outcomes, ends=True)


def _settle_in_chunks(batch_id: str, run_id: str, chunks: Sequence[Sequence[Outcome]]) -> None:
    with database.transaction() as connection:
        fetch_all(connection, "lock_waits")

        def settle_some(some: Sequence[Outcome]) -> None:
            with connection.transaction():
                _settle(connection, batch_id, run_id, some, ends=False)

        rejected = [bad for some in chunks for bad in _bisect_rejected(some, settle_some)]
        failures = [_as_failure(outcome, reason) for outcome, reason in rejected]
        _settle(connection, batch_id, run_id, failures, ends=True)


def _settle(
    connection: Any, batch_id: str, run_id: str, outcomes: Sequence[Outcome], *, ends: bool
) -> None:
    suspended = [
        (outcome.invocation_id, step) for outcome in outcomes for step in outcome.suspended
    ]
    row = fetch_one(
        connection,
        "settle",
        batch=batch_id,
        run=run_id,
        ends=ends,
        invocations=[outcome.invocation_id for outcome in outcomes],
        statuses=[outcome.status for outcome in outcomes],
        delays=[outcome.delay for outcome in outcomes],
        attempts=[outcome.attempt for outcome in outcomes],
        outputs=[outcome.output for outcome in outcomes],
        errors=[outcome.error for outcome in outcomes],
        suspended=[invocation for invocation, _ in suspended],
        steps=[step for _, step in suspended],
    )
    if row is None:
        raise LeaseLost(batch_id)


def _as_failure(outcome: Outcome, reason: str) -> Outcome:
    message = (
        f"the database cannot store the outcome ({outcome.status}): {fit(reason)}. The results of "
        "its steps are saved: look at them, fix the function, and replay the invocation"
    )
    error = {
        "step": None,
        "op": "settle",
        "type": "NonRetriable",
        "message": message,
        "traceback": "",
    }
    return Outcome(outcome.invocation_id, "failed", error=json.dumps(error))


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
    with database.connection() as connection:
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
    return None if row is None else int(row["size"])


def mark_launching(batch_id: str) -> bool:
    """Record that the run of a batch is being launched.

    Returns whether it may be: not when the batch has been taken back meanwhile.
    """
    with database.connection() as connection:
        row = fetch_one(connection, "mark_launched", batch=batch_id)
    return row is None or bool(row["marked"]) or row["status"] not in LAUNCHABLE_BATCH


def unlaunched(functions: Sequence[str] | None, seconds: float) -> list[Row]:
    """Return batches that were claimed so many seconds ago, and whose run nobody has launched.

    The columns are those of `overdue`, and `age`. `functions` limits the result; None: all.
    """
    names = None if functions is None else list(functions)
    with database.connection() as connection:
        return fetch_all(connection, "unlaunched_batches", functions=names, seconds=seconds)


def overdue() -> list[Row]:
    """Return batches whose worker stopped sending heartbeats or whose run never began.

    The columns are `id`, `function`, `status`, `run_id`, `cancelled`.
    """
    with database.connection() as connection:
        return fetch_all(connection, "overdue_batches", lease=settings().lease_seconds)


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


def request_cancel(batch_id: str | None, run_id: str) -> Row | None:
    """Ask the run of a batch to stop; return the open batch, with the columns of `overdue`.

    None when the run has no open batch.
    """
    with database.connection() as connection:
        return fetch_one(connection, "request_cancel", batch=batch_id, run=run_id)
