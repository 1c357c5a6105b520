"""Ends steps that hang: their invocations fail, all others of the batch continue in another run.

The others are charged neither an attempt nor a crash. A hung step cannot be interrupted, as it may
wait anywhere, even outside Python code. Its process is killed instead:

- a worker's child process, by its parent (`children`);
- a process that was created for this run alone (by Dagster's default launcher, or for an op under
  the multiprocess executor), by its heartbeat thread;
- any other process, such as a test's, stays alive: the run ends, and the thread is left behind.
"""

import logging
import multiprocessing
import os
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import NoReturn

import psutil
from dagster import DagsterInstance, DagsterRunStatus

from runyard.engine import activity, batch_leases, checkpoints, settlement
from runyard.engine.activity import Activity, Work
from runyard.engine.failures import Failure
from runyard.engine.items import Item, items_from_rows
from runyard.engine.lease import Lease
from runyard.engine.settlement import Outcome
from runyard.engine.watchdog import Watchdog, without_lock_waiters
from runyard.errors import StepTimeout
from runyard.functions.retry import Retry
from runyard.tracing import recording

_KILLED = (
    "It could not be interrupted: its process was killed. Another run continues with the other"
    " invocations; completed steps are not re-run."
)
_MOST_NAMED = 5
_END_SECONDS = 5.0
# Meanwhile threads go on with what another run may begin.
_LAST_SPANS_SECONDS = 0.2
_END_LOOK_SECONDS = 0.02
_log = logging.getLogger("runyard.dagster_adapter.hung_steps")
_own: Watchdog | None = None


def settle(doing: Activity, late: Sequence[Work]) -> bool:
    """Fail the hung invocations of a batch by their step's retry rules; requeue the others.

    Cancelled invocations end as cancelled.

    Returns
    -------
    Whether the run still held the batch.
    """
    begun = batch_leases.begin(doing.batch, doing.run, fresh=False)
    if begun is None:
        return False
    _, rows, steps = begun
    items, failures = items_from_rows(rows, steps, doing.run)
    now, since_boot = time.time(), time.monotonic()
    started = {work.invocation: now - (since_boot - work.since) for work in late}
    failed = [item for item in items if item.id in started and item.id not in failures]
    for item in failed:
        failures[item.id] = _failure(doing, item)
    if failed:
        errors = [(item, failures[item.id].to_json()) for item in failed]
        kept = [(item.id, item.attempt, None, text, started[item.id], now) for item, text in errors]
        checkpoints.save_steps(doing.batch, doing.run, doing.step, kept)
    outcomes = [_outcome(item, failures.get(item.id)) for item in items]
    settlement.settle(doing.batch, doing.run, outcomes)
    for item in failed:
        _record_step(doing, item, started[item.id], now)
    for item, outcome in zip(items, outcomes, strict=True):
        if item.trace is not None:
            item.trace.record_outcome(outcome)
    return True


def _record_step(doing: Activity, item: Item, started: float, ended: float) -> None:
    """Record the span of the attempt that hung, if traces are recorded."""
    if item.trace is not None:
        tries, span = item.tries.get(doing.step, 0) + 1, item.trace.new_span()
        item.trace.record_step(doing.step, span, started, ended, tries, StepTimeout.__name__)


def _failure(doing: Activity, item: Item) -> Failure:
    error = StepTimeout(
        f"timed out after {doing.limit:g} s, and its process was killed. Give the step more time"
        " with timeout=..., or set a shorter timeout on what it calls"
    )
    tries = item.tries.get(doing.step, 0) + 1
    return Failure.of(doing.step, doing.op, error, tries, doing.retry or Retry(attempts=1))


def _outcome(item: Item, failure: Failure | None) -> Outcome:
    """The outcome of an invocation; without a failure it is queued as if this run had not run."""
    if failure is not None:
        return failure.outcome(item.id)
    return Outcome(item.id, "queued", attempt=max(0, item.attempt - 1))


def describe(doing: Activity, late: Collection[Work]) -> str:
    """Name the hung step: `step charge of invocation 12 did not end within 10 s`."""
    numbers = sorted(work.invocation for work in late)
    more = len(numbers) - _MOST_NAMED
    named = ", ".join(map(str, numbers[:_MOST_NAMED])) + (f" and {more} more" if more > 0 else "")
    timed_out = any(time.monotonic() - work.since >= doing.limit for work in late)
    why = f"did not end within {doing.limit:g} s" if timed_out else "was cancelled and did not end"
    return f"step {doing.step} of invocation {named} {why}"


def kill(pid: int) -> None:
    """Kill a process with all its descendants, and wait until they have ended.

    Their exit status is left for the process that started them.
    """
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    deadline = time.monotonic() + _END_SECONDS
    while not all(map(has_ended, family)) and time.monotonic() < deadline:
        time.sleep(_END_LOOK_SECONDS)


def has_ended(process: psutil.Process) -> bool:
    """Whether a process has ended, even if its parent has not collected it yet."""
    try:
        return process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return True


def report(instance: DagsterInstance, run_id: str, text: str) -> None:
    """End a run in Dagster because of a hung step that `text` names, unless it has ended."""
    run = instance.get_run_by_id(run_id)
    if run is None or run.is_finished:
        return
    message = f"{text[:1].upper()}{text[1:]}. {_KILLED}"
    if run.status == DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, message)
    else:
        instance.report_run_failed(run, message)


def watch_own(leases: Mapping[str, Lease]) -> None:
    """Watch this process itself for hung steps, where it has no worker's parent to do so."""
    global _own
    if _own is None or _own.board is not activity.board():
        _own = Watchdog(activity.board())
    doing = _own.board.read()
    held = leases.get(doing.batch) if doing is not None else None
    hung = _own.late(held.cancelled) if held is not None else None
    if hung is None or held is None:
        return
    doing, late = hung[0], without_lock_waiters(os.getpid(), hung[1])
    text = describe(doing, late)
    settle(doing, late)
    held.hung = f"{text}: another run continues with the other invocations"
    held.lose()
    _log.error("%s", text)
    if multiprocessing.parent_process() is not None:
        with DagsterInstance.get() as instance:
            report(instance, doing.run, text)
        end_this_process()


def end_this_process() -> NoReturn:
    """End this process with all its descendants, without waiting for its threads."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    recording.end_recording(_LAST_SPANS_SECONDS)
    os._exit(1)
