"""Frees what a lost worker held, and ends what a timeout has caught.

A batch is overdue when its worker was silent for longer than a lease, or when its run never began though a slot was
free for it. What happens then depends on what Dagster knows of the run: a run that was to be cancelled cancels its
invocations; any other ends as failed, and its invocations are due again (kept steps are not repeated).

A run that failed before it began its batch was no attempt: the function is held back for a while, with the reason.
"""

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence

import psycopg
from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from runyard.dagster_adapter.tags import BATCH
from runyard.engine import dispatch
from runyard.engine.status import OPEN_BATCH
from runyard.errors import DatabaseUnavailable
from runyard.functions import registry
from runyard.functions.retry import Retry
from runyard.settings import settings
from runyard.store.queries import Row
from runyard.text.redaction import redact

FORGET_SECONDS = 300.0
_MOST_TEXT = 500
_ERRORS = {
    DagsterEventType.ENGINE_EVENT,
    DagsterEventType.STEP_FAILURE,
    DagsterEventType.RUN_FAILURE,
}
_LAUNCHED = (DagsterRunStatus.QUEUED, DagsterRunStatus.STARTING, DagsterRunStatus.STARTED)
_LOST = "its run was never launched: the daemon or the code server was lost, or the tick failed; see the ticks of its sensor in Dagster"
_log = logging.getLogger("runyard.dagster_adapter.reaper")
_sweeping = threading.Lock()
_last_sweep = 0.0
_last_forgotten = 0.0


def sweep_if_time(instance: Callable[[], DagsterInstance]) -> None:
    """Sweep unless this process has done so within the last sixth of a lease (5 s by default).

    `instance` is called only where there is something to free: making one costs several connections.
    """
    global _last_sweep
    if not _sweeping.acquire(blocking=False):
        return
    try:
        if time.monotonic() - _last_sweep >= settings().lease_seconds / 6:
            _last_sweep = time.monotonic()
            dispatch.expire()
            _forget_if_time()
            overdue = dispatch.overdue()
            if overdue:
                free(instance(), overdue)
            unended = dispatch.unended()
            if unended:
                end_runs(instance(), unended)
    finally:
        _sweeping.release()


def _forget_if_time() -> None:
    """Delete what means nothing any more, every few minutes: it reads whole tables, though small ones."""
    global _last_forgotten
    if time.monotonic() - _last_forgotten >= FORGET_SECONDS:
        _last_forgotten = time.monotonic()
        dispatch.purge()


def free(instance: DagsterInstance, overdue: Sequence[Row], *, force: bool = False) -> None:
    """Free overdue batches, and end the runs that held them; with `force` although they were heard of a moment ago."""
    for batch in overdue:
        run = (
            instance.get_run_by_id(batch["run_id"])
            if batch["run_id"]
            else _run_of(instance, batch["id"])
        )
        if (
            release_batch(batch, run, force=force, why=_why(instance, run))
            and run is not None
            and not run.is_finished
        ):
            _end(instance, run, batch)


def end_runs(instance: DagsterInstance, batches: Sequence[Row]) -> None:
    """End the runs of batches that are over, in Dagster, where their process was lost before it could: they would stay `STARTED` for ever."""
    for batch in batches:
        run = instance.get_run_by_id(batch["run_id"])
        if run is not None and not run.is_finished:
            if run.status == DagsterRunStatus.CANCELING:
                instance.report_run_canceled(run)
            else:
                instance.report_run_failed(
                    run,
                    f"The process was lost before the run ended. Its batch {batch['id']} was over: nothing is left to do.",
                )
        dispatch.mark_ended(batch["run_id"])


def release_batch(
    batch: Row, run: DagsterRun | None, *, force: bool = False, why: str = ""
) -> bool:
    """Take the lease of a batch away and end or requeue its invocations; False when somebody else was first.

    What the run's status says of its end decides: cancelled cancels them, failed was an attempt and is tried again after a
    wait; where the run had not begun them yet it was none, and the function is held back, for the reason `why`. Anything else means that the
    worker was lost (a crash of each invocation), or that the run never began (nothing).
    """
    function = registry.find(batch["function"])
    retry = function.retry if function is not None else Retry()
    cancelled = batch.get("cancelled") or (
        run is not None and run.status in (DagsterRunStatus.CANCELED, DagsterRunStatus.CANCELING)
    )
    failed = not cancelled and run is not None and run.status == DagsterRunStatus.FAILURE
    began = batch["status"] == "running"
    crashed = not cancelled and not failed and began
    unbegun = failed and not began
    released = dispatch.release(
        batch["id"],
        batch["status"],
        "cancelled" if cancelled else "queued",
        attempts=retry.attempts,
        delay=retry.delay(1, random.Random()) if failed and began else 0.0,
        crashed=crashed,
        failed=unbegun,
        force=force,
        error=_unlaunched(f"its run failed before it began ({why or 'see its log in Dagster'})")
        if unbegun
        else _error(run, crashed)
        if failed or crashed
        else None,
    )
    return released is not None


