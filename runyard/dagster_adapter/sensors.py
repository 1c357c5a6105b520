"""`on_event`: a job, what starts it and its flow control, as a Dagster sensor (and, for a time-table, Dagster schedules).

A tick of the sensor waits (on NOTIFY, under the 60 seconds that Dagster gives it) until invocations of its functions are
due, claims them, and asks for one run a batch; the batch id is the run key. While it waits it also matches events with what waits
for them, ends what a timeout has caught, and looks after batches whose worker was lost, or whose run was never
launched. It works under stock `dagster dev` too, where a tick is short,
and which only comes back to it every few seconds.
"""

import time
import warnings
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

from dagster import (
    BetaWarning,
    DefaultSensorStatus,
    JobDefinition,
    RepositoryDefinition,
    RunRequest,
    ScheduleDefinition,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
)

from runyard.dagster_adapter import ops, reaper
from runyard.dagster_adapter.internals import has_stock_io_manager
from runyard.dagster_adapter.schedules import overlap_limits, schedules_of
from runyard.dagster_adapter.tags import BATCH, CONTINUES, EVENT, FUNCTION
from runyard.engine import dispatch
from runyard.engine.listener import listener
from runyard.errors import InvalidOption
from runyard.functions import registry
from runyard.functions.flow_control import (
    BatchEvents,
    CancelOn,
    Concurrency,
    Debounce,
    Flow,
    Idempotency,
    Priority,
    RateLimit,
    Singleton,
    Throttle,
    Timeouts,
)
from runyard.functions.registry import Function
from runyard.functions.retry import Retry
from runyard.functions.triggers import Cron, Trigger

# Our code server has a thread for every sensor that waits. A stock one has a handful for all of them: there a tick must not hold one for long.
_LONG_TICK, _SHORT_TICK = 45.0, 1.0
_tick_seconds = _SHORT_TICK
LONGEST_WAIT = 5.0
_LOOK_SECONDS = 1.0
# The latest tick of each sensor in this process: an earlier one was asked for by a daemon that is gone.
_latest: dict[str, object] = {}


def wait_long() -> None:
    """Let the ticks of this process wait for events until shortly before Dagster's limit."""
    global _tick_seconds
    _tick_seconds = _LONG_TICK


class FunctionSensor(SensorDefinition):
    """The sensor of a function; `schedules` holds the Dagster schedules of its time-table, to be put into `Definitions` beside it."""

    schedules: Sequence[ScheduleDefinition] = ()


def on_event(
    *events: str | Trigger,
    job: JobDefinition,
    filter: str | None = None,
    cron: Cron | None = None,
    max_batch: int = 500,
    retry: Retry | None = None,
    priority: int | Priority = 0,
    concurrency: Concurrency | Sequence[Concurrency] = (),
    throttle: Throttle | None = None,
    rate_limit: RateLimit | None = None,
    idempotency: Idempotency | str | None = None,
    debounce: Debounce | None = None,
    batch: BatchEvents | None = None,
    singleton: Singleton | None = None,
    timeouts: Timeouts | None = None,
    cancel_on: CancelOn | Sequence[CancelOn] = (),
    on_failure: JobDefinition | None = None,
    on_success: JobDefinition | None = None,
    name: str | None = None,
    description: str | None = None,
) -> FunctionSensor:
    """Make a job a function that events or the clock start; return its sensor, to be put into `Definitions`.

    Parameters
    ----------
    events
        What starts it: event names, wildcards (`shop/*`), or `Trigger`s with a filter of their own.
    job
        A job that begins with `receive` and ends with `settle`.
    filter
        SQL/JSON path over the event, for all the names given as text.
    cron
        A time-table; its schedules are the sensor's `schedules`.
    max_batch
        The most invocations that one run takes: 1 to 5,000. 1 gives every event a run of its own. With `batch` its size says so.
    retry
        How often a failed step is tried, and when; 5 attempts by default.
    priority
        -600 to 600, or a `Priority` by the event; those of a function's own invocations that are higher are claimed first.
    concurrency, throttle, rate_limit, idempotency, debounce, batch, singleton, timeouts, cancel_on
        Flow control, see `runyard.functions.flow_control`. `idempotency` takes a path alone too.
    on_failure, on_success
        A job for the end of an invocation; its event (`runyard/function.failed`, `runyard/function.finished`) holds the first event, the
        error or the output, and the attempts.
    name
        The function's name; the job's by default.

    Raises
    ------
    InvalidOption
        An option is out of its range or contradicts another, the name is taken, or the job does not begin with `receive` and end with `settle`.
    """
    called = name or job.name
    flow = Flow(
        concurrency=(concurrency,) if isinstance(concurrency, Concurrency) else tuple(concurrency),
        throttle=throttle,
        rate_limit=rate_limit,
        idempotency=Idempotency(idempotency) if isinstance(idempotency, str) else idempotency,
        debounce=debounce,
        batch=batch,
        priority=priority,
        singleton=singleton,
        timeouts=timeouts,
        cancel_on=(cancel_on,) if isinstance(cancel_on, CancelOn) else tuple(cancel_on),
    )
    if cron is not None:
        flow = overlap_limits(called, cron, flow)
    try:
        triggers = tuple(
            event if isinstance(event, Trigger) or filter is None else Trigger(event, filter)
            for event in events
        )
    except InvalidOption as error:
        raise InvalidOption(f"on_event for {called}: {error}") from None
    function = Function(
        called, job.name, triggers, max_batch, retry or Retry(), flow, cron is not None
    )
    schedules = schedules_of(function, cron, job) if cron is not None else []
    functions = [(function, job)]
    for ending, event, status in (
        (on_failure, "runyard/function.failed", "failed"),
        (on_success, "runyard/function.finished", "succeeded"),
    ):
        if ending is not None:
            suffix = "on_failure" if status == "failed" else "on_success"
            ours = Trigger(event, f'$.data.function == "{called}" && $.data.status == "{status}"')
            functions.append(
                (Function(f"{called}_{suffix}", ending.name, (ours,), max_batch), ending)
            )
    for one, its_job in functions:
        _check_job(one.name, its_job)
        registry.add(one)
    return _sensor(functions, description, schedules)


