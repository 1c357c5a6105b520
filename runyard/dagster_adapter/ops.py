"""The ops that begin and end a job: `receive` gives the batch, `settle` writes what became of it, `join` brings parallel ops together.

::

    @job
    def send_email():
        settle(track_delivery(send_via_sendgrid(prepare_email(receive()))))

    @job
    def welcome():
        batch = receive()
        settle(join([mail(batch), post_to_crm(batch)]))
"""

from collections.abc import Sequence
from typing import Any

from dagster import (
    DagsterExecutionInterruptedError,
    Field,
    In,
    MetadataValue,
    OpExecutionContext,
    Out,
    Permissive,
    op,
)
from dagster import Failure as OpFailure
from pydantic_core import to_json

from runyard.dagster_adapter import hung_steps
from runyard.dagster_adapter.internals import report_step_failures
from runyard.dagster_adapter.links import to_event, to_invocation
from runyard.dagster_adapter.tags import BATCH, EVENT, FUNCTION
from runyard.engine import dispatch
from runyard.engine.batch import Batch
from runyard.engine.dispatch import Outcome
from runyard.engine.items import BatchState, items_from_rows
from runyard.engine.lease import Lease, heartbeat, watchers
from runyard.errors import Cancelled, InvalidEvent, LeaseLost, NothingToDo, add_interrupt
from runyard.events import Event, rows_as_json
from runyard.functions import registry
from runyard.functions.registry import Function
from runyard.store.queries import Row

_MOST_ROWS = 100
_NOTHING = "nothing"  # the id of the batch of a run that found nothing left to take up
_FROM_FAILURE = (
    "dagster/is_resume_retry"  # Dagster's tag of a run that re-executes another from its failure
)
_MOST_RUNS = 5
_COUNTED_AS = {"queued": "to be retried", "sleeping": "suspended", "waiting": "suspended"}
_open: dict[str, BatchState] = {}
_dropped: dict[tuple[str, str], set[int]] = {}
add_interrupt(DagsterExecutionInterruptedError)
watchers.append(hung_steps.watch_own)

_EVENTS_CONFIG = Field(
    [
        Permissive(
            {
                "name": Field(
                    str,
                    is_required=False,
                    description="The event's name; the function's first trigger by default.",
                )
            }
        )
    ],
    is_required=False,
    default_value=[],
    description="Events to run this function on, given by hand: a list of {name, data}. A run that a sensor launched needs none.",
)


@op(
    config_schema={"events": _EVENTS_CONFIG},
    out=Out(Batch),
    description="Take the batch of invocations that this run is for, or make one of the events in the config.",
)
def receive(context: OpExecutionContext) -> Batch:
    """Begin a job: the invocations that a sensor claimed for this run, with their events and kept steps."""
    shared = _take(context)
    before = {
        f"goes on from {number}": MetadataValue.dagster_run(run)
        for number, run in enumerate(shared.previous_runs[:_MOST_RUNS], 1)
    }
    page = (
        {"event": MetadataValue.url(to_event(str(shared.items[0].event.id)))}
        if len(shared.items) == 1
        else {}
    )
    found = {
        "function": shared.function,
        "batch": shared.id,
        "invocations": len(shared.items),
        "left out": len(shared.failures),
    }
    context.add_output_metadata({**found, **page, **before})
    return Batch(shared)


@op(
    ins={"batches": In(list[Batch])},
    out=Out(Batch),
    description="Go on with the invocations that have come through every one of these ops.",
)
def join(batches: list[Batch]) -> Batch:
    """Bring ops that ran beside each other together again."""
    return batches[0].join(*batches[1:])


@op(
    ins={"batch": In(Batch)},
    out=Out(dict[str, int]),
    description="Write the outcome of every invocation; red when any of them failed.",
)
def settle(context: OpExecutionContext, batch: Batch) -> dict[str, int]:
    """End a job: succeeded invocations are final, failed ones are tried again or final, suspended ones wait, all in one statement.

    The output of an invocation is that of its last step. The op fails when any invocation did, and the ops in which
    they failed turn red, so that 're-execute from failure' begins there.
    """
    shared = batch.state
    len(batch)  # takes those out that were cancelled since the last step
    outcomes = _outcomes(shared)
    heartbeat.stop(shared.id)
    if shared.id != _NOTHING:
        dispatch.settle(shared.id, shared.run_id, outcomes)
    abandon(shared.run_id)
    counts = _count(outcomes)
    metadata = _metadata(shared, outcomes, counts)
    failures = [
        failure for failure in shared.failures.values() if not isinstance(failure.error, Cancelled)
    ]
    if failures:
        report_step_failures(context, {failure.op: failure.text for failure in failures})
        shown = failures[0]
        raise OpFailure(
            description=f"{len(failures)} of {len(shared.items)} invocations failed; the first in step {shown.step}: {shown.text}",
            metadata=metadata,
            allow_retries=False,
        )
    context.add_output_metadata(metadata)
    return counts


