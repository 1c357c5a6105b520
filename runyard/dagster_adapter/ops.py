"""The ops of a function's job: `receive` begins it, `settle` ends it, `join` merges parallel ops.

::

    @job
    def send_email():
        settle(track_delivery(send_via_sendgrid(prepare_email(receive()))))

    @job
    def welcome():
        batch = receive()
        settle(join([mail(batch), post_to_crm(batch)]))
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from dagster import (
    DagsterExecutionInterruptedError,
    Field,
    In,
    MetadataValue,
    OpDefinition,
    OpExecutionContext,
    Out,
    Permissive,
    op,
)
from dagster import Failure as OpFailure
from pydantic_core import to_json

from runyard.dagster_adapter.batches import EMPTY, close_batch, receive_batch
from runyard.dagster_adapter.internals import report_step_failures
from runyard.dagster_adapter.links import to_event, to_invocation
from runyard.engine import settlement
from runyard.engine.batch import Batch
from runyard.engine.failures import Failure
from runyard.engine.items import BatchState
from runyard.engine.lease import heartbeat
from runyard.engine.settlement import Outcome
from runyard.errors import Cancelled, add_interrupt
from runyard.text.json_lines import working_on
from runyard.text.markdown import escaped
from runyard.text.redaction import redact

# The resource with the IO manager of functions that are drawn (see `runyard.authoring`). A key of
# its own leaves a project's own `io_manager` alone.
BATCHES = "runyard_batches"
DRAWN = "runyard_"  # before the names of their ops
_MOST_ROWS = 100
_MOST_RUNS = 5
_MOST_ERROR_TEXT = 300
_COUNTED_AS = {"queued": "to be retried", "sleeping": "suspended", "waiting": "suspended"}
_log = logging.getLogger("runyard.worker")
add_interrupt(DagsterExecutionInterruptedError)

_EVENT_FIELDS = {
    "name": Field(
        str,
        is_required=False,
        description="The event's name; the function's first trigger by default.",
    )
}
_EVENTS_CONFIG = Field(
    [Permissive(_EVENT_FIELDS)],
    is_required=False,
    default_value=[],
    description=(
        "Events to run this function on when it is launched by hand: a list of {name, data}."
        " A run that a sensor launched needs none."
    ),
)


def _receive(context: OpExecutionContext) -> Batch:
    """Begin a job with the invocations of its run, their events and their completed steps."""
    shared = receive_batch(context)
    metadata: dict[str, Any] = {
        "function": shared.function,
        "batch": shared.id,
        "invocations": len(shared.items),
        "left out": len(shared.failures),
    }
    events = sum(len(item.events) for item in shared.items)
    if events > len(shared.items):
        metadata["events"] = events
    if len(shared.items) == 1:
        metadata["event"] = MetadataValue.url(to_event(str(shared.items[0].event.id)))
    for number, run_id in enumerate(shared.previous_runs[:_MOST_RUNS], 1):
        metadata[f"continues run {number}"] = MetadataValue.dagster_run(run_id)
    context.add_output_metadata(metadata)
    return Batch(shared)


def _join(batches: list[Batch]) -> Batch:
    """Merge ops that ran in parallel."""
    return batches[0].join(*batches[1:])


def _settle(context: OpExecutionContext, batch: Batch) -> dict[str, int]:
    """End a job by writing all outcomes in one statement.

    Succeeded invocations are final, failed ones are retried or final, suspended ones wait. The
    output of an invocation is that of its last step. The op fails when any invocation did, and the
    ops in which they failed turn red, so that "re-execute from failure" starts there.
    """
    shared = batch.state
    len(batch)  # drops invocations that were cancelled since the last step
    outcomes = _outcomes(shared)
    heartbeat.stop(shared.id)
    if shared.id != EMPTY:
        settlement.settle(shared.id, shared.run_id, outcomes)
        _trace(shared, outcomes)
    close_batch(shared.run_id)
    counts = _count(outcomes)
    metadata = _metadata(shared, outcomes, counts)
    failures = [
        failure for failure in shared.failures.values() if not isinstance(failure.error, Cancelled)
    ]
    if failures:
        report_step_failures(context, {failure.op: failure.text for failure in failures})
        first = failures[0]
        description = (
            f"{len(failures)} of {len(shared.items)} invocations failed;"
            f" the first in step {first.step}: {first.text}"
        )
        _log_failures(shared, description, counts)
        raise OpFailure(
            description=description,
            metadata=metadata,
            allow_retries=False,
        )
    context.add_output_metadata(metadata)
    return counts


def _log_failures(shared: BatchState, description: str, counts: Mapping[str, int]) -> None:
    """Say in the worker's output that invocations have failed: a line for the run."""
    level = logging.ERROR if counts["failed"] else logging.WARNING
    token = working_on.set(lambda: {"function": shared.function, "run": shared.run_id})
    try:
        _log.log(
            level,
            "%s: %s (%d to be retried, run %s)",
            shared.function,
            redact(description),
            counts["to be retried"],
            shared.run_id,
        )
    finally:
        working_on.reset(token)


