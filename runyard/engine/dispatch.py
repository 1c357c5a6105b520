"""Claim, begin, keep, settle, release: the life of a batch in the event table.

A claim is a lease. Its token is the batch id, and every write of a run names it: a write under a lease that has been
taken away changes nothing and raises `LeaseLost`.
"""

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg

from runyard.errors import LeaseLost
from runyard.events import new_ulid
from runyard.functions.registry import Function, catch_up, find, rekey
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import Row, fetch_all, fetch_one
from runyard.syntax.durations import seconds
from runyard.text.error_text import fit

# Batches that may wait for a free slot, for each slot there is: enough that no slot idles while the daemon makes the
# next runs, few enough that what arrives meanwhile still joins a larger batch.
WAITING_PER_SLOT = 1
_SLOTS_WITHOUT_WORKERS = 2
# A call looks at 150 lanes: a tick looks at 15,000 that cannot go before it waits for something to change, and goes on there.
_MOST_LOOKS = 100
_MOST_EXPIRED = 500
# The time that a tick of the daemon has to launch what it claimed: what takes longer counts as waiting no more, and may be claimed again.
LAUNCH_SECONDS = 3.0
# The waits after launches that failed, before the next one of that function is tried: they double, and have no end.
_FIRST_LAUNCH_DELAY, _MOST_LAUNCH_DELAY = 1.0, 120.0
# A statement may have 1 GB, a JSON value 256 MB, and what is sent must be in memory several times.
_MOST_CHARACTERS = 64 * 1024 * 1024
# What the database says of a statement because of what stands in it: values (22), constraints (23), limits (54, XX000), text that is none.
_REFUSED = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.InternalError,
    psycopg.errors.ProgramLimitExceeded,
    psycopg.errors.StatementTooComplex,
    UnicodeEncodeError,
)
_log = logging.getLogger("runyard.engine.dispatch")
_worker_name = socket.gethostname()

_matching = threading.Lock()
_match_began = 0.0

Result = TypeVar("Result")


@dataclass(frozen=True)
class Claim:
    """A batch that was claimed: its id, how many invocations it has, the event where it is one, the run that had them before where it is one.

    `alone` says that these are suspects of having taken their workers with them, and that others
    may be due beside them.
    """

    batch_id: str
    size: int
    event_id: str | None
    previous_run: str | None = None
    alone: bool = False


def set_worker_name(name: str) -> None:
    """Name this process's worker, as `begin` will record it."""
    global _worker_name
    _worker_name = name


def claim(function: Function) -> list[Claim] | None:
    """Claim due invocations of a function: batches of up to its largest, as many as the workers can soon take.

    An empty list means that nothing may go; None that enough batches wait for the workers already.
    """
    claims: list[Claim] = []
    with database.connection() as connection:
        room = _room(connection)
        if room <= 0:
            return None
        while len(claims) < room:
            found = _claim_one(connection, function, None)
            if found is None:
                break
            claims.append(found)
            if found.size < function.largest and not found.alone and not function.flow.laned:
                break
    return claims


def _claim_one(connection: Any, function: Function, just: Sequence[int] | None) -> Claim | None:
    batch_id = new_ulid()
    parameters: dict[str, Any] = {
        "function": function.name,
        "max_batch": function.largest,
        "batch": batch_id,
    }
    if function.flow.laned:
        row = _claim_lanes(connection, just, parameters)
    elif just is not None:
        row = fetch_one(
            connection, "claim_these", just=just, function=function.name, batch=batch_id
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
    connection: Any, just: Sequence[int] | None, parameters: dict[str, Any]
) -> Row | None:
    """Claim by lanes; where those that a call looks at can all not go now, look at the next ones."""
    row: Row | None = None
    for _ in range(_MOST_LOOKS):
        row = _unless_deadlocked(
            lambda: fetch_one(connection, "claim_lanes", just=just, **parameters)
        )
        if row is None or row["size"] or not row["more"]:
            break
    return row


def _unless_deadlocked(do: Callable[[], Result]) -> Result:
    """Do it once more where PostgreSQL gave way to another: cancelling many and claiming singletons may want the same rows."""
    try:
        return do()
    except psycopg.errors.DeadlockDetected:
        return do()


def _room(connection: Any) -> int:
    row = fetch_one(connection, "capacity", lease=settings().lease_seconds, launch=LAUNCH_SECONDS)
    assert row is not None
    slots = int(row["slots"]) or _SLOTS_WITHOUT_WORKERS
    idle = max(0, slots - int(row["running"]))
    return idle + slots * WAITING_PER_SLOT - int(row["waiting"])