def _check_job(function: str, job: JobDefinition) -> None:
    """Raise `InvalidOption` for a job that does not begin and end as one of a function: its events would be claimed, and come to no end."""
    nodes = [node.name for node in job.all_node_defs]
    missing = [needed.name for needed in (ops.receive, ops.settle) if needed.name not in nodes]
    if missing:
        raise InvalidOption(
            f"on_event for {function}: the job {job.name} has no {' and no '.join(missing)}; write it as settle(your_op(receive()))"
        )


def check_io_managers(repository: RepositoryDefinition) -> None:
    """Raise `InvalidOption` for a function's job with Dagster's own IO manager, which cannot hand a batch from op to op."""
    for function in registry.functions():
        if repository.has_job(function.job) and has_stock_io_manager(
            repository.get_job(function.job)
        ):
            raise InvalidOption(
                f"the job {function.job} of {function.name} has no IO manager for batches: write Definitions(..., resources={{'io_manager': BatchIOManager()}})"
            )


def _sensor(
    functions: Sequence[tuple[Function, JobDefinition]],
    description: str | None,
    schedules: Sequence[ScheduleDefinition],
) -> FunctionSensor:
    function = functions[0][0]

    def waiting_sensor(context: SensorEvaluationContext) -> Sequence[RunRequest] | SkipReason:
        return _tick([one for one, _ in functions], context)

    jobs = list({job.name: job for _, job in functions}.values())
    target: dict[str, Any] = {"job": jobs[0]} if len(jobs) == 1 else {"jobs": jobs}
    # The definition itself passes a parameter that is in beta.
    warnings.filterwarnings("ignore", category=BetaWarning, message="Parameter `owners`")
    made = FunctionSensor(
        name=f"{function.name}_sensor",
        evaluation_fn=waiting_sensor,
        minimum_interval_seconds=1,
        default_status=DefaultSensorStatus.RUNNING,
        description=description or _described(function),
        **target,
    )
    made.schedules = schedules
    return made


def _described(function: Function) -> str:
    by = ", ".join(map(str, function.rules)) or "its schedule"
    return f"Runs {function.job} on {by}: up to {function.largest} events a run, {function.retry.attempts} attempts a step."


def _tick(
    functions: Sequence[Function], context: SensorEvaluationContext
) -> Sequence[RunRequest] | SkipReason:
    if context.repository_def is not None:
        _check_once(context.repository_def)
    _publish_once()
    names = [function.name for function in functions]
    this = _latest[names[0]] = object()
    deadline = time.monotonic() + _tick_seconds
    look_at = 0.0
    with listener.subscribe(*names) as woken:
        while (left := deadline - time.monotonic()) > 0:
            woken.clear()
            if _latest[names[0]] is not this:
                # Nobody would launch what it claims. Not at once, lest two daemons drive each other out without end.
                time.sleep(min(left, LONGEST_WAIT))
                return SkipReason("a later tick of this sensor has taken over")
            if time.monotonic() >= look_at:
                # No other tick of the sensor is under way: what it has claimed and not launched is nobody's.
                young = reaper.reclaim_unlaunched(lambda: context.instance, names)
                look_at = time.monotonic() + (_LOOK_SECONDS if young else LONGEST_WAIT)
            reaper.sweep_if_due(lambda: context.instance)
            dispatch.match_waits()
            requests: list[RunRequest] = []
            wait = LONGEST_WAIT
            for function in functions:
                claims = dispatch.claim(function)
                requests += [_run_request(function, claim) for claim in claims or ()]
                # No room (None): a batch that begins or ends makes some, and wakes us.
                due = None if claims is None else dispatch.seconds_until_due(function)
                wait = min(wait, LONGEST_WAIT if due is None else due)
            if requests:
                return requests
            woken.wait(max(0.02, min(left, wait, look_at - time.monotonic())))
    return SkipReason(f"nothing for {functions[0].name} in {_tick_seconds:.0f} s")


def _run_request(function: Function, claim: dispatch.Claim) -> RunRequest:
    tags = {FUNCTION: function.name, BATCH: claim.batch_id}
    if claim.event_id is not None:
        tags[EVENT] = claim.event_id
    if claim.previous_run is not None:
        tags[CONTINUES] = claim.previous_run
    return RunRequest(run_key=claim.batch_id, tags=tags, job_name=function.job)


@lru_cache(maxsize=1)
def _check_once(repository: RepositoryDefinition) -> None:
    check_io_managers(repository)


@cache
def _publish_once() -> None:
    """Write the functions to the database when the first tick of a code server runs: stock `dagster dev` has no other moment."""
    registry.publish()
