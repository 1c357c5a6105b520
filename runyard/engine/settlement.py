"""The settlement of a batch: what became of its invocations, all at its end or some before."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from runyard.engine.chunked_writes import REJECTED, bisect_rejected, chunks
from runyard.errors import LeaseLost
from runyard.store import database
from runyard.store.queries import Connection, fetch_all, fetch_one
from runyard.text.error_text import fit

_log = logging.getLogger("runyard.engine.settlement")


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
    affected. Outcomes of invocations that have left the batch are passed over.
    """
    _write(batch_id, run_id, outcomes, ends=True)


def settle_some(batch_id: str, run_id: str, outcomes: Sequence[Outcome]) -> None:
    """Write outcomes of a batch whose lease goes on with the rest; raises `LeaseLost`.

    These invocations leave the batch, at once and all of them: what they held of concurrency limits
    is free, another run may have them, and nothing else is written for them under this lease. The
    lease ends with `settle`, which may be left with no outcome to write. Otherwise as `settle`.
    """
    if outcomes:
        _write(batch_id, run_id, outcomes, ends=False)


def _write(batch_id: str, run_id: str, outcomes: Sequence[Outcome], *, ends: bool) -> None:
    sized = [
        (outcome, len(outcome.output or "") + len(outcome.error or "")) for outcome in outcomes
    ]
    groups = list(chunks(sized))
    if len(groups) < 2:
        try:
            _settle_at_once(batch_id, run_id, outcomes, ends=ends)
            return
        except REJECTED as error:
            _log.warning(
                "the database rejects some outcomes of batch %s; writing smaller groups: %s",
                batch_id,
                error,
            )
    _settle_in_chunks(batch_id, run_id, groups, ends=ends)


def _settle_at_once(batch_id: str, run_id: str, outcomes: Sequence[Outcome], *, ends: bool) -> None:
    suspended = any(outcome.suspended for outcome in outcomes)
    with database.transaction() if suspended else database.connection() as connection:
        if suspended:
            fetch_all(connection, "lock_waits")
        _settle(connection, batch_id, run_id, outcomes, ends=ends)


def _settle_in_chunks(
    batch_id: str, run_id: str, groups: Sequence[Sequence[Outcome]], *, ends: bool
) -> None:
    with database.transaction() as connection:
        fetch_all(connection, "lock_waits")

        def write(some: Sequence[Outcome]) -> None:
            with connection.transaction():
                _settle(connection, batch_id, run_id, some, ends=False)

        rejected = [bad for some in groups for bad in bisect_rejected(some, write)]
        failures = [_as_failure(outcome, reason) for outcome, reason in rejected]
        _settle(connection, batch_id, run_id, failures, ends=ends)


def _settle(
    connection: Connection, batch_id: str, run_id: str, outcomes: Sequence[Outcome], *, ends: bool
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