def open_batch(batch_id: str, run_id: str, *, fresh: bool) -> BatchState | None:
    """Take a batch for a run and begin to renew its lease; None when it is not there for it."""
    begun = dispatch.begin(batch_id, run_id, fresh=fresh)
    if begun is None:
        return None
    function, rows, steps = begun
    items, failures = items_from_rows(rows, steps, run_id)
    shared = BatchState(batch_id, run_id, function, items, heartbeat.start(batch_id, run_id))
    shared.failures = failures
    shared.previous_runs = sorted({row["previous_run"] for row in rows} - {None, run_id})
    _open[run_id] = shared
    return shared


def remember_dropped(run_id: str, op_name: str, batch: Batch) -> None:
    """Remember who had left a batch when an op ended: for ops of this process, and where it is anyone for those of others."""
    _dropped[run_id, op_name] = set(batch.dropped)
    if batch.dropped:
        dispatch.record_dropped(
            run_id,
            op_name,
            {"dropped": sorted(batch.dropped), "suspended": batch.state.suspended_rows()},
        )


def batch_for_input(run_id: str, parent_run_id: str | None, op_name: str, for_op: str) -> Batch:
    """The batch behind an op of a run, as a view of its own for another op: the op ran in this process, in another one, or in the run that this one re-executes."""
    shared = _open.get(run_id) or _reopen(run_id, parent_run_id)
    dropped = _dropped.get((run_id, op_name))
    if dropped is None:
        remembered = dispatch.dropped_by_op(run_id)
        shared.add_suspended([row for found in remembered.values() for row in found["suspended"]])
        dropped = set(remembered.get(op_name, {"dropped": []})["dropped"])
    return Batch(
        shared,
        dropped.union(item for item, failure in shared.failures.items() if failure.op == "receive"),
        for_op,
    )


def _reopen(run_id: str, parent_run_id: str | None) -> BatchState:
    own = dispatch.batch_of_run(run_id)
    if own is not None:
        shared = open_batch(own["id"], run_id, fresh=False)
        if shared is None:
            raise LeaseLost(own["id"])
        return shared
    parent = dispatch.batch_of_run(parent_run_id) if parent_run_id else None
    if parent is None:
        raise NothingToDo(
            "this run has no batch, and re-executes none: launch the job with events in the config of receive"
        )
    return _take_up(parent, run_id)


def abandon(run_id: str) -> None:
    """Forget the batch of a run that has ended, whether or not it was settled."""
    shared = _open.pop(run_id, None)
    for key in [key for key in _dropped if key[0] == run_id]:
        del _dropped[key]
    if shared is not None:
        heartbeat.stop(shared.id)


def _take(context: OpExecutionContext) -> BatchState:
    run = context.run
    batch_id = run.tags.get(BATCH)
    batch = open_batch(batch_id, run.run_id, fresh=True) if batch_id else None
    if batch is not None:
        return batch
    parent = dispatch.batch_of_run(run.parent_run_id) if run.parent_run_id else None
    if parent is not None and run.tags.get(_FROM_FAILURE) == "true":
        return _take_up(parent, run.run_id)
    claimed: str | None
    if parent is not None:
        claimed = dispatch.claim_replay(_function(parent["function"]), parent["id"])
    elif context.op_config["events"]:
        claimed = _claim_from_config(context)
    elif batch_id:
        raise NothingToDo(
            f"batch {batch_id} was given to another run: this one came too late, and there is nothing left to do"
        )
    else:
        raise NothingToDo(
            "this run has no events: give it some in ops > receive > config > events, or send one with `runyard send NAME --data '{...}'`"
        )
    batch = open_batch(claimed, run.run_id, fresh=True) if claimed else None
    if batch is None:
        raise NothingToDo(
            "nothing of it may go now: the events were sent before (same id within 24 h), or the limits of the function leave no room;"
            " then they are queued, and run in their turn"
        )
    tags = {FUNCTION: batch.function, BATCH: batch.id}
    if len(batch.items) == 1 and batch.items[0].event.id:
        tags[EVENT] = batch.items[0].event.id
    context.instance.add_run_tags(run.run_id, tags)
    return batch


