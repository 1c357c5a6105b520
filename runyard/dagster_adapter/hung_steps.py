"""What becomes of a batch in which a step does not end: it fails, all others go on in another run.

Nothing is counted against the others: neither an attempt nor a crash. A step that is late cannot be
interrupted, as it may wait anywhere, also in code that is not Python's. Its process is ended:

- a child of a worker by its parent (`children`);
- a process that was made for the run alone (Dagster's default launcher, or an op's under the
  multiprocess executor) by the thread of its heartbeat;
- any other, such as that of a test, is left alone: the run ends, and the thread is left behind.
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

from runyard.engine import activity, dispatch
from runyard.engine.activity import Activity, Work
from runyard.engine.dispatch import Outcome
from runyard.engine.failures import Failure
from runyard.engine.items import Item, items_from_rows
from runyard.engine.lease import Lease
from runyard.engine.watchdog import Watchdog, without_lock_waiters
from runyard.errors import StepTimeout
from runyard.functions.retry import Retry

_KILLED = "It could not be interrupted: its process was killed. Another run goes on with the other invocations; kept steps are not repeated."
_MOST_NAMED = 5
_END_SECONDS = 5.0
_END_LOOK_SECONDS = 0.02
_log = logging.getLogger("runyard.dagster_adapter.hung_steps")
_own: Watchdog | None = None


def settle(doing: Activity, late: Sequence[Work]) -> bool:
    """Fail the late invocations of a batch by the rules of their step; let the others go on.

    Those that were cancelled are cancelled.
    Return whether there was anything left of the batch.
    """
    begun = dispatch.begin(doing.batch, doing.run, fresh=False)
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
        dispatch.save_steps(doing.batch, doing.run, doing.step, kept)
    outcomes = [_outcome(item, failures.get(item.id)) for item in items]
    dispatch.settle(doing.batch, doing.run, outcomes)
    return True


def _failure(doing: Activity, item: Item) -> Failure:
    error = StepTimeout(
        f"timed out after {doing.limit:g} s, and was ended with its process. Give the step more time with timeout=..., or what it calls a limit of its own"
    )
    tries = item.tries.get(doing.step, 0) + 1
    return Failure.of(doing.step, doing.op, error, tries, doing.retry or Retry(attempts=1))


def _outcome(item: Item, failure: Failure | None) -> Outcome:
    """The outcome of a failure; one without is queued, as if this run had not taken it."""
    if failure is not None:
        return failure.outcome(item.id)
    return Outcome(item.id, "queued", attempt=max(0, item.attempt - 1))


def described(doing: Activity, late: Collection[Work]) -> str:
    """Which step did not end, in words: `step charge of invocation 12 did not end within 10 s`."""
    numbers = sorted(work.invocation for work in late)
    more = len(numbers) - _MOST_NAMED
    named = ", ".join(map(str, numbers[:_MOST_NAMED])) + (f" and {more} more" if more > 0 else "")
    timed_out = any(time.monotonic() - work.since >= doing.limit for work in late)
    why = f"did not end within {doing.limit:g} s" if timed_out else "was cancelled and did not end"
    return f"step {doing.step} of invocation {named} {why}"


def kill(pid: int) -> None:
    """Kill a process with all that it has started, and wait until it works no more.

    It is not waited for as a child is: that would take its end away from who started it.
    """
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    deadline = time.monotonic() + _END_SECONDS
    while not all(map(has_ended, family)) and time.monotonic() < deadline:
        time.sleep(_END_LOOK_SECONDS)


def has_ended(process: psutil.Process) -> bool:
    """Whether a process works no more, be it that its parent does not know yet."""
    try:
        return process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return True


def report(instance: DagsterInstance, run_id: str, text: str) -> None:
    """End a run in Dagster because of what did not end in it, unless the run has ended."""
    run = instance.get_run_by_id(run_id)
    if run is None or run.is_finished:
        return
    if run.status == DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, f"{text[:1].upper()}{text[1:]}. {_KILLED}")
    else:
        instance.report_run_failed(run, f"{text[:1].upper()}{text[1:]}. {_KILLED}")


def watch_own(leases: Mapping[str, Lease]) -> None:
    """Watch over this process itself: one that has no worker above it."""
    global _own
    if _own is None or _own.board is not activity.board():
        _own = Watchdog(activity.board())
    doing = _own.board.read()
    held = leases.get(doing.batch) if doing is not None else None
    found = _own.late(held.cancelled) if held is not None else None
    if found is None or held is None:
        return
    doing, late = found[0], without_lock_waiters(os.getpid(), found[1])
    text = described(doing, late)
    settle(doing, late)
    held.hung = f"{text}: another run goes on with the other invocations"
    held.lost.set()
    _log.error("%s", text)
    if multiprocessing.parent_process() is not None:
        with DagsterInstance.get() as instance:
            report(instance, doing.run, text)
        end_this_process()


def end_this_process() -> NoReturn:
    """End this process here and now, with all that it has started."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    os._exit(1)
