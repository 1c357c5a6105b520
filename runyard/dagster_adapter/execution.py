"""Executes a run in a warm worker process, from the broker's message to the end of its batch."""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from runyard.dagster_adapter import batches, event_log, hung_steps, reaper
from runyard.dagster_adapter.internals import execute_run
from runyard.dagster_adapter.tags import BATCH, FUNCTION
from runyard.engine import batch_leases
from runyard.engine.activity import board
from runyard.engine.step_threads import any_abandoned
from runyard.errors import DatabaseUnavailable
from runyard.functions import registry
from runyard.functions.flow_control import DEFAULT_STEP_TIMEOUT

_STARTABLE = (
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.STARTING,
)
_log = logging.getLogger("runyard.worker")


def execute(instance: DagsterInstance, run_id: str) -> None:
    """Execute a run that the broker delivered, unless it was started or cancelled meanwhile.

    Whatever the run leaves unsettled ends or is queued again with it.
    """
    run = _startable(instance, run_id)
    if run is None:
        return
    if not _succeeds(instance, run):
        reaper.settle_orphaned(instance, run_id)
    _record_end(run_id)
    if any_abandoned():
        _log.error("threads of run %s do not end: ending their process", run_id)
        event_log.flush()
        hung_steps.end_this_process()


def execute_in_thread(instance: DagsterInstance, run_id: str) -> None:
    """The same in a process of many runs, each in a thread: nothing here stops the others.

    The run must be one of a function that an application serves.
    """
    run = _startable(instance, run_id)
    if run is None:
        return
    succeeded = False
    try:
        succeeded = execute_run(instance, run)
    finally:
        batches.close_batch(run.run_id)
        if not succeeded:
            reaper.settle_orphaned(instance, run_id)
        _record_end(run_id)


def _startable(instance: DagsterInstance, run_id: str) -> DagsterRun | None:
    """A run that the broker delivered; None if it was started or cancelled meanwhile."""
    run = instance.get_run_by_id(run_id)
    if run is not None and run.status in _STARTABLE:
        return run
    _log.warning("run %s is %s: not executed", run_id, run.status.value if run else "gone")
    if run is not None and run.status == DagsterRunStatus.CANCELED:
        reaper.settle_orphaned(instance, run_id)
    return None


def _succeeds(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Execute a run to its end; return whether it succeeded."""
    batch_id = run.tags.get(BATCH) if run.parent_run_id is None else None
    streams = sys.stdout, sys.stderr
    try:
        if batch_id is not None:
            # Resources are created before the batch begins: the parent renews its lease meanwhile.
            board().start_run(batch_id, run.run_id, _start_limit(run))
        with _interruptible():
            return execute_run(instance, run)
    except KeyboardInterrupt:
        return False
    finally:
        # A step may have put others in their place; the next run prints to its own.
        sys.stdout, sys.stderr = streams
        batches.close_batch(run.run_id)
        if batch_id is not None:
            board().drop(batch_id)


def _start_limit(run: DagsterRun) -> float:
    """How many seconds a run may take until it begins its batch: as many as a step may."""
    function = registry.find(run.tags.get(FUNCTION, ""))
    return DEFAULT_STEP_TIMEOUT if function is None else function.flow.step_timeout


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt, which Celery's worker processes ignore otherwise."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _record_end(run_id: str) -> None:
    try:
        batch_leases.mark_ended(run_id)
    except (DatabaseUnavailable, psycopg.Error) as error:
        _log.info("the end of run %s is not recorded: %s", run_id, type(error).__name__)
