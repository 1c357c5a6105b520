"""The batches that the runs of this process hold.

A run comes by its batch in one of four ways: a sensor claimed it, the run re-executes another run
from its failure, it replays another run, or it was launched by hand with events in its config.
`receive` takes the batch; the IO manager hands it to the ops that follow, and reopens it from the
tables in a process that does not hold it.
"""

from dagster import DagsterRun, OpExecutionContext

from runyard.dagster_adapter import hung_steps
from runyard.dagster_adapter.tags import BATCH, EVENT, FUNCTION
from runyard.engine import batch_claims, batch_leases, dropped_invocations
from runyard.engine.batch import Batch
from runyard.engine.items import BatchState, items_from_rows
from runyard.engine.lease import Lease, heartbeat, watchers
from runyard.errors import InvalidEvent, LeaseLost, NothingToDo
from runyard.events import Event, rows_as_json
from runyard.functions import registry
from runyard.functions.registry import Function
from runyard.store.queries import Row

EMPTY = "nothing"  # the batch id of a run that found nothing left to do
# Dagster's tag on a run that re-executes another one from its failure.
_FROM_FAILURE = "dagster/is_resume_retry"
_open: dict[str, BatchState] = {}
_dropped: dict[tuple[str, str], set[int]] = {}
watchers.append(hung_steps.watch_own)


def receive_batch(context: OpExecutionContext) -> BatchState:
    """Take the batch of a run that begins; raises `NothingToDo` when there is none."""
    run = context.run
    claimed = _claimed_by_sensor(run)
    if claimed is not None:
        return claimed
    parent = batch_leases.batch_of_run(run.parent_run_id) if run.parent_run_id else None
    if parent is None:
        return _launched_by_hand(context)
    if run.tags.get(_FROM_FAILURE) == "true":
        return _reexecuted_from_failure(parent, run.run_id)
    return _replayed(parent, context)


def _claimed_by_sensor(run: DagsterRun) -> BatchState | None:
    """The batch that a sensor claimed for this run; None when there is none, or it is gone."""
    batch_id = run.tags.get(BATCH)
    return _open_batch(batch_id, run.run_id, fresh=True) if batch_id else None


def _reexecuted_from_failure(parent: Row, run_id: str) -> BatchState:
    """What the parent run left undone.

    The batch is empty when all of it has succeeded meanwhile, or another run holds it.
    """
    claimed = batch_claims.claim_unfinished(_function(parent["function"]), parent["id"])
    batch = _open_batch(claimed, run_id, fresh=False) if claimed else None
    if batch is None:
        batch = BatchState(EMPTY, run_id, parent["function"], [], Lease(EMPTY, run_id))
        _open[run_id] = batch
    return batch


def _replayed(parent: Row, context: OpExecutionContext) -> BatchState:
    """All events of the parent run again, as new invocations."""
    claimed = batch_claims.claim_replay(_function(parent["function"]), parent["id"])
    return _open_and_tag(claimed, context)


def _launched_by_hand(context: OpExecutionContext) -> BatchState:
    """The events in the run's config, sent and claimed at once."""
    events = context.op_config["events"]
    if events:
        function = _function_of_job(context)
        source = _events_json(function, events)
        return _open_and_tag(batch_claims.claim_events(function, source, "launch"), context)
    batch_id = context.run.tags.get(BATCH)
    if batch_id:
        raise NothingToDo(
            f"batch {batch_id} has been given to another run: this run started too late,"
            " and has nothing left to do"
        )
    raise NothingToDo(
        "this run has no events: give it some in ops > receive > config > events,"
        " or send one with `runyard send NAME --data '{...}'`"
    )


def _function_of_job(context: OpExecutionContext) -> Function:
    tagged = registry.find(context.run.tags.get(FUNCTION, ""))
    function = tagged or registry.of_job(context.job_name)
    if function is None:
        raise NothingToDo(
            f"no function runs the job {context.job_name}:"
            " make it one with @function(...) or on_event(..., job=...)"
        )
    return function


def _events_json(function: Function, config: list[dict[str, object]]) -> str:
    """The events of a run's config as `batch_claims.claim_events` takes them."""
    events = [Event.from_wire({"name": function.event, **fields}) for fields in config]
    for event in events:
        if not function.started_by(event.name):
            triggers = ", ".join(map(str, function.rules))
            raise InvalidEvent(
                f"{function.name} is started by {triggers}, not by {event.name}", "name"
            )
    return rows_as_json(events, target=function.name)


def _open_and_tag(batch_id: str | None, context: OpExecutionContext) -> BatchState:
    """Open a batch that this run claimed itself, and tag the run as a sensor would have."""
    batch = _open_batch(batch_id, context.run_id, fresh=True) if batch_id else None
    if batch is None:
        raise NothingToDo(
            "nothing can run now: the events were sent before (same id within 24 h), or the"
            " function's limits leave no room; in that case they are queued and run in their turn"
        )
    tags = {FUNCTION: batch.function, BATCH: batch.id}
    if len(batch.items) == 1 and batch.items[0].event.id:
        tags[EVENT] = batch.items[0].event.id
    context.instance.add_run_tags(context.run_id, tags)
    return batch


def _function(name: str) -> Function:
    function = registry.find(name)
    if function is None:
        raise NothingToDo(f"the code no longer has a function {name}")
    return function


def _open_batch(batch_id: str, run_id: str, *, fresh: bool) -> BatchState | None:
    """Take a batch for a run and start to renew its lease; None when the run cannot have it."""
    begun = batch_leases.begin(batch_id, run_id, fresh=fresh)
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
    """Record which invocations had left a batch when an op ended.

    They are recorded in memory for ops of this process, and in the database for those of others.
    """
    _dropped[run_id, op_name] = set(batch.dropped)
    if batch.dropped:
        dropped_invocations.record_dropped(
            run_id,
            op_name,
            {"dropped": sorted(batch.dropped), "suspended": batch.state.suspended_rows()},
        )


def batch_for_input(run_id: str, parent_run_id: str | None, op_name: str, for_op: str) -> Batch:
    """The batch as an op of the run left it, as a view for another op.

    That op ran in this process, in another one, or in the run that this one re-executes.
    """
    shared = _open.get(run_id) or _reopen(run_id, parent_run_id)
    dropped = _dropped.get((run_id, op_name))
    if dropped is None:
        remembered = dropped_invocations.dropped_by_op(run_id)
        shared.add_suspended([row for op in remembered.values() for row in op["suspended"]])
        dropped = set(remembered.get(op_name, {"dropped": []})["dropped"])
    refused = {item for item, failure in shared.failures.items() if failure.op == "receive"}
    return Batch(shared, dropped | refused, for_op)


def _reopen(run_id: str, parent_run_id: str | None) -> BatchState:
    own = batch_leases.batch_of_run(run_id)
    if own is not None:
        shared = _open_batch(own["id"], run_id, fresh=False)
        if shared is None:
            raise LeaseLost(own["id"])
        return shared
    parent = batch_leases.batch_of_run(parent_run_id) if parent_run_id else None
    if parent is None:
        raise NothingToDo(
            "this run has no batch and re-executes no run that had one:"
            " launch the job with events in the config of receive"
        )
    return _reexecuted_from_failure(parent, run_id)


def close_batch(run_id: str) -> None:
    """Forget the batch of a run that has ended, whether or not it was settled."""
    shared = _open.pop(run_id, None)
    for key in [key for key in list(_dropped) if key[0] == run_id]:
        _dropped.pop(key, None)
    if shared is not None:
        heartbeat.stop(shared.id)