def _make_ops(prefix: str, io_manager_key: str) -> tuple[OpDefinition, OpDefinition, OpDefinition]:
    """Make `receive`, `join` and `settle`, whose outputs are carried by an IO manager."""
    return (
        op(
            name=f"{prefix}receive",
            config_schema={"events": _EVENTS_CONFIG},
            out=Out(Batch, io_manager_key=io_manager_key),
            description="Take the batch of this run, or create one from the events in the config.",
        )(_receive),
        op(
            name=f"{prefix}join",
            ins={"batches": In(list[Batch])},
            out=Out(Batch, io_manager_key=io_manager_key),
            description="Continue with the invocations that came through every one of these ops.",
        )(_join),
        op(
            name=f"{prefix}settle",
            ins={"batch": In(Batch)},
            out=Out(dict[str, int], io_manager_key=io_manager_key),
            description="Write the outcome of every invocation; fails when any of them failed.",
        )(_settle),
    )


receive, join, settle = _make_ops("", "io_manager")
drawn_receive, drawn_join, drawn_settle = _make_ops(DRAWN, BATCHES)


def _outcomes(shared: BatchState) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for item in shared.items:
        if item.id in shared.settled:
            outcomes.append(shared.settled[item.id])
            continue
        failure, waits = shared.failures.get(item.id), shared.suspended.get(item.id)
        if failure is not None:
            outcomes.append(failure.outcome(item.id))
        elif waits is not None:
            status = "sleeping" if set(waits.values()) == {"sleep"} else "waiting"
            outcomes.append(Outcome(item.id, status, attempt=0, suspended=tuple(waits)))
        else:
            outcomes.append(Outcome(item.id, "succeeded", output=_last_output(item.outputs)))
    return outcomes


def _trace(shared: BatchState, outcomes: Sequence[Outcome]) -> None:
    """Record the spans of the run, but for invocations that were settled before its end."""
    for item, outcome in zip(shared.items, outcomes, strict=True):
        if item.trace is not None and item.id not in shared.settled:
            item.trace.record_outcome(outcome)


def _last_output(outputs: dict[str, Any]) -> str | None:
    """The output of the last step, as JSON; outputs are in the order in which the steps ended."""
    if not outputs:
        return None
    return to_json(next(reversed(outputs.values())), inf_nan_mode="null").decode()


def _count(outcomes: Sequence[Outcome]) -> dict[str, int]:
    counts = {"succeeded": 0, "failed": 0, "to be retried": 0, "suspended": 0, "cancelled": 0}
    for outcome in outcomes:
        counts[_COUNTED_AS.get(outcome.status, outcome.status)] += 1
    return counts


def _metadata(
    batch: BatchState, outcomes: Sequence[Outcome], counts: dict[str, int]
) -> dict[str, Any]:
    """The outcomes for the Dagster UI: a table of 100 rows, failures first, and all as JSON."""
    invocations_by_status: dict[str, list[int]] = {}
    for outcome in outcomes:
        invocations_by_status.setdefault(_shown_status(outcome), []).append(outcome.invocation_id)
    return {
        **counts,
        "outcomes": MetadataValue.md(_table(batch, outcomes)),
        "all outcomes": MetadataValue.json(invocations_by_status),
    }


def _table(batch: BatchState, outcomes: Sequence[Outcome]) -> str:
    events = {item.id: str(item.event.id) for item in batch.items}
    ordered = sorted(outcomes, key=lambda outcome: outcome.status == "succeeded")
    lines = ["| invocation | event | outcome | step | error |", "|---|---|---|---|---|"]
    for outcome in ordered[:_MOST_ROWS]:
        number = outcome.invocation_id
        lines.append(_table_row(outcome, events[number], batch.failures.get(number)))
    if len(ordered) > _MOST_ROWS:
        lines.append(f"| ... and {len(ordered) - _MOST_ROWS} more, in 'all outcomes' | | | | |")
    return "\n".join(lines)


def _table_row(outcome: Outcome, event_id: str, failure: Failure | None) -> str:
    number = outcome.invocation_id
    step, error = ", ".join(outcome.suspended), ""
    if failure is not None:
        step = failure.step
        error = escaped(failure.text[:_MOST_ERROR_TEXT])
    cells = (
        f"[{number}]({to_invocation(number)})",
        f"[{escaped(event_id)}]({to_event(event_id)})",
        _shown_status(outcome),
        escaped(step),
        error,
    )
    return f"| {' | '.join(cells)} |"


def _shown_status(outcome: Outcome) -> str:
    return "to be retried" if outcome.status == "queued" else outcome.status