def seconds_until_due(function: Function) -> float | None:
    """Seconds until the next invocation of a function may be claimed (negative: overdue), None when only an event or the end of a run can tell."""
    with database.connection() as connection:
        row = fetch_one(
            connection,
            "next_due_lanes" if function.flow.laned else "next_due",
            function=function.name,
        )
    return None if row is None else row["seconds"]


def claim_events(function: Function, events_json: str, source: str) -> str | None:
    """Insert events and claim their invocations of one function at once; return the batch id.

    None when its limits let none of them go now: they are queued, and the sensor launches them in their turn.
    """
    with database.transaction() as connection:
        ids = [
            row["id"] for row in fetch_all(connection, "send", events=events_json, source=source)
        ]
        just = [
            row["id"]
            for row in fetch_all(
                connection, "invocations_of_events", events=ids, function=function.name
            )
        ]
        claimed = _claim_one(connection, function, just)
    return None if claimed is None else claimed.batch_id


def claim_replay(function: Function, parent_batch: str) -> str | None:
    """Claim the events of a batch again, as new invocations; return the new batch id, None as for `claim_events`."""
    return _claim_from("replay_batch", function, parent_batch)


def claim_unfinished(function: Function, parent_batch: str) -> str | None:
    """Claim what a batch left failed, cancelled or waiting for an attempt; return the new batch id, None where there is nothing."""
    return _claim_from("requeue_batch", function, parent_batch)


def _claim_from(statement: str, function: Function, parent_batch: str) -> str | None:
    with database.transaction() as connection:
        just = [row["id"] for row in fetch_all(connection, statement, parent=parent_batch)]
        claimed = _claim_one(connection, function, just) if just else None
    return None if claimed is None else claimed.batch_id


def set_paused(function: str, paused: bool) -> bool:
    """Hold a function's invocations back, or let them go; return whether there is such a function."""
    with database.connection() as connection:
        return fetch_one(connection, "pause", function=function, paused=paused) is not None


def match_waits() -> int:
    """Match the events that came since the last call with what waits for events; return how many waits are over.

    Many sensors wake at once: who had to wait for another's call that began after its own has nothing left to match.
    """
    global _match_began
    asked = time.monotonic()
    with _matching:
        if _match_began > asked:
            return 0
        _match_began = time.monotonic()
        with database.connection() as connection:
            row = fetch_one(connection, "match")
    return int(row["count"]) if row else 0


def expire() -> int:
    """Cancel what a timeout has caught; return how many.

    It comes by every few seconds, and takes with it what a deploy has left behind.
    """
    catch_up()
    rekey()
    total = 0
    with database.connection() as connection:
        fetch_all(connection, "put_off")
        while row := fetch_one(connection, "expired", limit=_MOST_EXPIRED):
            total += int(row["count"])
            if row["count"] < _MOST_EXPIRED:
                break
    return total


def purge() -> None:
    """Delete what flow control and waits no longer need."""
    with database.connection() as connection:
        fetch_all(connection, "purge")


def batch_of_run(run_id: str, launched_for: str | None = None) -> Row | None:
    """The batch that a run works or worked on: `id`, `function`, `status`, `size`; None where it has none.

    `launched_for` is the id in the run's tags: its batch, should the run not have begun it.
    """
    with database.connection() as connection:
        return fetch_one(connection, "batch_of_run", run=run_id, batch=launched_for)


def begin(
    batch_id: str, run_id: str, *, fresh: bool = True
) -> tuple[str, list[Row], list[Row]] | None:
    """A run takes its batch: return the function's name, its invocations with their events, and their kept steps.

    None when the batch is not there for this run: another has it, or it is done. `fresh` says that the run has not
    worked on it before, so that the steps of first attempts need not be looked for.
    """
    with database.transaction() as connection:
        batch = fetch_one(connection, "begin", batch=batch_id, run=run_id, worker=_worker_name)
        if batch is None:
            return None
        function = find(batch["function"])
        timeouts = function.flow.timeouts if function is not None else None
        finish = (
            seconds(timeouts.finish, "")
            if timeouts is not None and timeouts.finish is not None
            else None
        )
        rows = fetch_all(
            connection, "begin_invocations", batch=batch_id, run=run_id, finish_within=finish
        )
        seen = [row["id"] for row in rows if row["seen"] or not fresh]
        steps = fetch_all(connection, "kept_steps", invocations=seen) if seen else []
    return batch["function"], rows, steps


Kept = tuple[int, int, str | None, str | None, float, float]