def _take_up(parent: Row, run_id: str) -> BatchState:
    """What a batch left undone; an empty batch when all of it has succeeded meanwhile, or another run has it."""
    claimed = dispatch.claim_unfinished(_function(parent["function"]), parent["id"])
    resumed = open_batch(claimed, run_id, fresh=False) if claimed else None
    if resumed is None:
        resumed = BatchState(_NOTHING, run_id, parent["function"], [], Lease(_NOTHING, run_id))
        _open[run_id] = resumed
    return resumed


def _function(name: str) -> Function:
    found = registry.find(name)
    if found is None:
        raise NothingToDo(f"the code has no function {name} any more")
    return found


def _claim_from_config(context: OpExecutionContext) -> str | None:
    function = registry.find(context.run.tags.get(FUNCTION, "")) or registry.of_job(
        context.job_name
    )
    if function is None:
        raise NothingToDo(
            f"no function runs the job {context.job_name}: declare it with on_event(..., job={context.job_name})"
        )
    events = [
        Event.from_wire({"name": function.event, **raw}) for raw in context.op_config["events"]
    ]
    foreign = next((event.name for event in events if not function.started_by(event.name)), None)
    if foreign is not None:
        raise InvalidEvent(
            f"{function.name} is started by {', '.join(map(str, function.rules))}, not by {foreign}",
            "name",
        )
    return dispatch.claim_events(function, rows_as_json(events, target=function.name), "launch")


def _outcomes(shared: BatchState) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for item in shared.items:
        failure, waits = shared.failures.get(item.id), shared.suspended.get(item.id)
        if failure is not None:
            outcomes.append(failure.outcome(item.id))
        elif waits is not None:
            status = "sleeping" if set(waits.values()) == {"sleep"} else "waiting"
            outcomes.append(Outcome(item.id, status, attempt=0, suspended=tuple(waits)))
        else:
            outcomes.append(Outcome(item.id, "succeeded", output=_last_output(item.outputs)))
    return outcomes


def _last_output(outputs: dict[str, Any]) -> str | None:
    """The output of the last step, as JSON; outputs are in the order in which the steps ended."""
    return (
        to_json(next(reversed(outputs.values())), inf_nan_mode="null").decode() if outputs else None
    )


def _count(outcomes: Sequence[Outcome]) -> dict[str, int]:
    counts = {"succeeded": 0, "failed": 0, "to be retried": 0, "suspended": 0, "cancelled": 0}
    for outcome in outcomes:
        counts[_COUNTED_AS.get(outcome.status, outcome.status)] += 1
    return counts


def _metadata(
    batch: BatchState, outcomes: Sequence[Outcome], counts: dict[str, int]
) -> dict[str, Any]:
    """Every invocation with its outcome: a table for people up to 100 rows (failures first), and JSON of all."""
    status = {"queued": "to be retried"}
    events = {item.id: item.event.id for item in batch.items}
    ordered = sorted(outcomes, key=lambda outcome: outcome.status == "succeeded")
    lines = ["| invocation | event | outcome | step | error |", "|---|---|---|---|---|"]
    for outcome in ordered[:_MOST_ROWS]:
        failure = batch.failures.get(outcome.invocation_id)
        text = failure.text.replace("|", "\\|").replace("\n", " ")[:300] if failure else ""
        number, step = (
            outcome.invocation_id,
            failure.step if failure else ", ".join(outcome.suspended),
        )
        links = f"[{number}]({to_invocation(number)}) | [{events[number]}]({to_event(str(events[number]))})"
        lines.append(
            f"| {links} | {status.get(outcome.status, outcome.status)} | {step} | {text} |"
        )
    if len(ordered) > _MOST_ROWS:
        lines.append(f"| ... and {len(ordered) - _MOST_ROWS} more, in 'all outcomes' | | | | |")
    grouped: dict[str, list[int]] = {}
    for outcome in outcomes:
        grouped.setdefault(status.get(outcome.status, outcome.status), []).append(
            outcome.invocation_id
        )
    return {
        **counts,
        "outcomes": MetadataValue.md("\n".join(lines)),
        "all outcomes": MetadataValue.json(grouped),
    }
