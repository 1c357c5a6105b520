"""The two ops that begin and end a job: `receive` gives the batch, `settle` writes what became of it.

::

    @job
    def send_email():
        settle(track_delivery(send_via_sendgrid(prepare_email(receive()))))
"""

import random
from collections.abc import Sequence
from typing import Any

from dagster import Failure as OpFailure
from dagster import Field, In, MetadataValue, OpExecutionContext, Out, Permissive, op
from pydantic_core import to_json

from runyard import dispatch, registry
from runyard.batch import Batch, items_from_rows
from runyard.dagster_internals import report_step_failures
from runyard.dispatch import Outcome
from runyard.errors import InvalidEvent, LeaseLost, NothingToDo
from runyard.events import Event, rows_as_json
from runyard.flow import Retry
from runyard.lease import Lease, heart
from runyard.redaction import redact
from runyard.store.queries import Row
from runyard.tags import BATCH, EVENT, FUNCTION

_MOST_ROWS = 100
_NOTHING = "nothing"  # the id of the batch of a run that found nothing left to take up
_FROM_FAILURE = "dagster/is_resume_retry"  # Dagster's tag of a run that re-executes another from its failure
_open: dict[str, Batch] = {}

_EVENTS_CONFIG = Field(
    [Permissive({"name": Field(str, is_required=False, description="The event's name; the function's first trigger by default.")})],
    is_required=False,
    default_value=[],
    description="Events to run this function on, given by hand: a list of {name, data}. A run that a sensor launched needs none.",
)


@op(config_schema={"events": _EVENTS_CONFIG}, out=Out(Batch), description="Take the batch of invocations that this run is for, or make one of the events in the config.")
def receive(context: OpExecutionContext) -> Batch:
    """Begin a job: the invocations that a sensor claimed for this run, with their events and kept steps."""
    batch = _take(context)
    context.add_output_metadata({"function": batch.function, "batch": batch.id, "invocations": len(batch.items), "left out": len(batch.failures)})
    return batch


@op(ins={"batch": In(Batch)}, out=Out(dict[str, int]), description="Write the outcome of every invocation; red when any of them failed.")
def settle(context: OpExecutionContext, batch: Batch) -> dict[str, int]:
    """End a job: succeeded invocations are final, failed ones are tried again or final, all in one statement.

    The output of an invocation is that of its last step. The op fails when any invocation did, and the ops in which
    they failed turn red, so that 're-execute from failure' begins there.
    """
    outcomes = _outcomes(batch)
    heart.drop(batch.id)
    if batch.id != _NOTHING:
        dispatch.settle(batch.id, batch.run_id, outcomes)
    _open.pop(batch.run_id, None)
    counts = _count(outcomes)
    metadata = _metadata(batch, outcomes, counts)
    if batch.failures:
        report_step_failures(context, {failure.op: redact(str(failure.error)) for failure in batch.failures.values()})
        shown = next(iter(batch.failures.values()))
        raise OpFailure(
            description=f"{len(batch.failures)} of {len(batch.items)} invocations failed; the first in step {shown.step}: {redact(str(shown.error))}",
            metadata=metadata,
            allow_retries=False,
        )
    context.add_output_metadata(metadata)
    return counts


def open_batch(batch_id: str, run_id: str, *, fresh: bool) -> Batch | None:
    """Take a batch for a run and begin to renew its lease; None when it is not there for it."""
    begun = dispatch.begin(batch_id, run_id, fresh=fresh)
    if begun is None:
        return None
    function, rows, steps = begun
    items, failures = items_from_rows(rows, steps)
    batch = Batch(batch_id, run_id, function, items, heart.hold(batch_id))
    batch.failures = failures
    _open[run_id] = batch
    return batch


def batch_for_input(run_id: str, parent_run_id: str | None) -> Batch:
    """The batch of a run whose op was begun elsewhere: in this process, in another one, or in the run it re-executes."""
    if run_id in _open:
        return _open[run_id]
    own = dispatch.batch_of_run(run_id)
    if own is not None:
        batch = open_batch(own["id"], run_id, fresh=False)
        if batch is None:
            raise LeaseLost(f"batch {own['id']} is no longer this run's: another run goes on with it")
        return batch
    parent = dispatch.batch_of_run(parent_run_id) if parent_run_id else None
    if parent is None:
        raise NothingToDo("this run has no batch, and re-executes none: launch the job with events in the config of receive")
    return _take_up(parent, run_id)


def abandon(run_id: str) -> None:
    """Forget the batch of a run that has ended, whether or not it was settled."""
    batch = _open.pop(run_id, None)
    if batch is not None:
        heart.drop(batch.id)