def launch_failed(batch_id: str, error: Exception) -> None:
    """Give back a batch whose run could not be launched, and hold its function back; no attempt was made. The caller tells Dagster.

    Where the database does not take that either, the batch is given back when it is overdue.
    """
    text = redact(" ".join(f"{type(error).__name__}: {error}".split()))[:_MOST_TEXT]
    try:
        dispatch.release(
            batch_id,
            "claimed",
            "queued",
            attempts=1,
            failed=True,
            force=True,
            error=_unlaunched(
                f"its run could not be launched ({text}); `runyard doctor` says whether the broker is there"
            ),
        )
    except (DatabaseUnavailable, psycopg.Error) as other:
        _log.warning("batch %s is given back later: %s", batch_id, type(other).__name__)


def settle_orphaned(instance: DagsterInstance, run_id: str) -> bool:
    """A run that ended before `settle` (cancelled, or an error outside every step): its invocations end or come back with it.

    Return whether there was anything left.
    """
    found = instance.get_run_by_id(run_id)
    batch = dispatch.batch_of_run(run_id, found.tags.get(BATCH) if found is not None else None)
    if found is not None and not found.is_finished:
        if found.status == DagsterRunStatus.CANCELING or (batch is not None and batch["cancelled"]):
            instance.report_run_canceled(found)
        else:
            instance.report_run_failed(found, "The run ended before its batch was settled.")
        found = instance.get_run_by_id(run_id)
    if batch is None or batch["status"] not in OPEN_BATCH:
        return False
    return release_batch(batch, found, force=True, why=_why(instance, found))


def _error(run: DagsterRun | None, crashed: bool) -> str:
    message = (
        "the worker was lost in the middle of the run"
        if crashed or run is None
        else f"run {run.run_id} failed outside every step: see its log in Dagster"
    )
    return json.dumps(
        {
            "step": None,
            "type": "WorkerLost" if crashed else "RunFailed",
            "message": message,
            "traceback": "",
        }
    )


def never_began(instance: DagsterInstance, batch_id: str, run_id: str, limit: float) -> None:
    """A run that was killed on its way to its batch: that was no attempt, and the function is held back, for the reason."""
    why = f"its run did not come to its events within {limit:g} s, and its process was killed: a resource of its job does not end when it is made"
    dispatch.release(
        batch_id, "claimed", "queued", attempts=1, failed=True, force=True, error=_unlaunched(why)
    )
    run = instance.get_run_by_id(run_id)
    if run is not None and not run.is_finished:
        instance.report_run_failed(run, f"{why[:1].upper()}{why[1:]}.")


def take_back(
    instance: Callable[[], DagsterInstance],
    functions: Sequence[str] | None,
    seconds: float = dispatch.LAUNCH_SECONDS,
) -> bool:
    """Take back what was claimed of these functions (None: of all) so many seconds ago, and whose run nobody has launched.

    With 0 seconds it is what a process that starts finds of its predecessor; else the daemon, the code server or the tick failed meanwhile, and the
    function is held back, for that may happen again. Return whether there are claims which may still be launched in time.
    """
    claims = dispatch.unlaunched(functions, 0)
    for batch in claims:
        if batch["age"] < seconds:
            continue
        run = _run_of(instance(), batch["id"])
        if run is not None and run.status in _LAUNCHED:
            dispatch.mark_launching(batch["id"])  # by a launcher that does not write it down
        elif run is not None and run.is_finished:
            release_batch(batch, run, force=True, why=_why(instance(), run))
        else:
            error = _unlaunched(_LOST) if seconds > 0 else None
            taken = dispatch.release(
                batch["id"],
                "claimed",
                "queued",
                attempts=1,
                failed=seconds > 0,
                force=True,
                error=error,
            )
            if taken is not None and run is not None:
                instance().report_run_canceled(
                    run,
                    f"Batch {batch['id']} was claimed, and not launched in time: another run has its events.",
                )
    return any(batch["age"] < seconds for batch in claims)


def _unlaunched(message: str) -> str:
    return json.dumps(
        {"step": None, "type": "LaunchFailed", "message": message, "traceback": ""}
    ).replace("\\u0000", "\\ufffd")


def _why(instance: DagsterInstance, run: DagsterRun | None) -> str:
    """What Dagster knows of why a run failed: the root of its first error, without secrets; empty where it knows nothing."""
    if run is None or run.status != DagsterRunStatus.FAILURE:
        return ""
    for entry in instance.all_logs(run.run_id, _ERRORS):
        error = (
            getattr(entry.dagster_event.event_specific_data, "error", None)
            if entry.dagster_event is not None
            else None
        )
        while error is not None and error.cause is not None:
            error = error.cause
        if error is not None:
            return redact(" ".join(str(error.message).split()))[:_MOST_TEXT]
    return ""


def _run_of(instance: DagsterInstance, batch_id: str) -> DagsterRun | None:
    return next(iter(instance.get_runs(RunsFilter(tags={BATCH: batch_id}), limit=1)), None)


def _end(instance: DagsterInstance, run: DagsterRun, batch: Row) -> None:
    if batch["cancelled"] or run.status == DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, "The run was cancelled; its worker did not answer.")
    else:
        instance.report_run_failed(
            run,
            f"The worker of batch {batch['id']} was lost. Another run goes on with its events; kept steps are not repeated.",
        )
