"""Releases the batches of lost workers and failed launches, and ends their runs in Dagster.

A batch is overdue when its worker has been silent for longer than a lease, or when its run has not
begun although a slot was free for it. What happens then depends on the status of its run in
Dagster: a run that was to be cancelled cancels its invocations; any other run ends as failed, and
its invocations are due again (completed steps are not re-run).

A run that failed before it began its batch counts as no attempt: launches of its function back off
for a while, with the reason shown.
"""

import logging
import random
from collections.abc import Callable, Sequence

import psycopg
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from runyard.dagster_adapter.internals import has_process
from runyard.dagster_adapter.run_errors import as_json, error_of, run_error
from runyard.dagster_adapter.tags import BATCH
from runyard.engine import batch_claims, batch_leases
from runyard.engine.status import OPEN_BATCH
from runyard.errors import DatabaseUnavailable
from runyard.functions import registry
from runyard.functions.flow_control import DEFAULT_STEP_TIMEOUT
from runyard.store.queries import Row
from runyard.text.redaction import redact

_MOST_TEXT = 500
_HANDED_OVER = (DagsterRunStatus.QUEUED, DagsterRunStatus.STARTED)
_LAUNCHED = (*_HANDED_OVER, DagsterRunStatus.STARTING)
_CANCELLED = (DagsterRunStatus.CANCELED, DagsterRunStatus.CANCELING)
_NEVER_LAUNCHED = (
    "its run was never launched: the daemon or the code server was lost, or the tick failed;"
    " see the log of the daemon and the ticks of its sensor in Dagster"
)
_log = logging.getLogger("runyard.dagster_adapter.reaper")


def reap(instance: DagsterInstance, overdue: Sequence[Row], *, force: bool = False) -> int:
    """Release overdue batches, and end the runs that held them; return how many were released.

    With `force` they are released although their lease has not expired. Without it, a batch is left
    alone whose run has a process of its own that is alive, and has not got to the batch yet.
    """
    count = 0
    for batch in overdue:
        if batch["run_id"]:
            run = instance.get_run_by_id(batch["run_id"])
        else:
            run = _run_of(instance, batch["id"])
        if not force and run is not None and _is_on_its_way(instance, batch, run):
            continue
        released = release_batch(instance, batch, run, force=force)
        count += released
        if released and run is not None and not run.is_finished:
            _end_run(instance, run, batch)
    return count


def _is_on_its_way(instance: DagsterInstance, batch: Row, run: DagsterRun) -> bool:
    """Whether a run in a process of its own is still creating the resources of its job.

    Nothing else renews the lease meanwhile. It may take as long as a step may.
    """
    return (
        batch["status"] == "claimed"
        and not run.is_finished
        and has_process(instance, run)
        and batch_leases.renew_claim(batch["id"], DEFAULT_STEP_TIMEOUT)
    )


def reap_lost(instance: DagsterInstance, batches: Sequence[Row]) -> None:
    """Release the batches of processes that no longer exist; end the runs of finished ones."""
    running = [batch for batch in batches if batch["status"] == "running"]
    finished = [batch for batch in batches if batch["status"] == "finished"]
    reap(instance, running, force=True)
    end_runs(instance, finished)


def end_runs(instance: DagsterInstance, batches: Sequence[Row]) -> None:
    """End the runs of finished batches in Dagster, where their process was lost before it could.

    Otherwise they would stay `STARTED` for ever.
    """
    for batch in batches:
        run = instance.get_run_by_id(batch["run_id"])
        if run is not None and not run.is_finished:
            if run.status == DagsterRunStatus.CANCELING:
                instance.report_run_canceled(run)
            else:
                instance.report_run_failed(
                    run,
                    "The process was lost before the run ended."
                    f" Its batch {batch['id']} was finished: nothing is left to do.",
                )
        batch_leases.mark_ended(batch["run_id"])


def end_unbegun_runs(instance: DagsterInstance, batch_ids: Sequence[str]) -> int:
    """Cancel the runs of batches that were released before their run began; return how many.

    Whoever releases a batch ends its run right after that, unless it is killed in between.
    """
    count = 0
    for batch_id in batch_ids:
        for run in instance.get_runs(RunsFilter(tags={BATCH: batch_id})):
            if run.parent_run_id is None and not run.is_finished:
                instance.report_run_canceled(
                    run,
                    f"Batch {batch_id} was released before this run began:"
                    " another run has its events.",
                )
                count += 1
        batch_leases.mark_unbegun_ended(batch_id)
    return count


def release_batch(
    instance: DagsterInstance, batch: Row, run: DagsterRun | None, *, force: bool = False
) -> bool:
    """Take the lease of a batch away, and end or requeue its invocations.

    The status of the run decides what becomes of them. A cancelled run cancels them. A failed one
    was an attempt, retried after a wait; when it had not begun the batch it was none, and launches
    of the function back off. Either way its error becomes that of the invocations. In any other
    status the worker was lost (a crash of each invocation), or the run never began (no attempt).

    Returns
    -------
    False when another process released the batch first.
    """
    retry = registry.retry_of(batch["function"])
    began = batch["status"] == "running"
    cancelled = batch.get("cancelled") or (run is not None and run.status in _CANCELLED)
    failed = not cancelled and run is not None and run.status == DagsterRunStatus.FAILURE
    crashed = began and not cancelled and not failed
    error = None
    if failed and run is not None:
        error = as_json(run_error(instance, run))
    elif crashed:
        error = as_json(error_of("WorkerLost", "the worker was lost in the middle of the run"))
    released = batch_leases.release(
        batch["id"],
        batch["status"],
        "cancelled" if cancelled else "queued",
        attempts=retry.attempts,
        delay=retry.delay(1, random.Random()) if failed and began else 0.0,
        crashed=crashed,
        failed=failed and not began,
        force=force,
        error=error,
    )
    return released is not None