def save_steps(
    batch_id: str,
    run_id: str,
    step: str,
    results: Sequence[Kept],
    *,
    events: Mapping[int, str] | None = None,
) -> dict[int, str]:
    """Keep results of a step: (invocation, attempt, output JSON, error JSON, start, end in epoch seconds).

    Parameters
    ----------
    events
        What is sent with the results of invocations, in the same transaction: elements of the array for `runyard.send_v2`, with commas between.

    Returns
    -------
    The invocations whose result the database refuses, with its reason; nothing of them is kept. All others are.

    Raises `LeaseLost`.
    """
    sent = events or {}

    def keep_some(some: Sequence[Kept]) -> None:
        elements = ",".join(sent[row[0]] for row in some if row[0] in sent)
        invocations, attempts, outputs, errors, started, finished = (
            list(column) for column in zip(*some, strict=True)
        )
        with database.transaction() if elements else database.connection() as connection:
            if elements:
                fetch_all(connection, "send", events=f"[{elements}]", source="step")
            row = fetch_one(
                connection,
                "keep_steps",
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
    refused = [bad for some in _parts(sized) for bad in _without_bad(some, keep_some)]
    return {row[0]: why for row, why in refused}


def _parts(sized: Sequence[tuple[Result, int]]) -> Iterator[list[Result]]:
    """Rows in parts that fit into a statement each; beside a row is about how large it is."""
    part: list[Result] = []
    total = 0
    for row, size in sized:
        if part and total + size > _MOST_CHARACTERS:
            yield part
            part, total = [], 0
        part.append(row)
        total += size
    if part:
        yield part


def _without_bad(
    rows: Sequence[Result], do: Callable[[Sequence[Result]], None]
) -> list[tuple[Result, str]]:
    """Do rows at once; where the database refuses that because of a row, in halves, down to the bad ones. Return these, each with the reason."""
    try:
        do(rows)
    except _REFUSED as error:
        if len(rows) == 1:
            said = error.diag.message_primary if isinstance(error, psycopg.Error) else None
            return [(rows[0], said or str(error))]
        middle = len(rows) // 2
        return _without_bad(rows[:middle], do) + _without_bad(rows[middle:], do)
    return []


def register_waits(
    batch_id: str,
    run_id: str,
    step: str,
    wanted: Sequence[Mapping[str, Any]],
    children: Callable[[set[int]], str | None] | None = None,
) -> list[Row]:
    """Register what invocations wait for at a step, each once; return `invocation_id`, `done`, `expired`, `result`, `due` of each.

    Parameters
    ----------
    wanted
        For each invocation what `runyard.wait_v1` takes.
    children
        Given the invocations that have not registered this wait before, returns events to be sent with it (see `rows_as_json`).

    Raises `LeaseLost`.
    """
    invocations = [asked["invocation"] for asked in wanted]
    with database.transaction() as connection:
        fetch_all(connection, "lock_waits")
        if fetch_one(connection, "hold", batch=batch_id, run=run_id) is None:
            raise LeaseLost(batch_id)
        if children is not None:
            known = {
                row["invocation_id"]
                for row in fetch_all(
                    connection, "waiting_already", step=step, invocations=invocations
                )
            }
            events = children(set(invocations) - known)
            if events is not None:
                fetch_all(connection, "send", events=events, source="step")
        return fetch_all(connection, "wait", step=step, wanted=json.dumps(wanted))


def register_fitting_waits(
    batch_id: str,
    run_id: str,
    step: str,
    wanted: Sequence[Mapping[str, Any]],
    children: Callable[[set[int]], str | None] | None = None,
) -> tuple[list[Row], dict[int, str]]:
    """As `register_waits`; what the database refuses is left out, and returned beside the rest: the invocations with its reason."""
    rows: list[Row] = []
    refused = _without_bad(
        wanted, lambda some: rows.extend(register_waits(batch_id, run_id, step, some, children))
    )
    return rows, {asked["invocation"]: why for asked, why in refused}


def leave_out(run_id: str, op: str, left: Mapping[str, Any]) -> None:
    """Remember which invocations had left the batch of a run when an op ended (`left`), and what they wait for (`suspended`)."""
    with database.connection() as connection:
        fetch_all(connection, "leave_out", run=run_id, op=op, left=json.dumps(left))


def left_out(run_id: str) -> Mapping[str, Mapping[str, Any]]:
    """What was remembered with `leave_out` for the batch of a run, by op."""
    with database.connection() as connection:
        row = fetch_one(connection, "left_out", run=run_id)
    return row["left_out"] if row else {}


@dataclass(frozen=True)
class Outcome:
    """What became of an invocation.

    Its new status; for `queued` the wait before another attempt and the number of tries of its step so far; for `sleeping` and `waiting` the
    steps at which it waits; output and error as JSON.
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

    An outcome that the database refuses is written as a failure that says so; the others are written as they are.
    """
    parts = list(
        _parts(
            [
                (outcome, len(outcome.output or "") + len(outcome.error or ""))
                for outcome in outcomes
            ]
        )
    )
    if len(parts) < 2:
        try:
            return _settle_at_once(batch_id, run_id, outcomes)
        except _REFUSED as error:
            _log.warning(
                "outcomes of batch %s are written one by one, for the database refuses some: %s",
                batch_id,
                error,
            )
    return _settle_in_parts(batch_id, run_id, parts)


def _settle_at_once(batch_id: str, run_id: str, outcomes: Sequence[Outcome]) -> None:
    suspended = any(outcome.suspended for outcome in outcomes)
    with database.transaction() if suspended else database.connection() as connection:
        if suspended:
            fetch_all(connection, "lock_waits")
        _settle(connection, batch_id, run_id, outcomes, ends=True)


def _settle_in_parts(batch_id: str, run_id: str, parts: Sequence[Sequence[Outcome]]) -> None:
    with database.transaction() as connection:
        fetch_all(connection, "lock_waits")

        def settle_some(some: Sequence[Outcome]) -> None:
            with connection.transaction():
                _settle(connection, batch_id, run_id, some, ends=False)

        refused = [bad for some in parts for bad in _without_bad(some, settle_some)]
        _settle(
            connection,
            batch_id,
            run_id,
            [_as_failure(outcome, why) for outcome, why in refused],
            ends=True,
        )


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


def _as_failure(outcome: Outcome, why: str) -> Outcome:
    message = f"the database cannot keep the outcome ({outcome.status}): {fit(why)}. The results of its steps are kept: look at them, mend the function, and replay it"
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
    """Take a lease away; its open invocations become `status`, or failed. Return how many, None when it was too late.

    Parameters
    ----------
    expected
        The status that the batch was seen in; without `force` it must also have been silent for longer than a lease.
    status
        `queued` (those that had `attempts` attempts fail) or `cancelled`.
    delay
        Seconds until the next attempt.
    crashed
        The worker was lost in the middle of it: an attempt of an invocation that was alone in it. Of
        several nobody knows which one it was: it costs none of them an attempt, and the second time
        they are claimed apart, in halves, until the one is found.
    failed
        The batch was never begun, and that is no accident: its run could not be launched, or failed on the way (`error` says why). It is no attempt;
        the function's next launch waits, longer from time to time, until a run of it begins.
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
            most_delay=_MOST_LAUNCH_DELAY,
        )
    return None if row is None else int(row["size"])


def mark_launching(batch_id: str) -> bool:
    """Write down that the run of a batch is being launched; return whether it may be: no, where the batch was taken back meanwhile."""
    with database.connection() as connection:
        row = fetch_one(connection, "launching", batch=batch_id)
    return row is None or bool(row["marked"]) or row["status"] not in ("claimed", "lost")


def unlaunched(functions: Sequence[str] | None, seconds: float) -> list[Row]:
    """Batches of these functions (None: of all) that were claimed so many seconds ago, and whose run nobody has launched: as `overdue` gives them, with `age`."""
    with database.connection() as connection:
        return fetch_all(
            connection,
            "unlaunched",
            functions=None if functions is None else list(functions),
            seconds=seconds,
        )


def overdue() -> list[Row]:
    """Batches whose worker fell silent or whose run never began: `id`, `function`, `status`, `run_id`, `cancelled`."""
    with database.connection() as connection:
        return fetch_all(connection, "overdue_batches", lease=settings().lease_seconds)


def mark_ended(run_id: str) -> None:
    """Write down that the process of a run is free again."""
    with database.connection() as connection:
        fetch_all(connection, "ended", run=run_id)


def unended() -> list[Row]:
    """Batches that are over for two leases and more, while nothing is known of their run's end, nor of its process: `id`, `run_id`, `status`."""
    with database.connection() as connection:
        return fetch_all(connection, "unended", lease=settings().lease_seconds)


def request_cancel(batch_id: str | None, run_id: str) -> Row | None:
    """Ask the run of a batch to stop; return the open batch as `overdue` gives it, None when there is none."""
    with database.connection() as connection:
        return fetch_one(connection, "request_cancel", batch=batch_id, run=run_id)