def _take(context: OpExecutionContext) -> Batch:
    run = context.run
    batch_id = run.tags.get(BATCH)
    batch = open_batch(batch_id, run.run_id, fresh=True) if batch_id else None
    if batch is not None:
        return batch
    parent = dispatch.batch_of_run(run.parent_run_id) if run.parent_run_id else None
    if parent is not None and run.tags.get(_FROM_FAILURE) == "true":
        return _take_up(parent, run.run_id)
    if parent is not None:
        batch_id = dispatch.claim_replay(parent["id"])
    elif context.op_config["events"]:
        batch_id = _claim_from_config(context)
    elif batch_id:
        raise NothingToDo(f"batch {batch_id} was given to another run: this one came too late, and there is nothing left to do")
    else:
        raise NothingToDo("this run has no events: give it some in ops > receive > config > events, or send one with `runyard send NAME --data '{...}'`")
    batch = open_batch(batch_id, run.run_id, fresh=True)
    if batch is None:
        raise NothingToDo("the events started nothing: they were sent before (same id within 24 h), or those of the first run are gone")
    tags = {FUNCTION: batch.function, BATCH: batch_id}
    if len(batch.items) == 1 and batch.items[0].event.id:
        tags[EVENT] = batch.items[0].event.id
    context.instance.add_run_tags(run.run_id, tags)
    return batch


def _take_up(parent: Row, run_id: str) -> Batch:
    """What a batch left undone; an empty batch when all of it has succeeded meanwhile, or another run has it."""
    resumed = open_batch(dispatch.claim_unfinished(parent["id"]), run_id, fresh=False)
    if resumed is None:
        resumed = Batch(_NOTHING, run_id, parent["function"], [], Lease(_NOTHING))
        _open[run_id] = resumed
    return resumed


def _claim_from_config(context: OpExecutionContext) -> str:
    function = registry.find(context.run.tags.get(FUNCTION, "")) or registry.of_job(context.job_name)
    if function is None:
        raise NothingToDo(f"no function runs the job {context.job_name}: declare it with on_event(..., job={context.job_name})")
    events = [Event.from_wire({"name": function.triggers[0], **raw}) for raw in context.op_config["events"]]
    foreign = next((event.name for event in events if event.name not in function.triggers), None)
    if foreign is not None:
        raise InvalidEvent(f"{function.name} is started by {', '.join(function.triggers)}, not by {foreign}", "name")
    return dispatch.claim_events(function.name, rows_as_json(events, target=function.name), "launch")


def _outcomes(batch: Batch) -> list[Outcome]:
    function = registry.find(batch.function)
    retry = function.retry if function is not None else Retry()
    dice = random.Random()
    outcomes: list[Outcome] = []
    for item in batch.items:
        failure = batch.failures.get(item.id)
        if failure is None:
            outcomes.append(Outcome(item.id, "succeeded", output=_last_output(item.outputs)))
            continue
        delay = retry.delay_after(failure.error, item.attempt, dice)
        status = "failed" if delay is None else "queued"
        outcomes.append(Outcome(item.id, status, delay or 0.0, error=failure.to_json(delay)))
    return outcomes


def _last_output(outputs: dict[str, Any]) -> str | None:
    """The output of the last step, as JSON; outputs are in the order in which the steps ended."""
    return to_json(next(reversed(outputs.values()))).decode() if outputs else None


def _count(outcomes: Sequence[Outcome]) -> dict[str, int]:
    counts = {"succeeded": 0, "failed": 0, "queued": 0}
    for outcome in outcomes:
        counts[outcome.status] += 1
    return {"succeeded": counts["succeeded"], "failed": counts["failed"], "to be retried": counts["queued"]}


def _metadata(batch: Batch, outcomes: Sequence[Outcome], counts: dict[str, int]) -> dict[str, Any]:
    """Every invocation with its outcome: a table for people up to 100 rows (failures first), and JSON of all."""
    status = {"queued": "to be retried"}
    events = {item.id: item.event.id for item in batch.items}
    ordered = sorted(outcomes, key=lambda outcome: outcome.status == "succeeded")
    lines = ["| invocation | event | outcome | step | error |", "|---|---|---|---|---|"]
    for outcome in ordered[:_MOST_ROWS]:
        failure = batch.failures.get(outcome.invocation_id)
        text = redact(str(failure.error)).replace("|", "\\|").replace("\n", " ")[:300] if failure else ""
        lines.append(
            f"| {outcome.invocation_id} | {events[outcome.invocation_id]} | {status.get(outcome.status, outcome.status)} | {failure.step if failure else ''} | {text} |"
        )
    if len(ordered) > _MOST_ROWS:
        lines.append(f"| ... and {len(ordered) - _MOST_ROWS} more, in 'all outcomes' | | | | |")
    grouped: dict[str, list[int]] = {}
    for outcome in outcomes:
        grouped.setdefault(status.get(outcome.status, outcome.status), []).append(outcome.invocation_id)
    return {**counts, "outcomes": MetadataValue.md("\n".join(lines)), "all outcomes": MetadataValue.json(grouped)}