def settle_orphaned(instance: DagsterInstance, run_id: str) -> bool:
    """Settle what a run left that ended before `settle`: cancelled, or an error outside its steps.

    Returns
    -------
    Whether there was anything left to settle.
    """
    run = instance.get_run_by_id(run_id)
    batch = batch_leases.batch_of_run(run_id, run.tags.get(BATCH) if run is not None else None)
    if run is not None and not run.is_finished:
        if run.status == DagsterRunStatus.CANCELING or (batch is not None and batch["cancelled"]):
            instance.report_run_canceled(run)
        else:
            instance.report_run_failed(run, "The run ended before its batch was settled.")
        run = instance.get_run_by_id(run_id)
    if batch is None or batch["status"] not in OPEN_BATCH:
        return False
    return release_batch(instance, batch, run, force=True)


def launch_failed(batch_id: str, error: Exception) -> None:
    """Release a batch whose run could not be launched, which counts as no attempt.

    Launches of its function back off; the caller tells Dagster. When the database does not take
    that either, the batch is released when it is overdue.
    """
    text = redact(" ".join(f"{type(error).__name__}: {error}".split()))[:_MOST_TEXT]
    failure = (
        f"its run could not be launched ({text}); `runyard doctor` says whether the broker answers"
    )
    try:
        _release_unbegun(batch_id, failure)
    except (DatabaseUnavailable, psycopg.Error) as other:
        _log.warning("batch %s is released later: %s", batch_id, type(other).__name__)


def run_never_began(instance: DagsterInstance, batch_id: str, run_id: str, limit: float) -> None:
    """Release the batch of a run that was killed on its way to it, which counts as no attempt."""
    failure = (
        f"its run did not begin its batch within {limit:g} s, and its process was killed:"
        " creating a resource of its job does not end"
    )
    _release_unbegun(batch_id, failure)
    fail_run(instance, run_id, f"{failure[:1].upper()}{failure[1:]}.")


def reclaim_unlaunched(
    instance: Callable[[], DagsterInstance],
    seconds: float = batch_claims.LAUNCH_SECONDS,
) -> int:
    """Release batches that were claimed so long ago, and whose run was never launched.

    After the default `seconds` the tick must have failed, or the daemon or the code server was
    lost, which may happen again: launches of the function back off. With 0 seconds these are the
    claims that a daemon finds of its predecessor when it starts.

    `instance` is called only when there is something to release: creating one costs several
    connections.

    Returns
    -------
    How many claims were looked at: a run that was launched after all keeps its own.
    """
    claims = batch_leases.unlaunched(seconds)
    for batch in claims:
        _reclaim(instance(), batch, _NEVER_LAUNCHED if seconds > 0 else None)
    return len(claims)


def _reclaim(instance: DagsterInstance, batch: Row, failure: str | None) -> None:
    run = _run_of(instance, batch["id"])
    launched = _HANDED_OVER if marks_launches(instance) else _LAUNCHED
    if run is not None and run.status in launched:
        batch_leases.mark_launching(batch["id"])  # its launcher does not record this
    elif run is not None and run.is_finished:
        release_batch(instance, batch, run, force=True)
    elif _release_unbegun(batch["id"], failure) and run is not None:
        instance.report_run_canceled(
            run,
            f"Batch {batch['id']} was claimed, but its run was not launched in time:"
            " another run has its events.",
        )


def marks_launches(instance: DagsterInstance) -> bool:
    """Whether the run launcher is ours, which marks the batch of each run that the broker has."""
    return bool(getattr(instance.run_launcher, "marks_launches", False))


def _release_unbegun(batch_id: str, failure: str | None) -> bool:
    """Release a batch that no run has begun; after a failure, launches of its function back off.

    Returns
    -------
    False when another process released the batch first.
    """
    released = batch_leases.release(
        batch_id,
        "claimed",
        "queued",
        attempts=1,
        failed=failure is not None,
        force=True,
        error=None if failure is None else as_json(error_of("LaunchFailed", failure)),
    )
    return released is not None


def _run_of(instance: DagsterInstance, batch_id: str) -> DagsterRun | None:
    return next(iter(instance.get_runs(RunsFilter(tags={BATCH: batch_id}), limit=1)), None)


def fail_run(instance: DagsterInstance, run_id: str, message: str) -> None:
    """End a run in Dagster as failed, unless it has ended."""
    run = instance.get_run_by_id(run_id)
    if run is not None and not run.is_finished:
        instance.report_run_failed(run, message)


def _end_run(instance: DagsterInstance, run: DagsterRun, batch: Row) -> None:
    if batch["cancelled"] or run.status == DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, "The run was cancelled; its worker did not respond.")
    else:
        instance.report_run_failed(
            run,
            f"The worker of batch {batch['id']} was lost. Another run continues with its events;"
            " completed steps are not re-run.",
        )
