"""`on_event`: what starts a job and its flow control, as a Dagster sensor and Dagster schedules.

A tick of the sensor claims due invocations of its functions and requests one run per batch; the
batch id is the run key. It never waits: under stock `dagster dev` Dagster evaluates the sensor
every few seconds, and the daemon of `runyard up` knows when something is due (see `sensor_loop`).
Where that daemon does not run, a tick also does the maintenance that is due.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, Literal

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

from runyard.dagster_adapter import maintenance
from runyard.dagster_adapter.internals import has_stock_io_manager
from runyard.dagster_adapter.job_graph import check_job
from runyard.dagster_adapter.launches import run_tags
from runyard.dagster_adapter.ops import receive
from runyard.dagster_adapter.schedules import overlap_limits, schedules_of
from runyard.dagster_adapter.tags import APP, FUNCTION_SENSOR, FUNCTIONS, KIND
from runyard.engine import batch_claims
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

_MAX_BATCH = 500
# The end of a function's name, and the event, of the functions that run after another one.
_CALLBACKS = {
    "failed": ("on_failure", "runyard/function.failed"),
    "succeeded": ("on_success", "runyard/function.finished"),
}


class FunctionSensor(SensorDefinition):
    """The sensor of a function.

    `schedules` are the Dagster schedules of its `cron`, which go into `Definitions` beside it.
    """

    schedules: Sequence[ScheduleDefinition] = ()


def on_event(
    *events: str | Trigger,
    job: JobDefinition,
    filter: str | None = None,
    cron: Cron | None = None,
    max_batch: int = _MAX_BATCH,
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
    """Make a job a function that events or a cron schedule start.

    Parameters
    ----------
    events
        What starts it: event names, wildcards (`shop/*`), or `Trigger`s with filters of their own.
    job
        A job that begins with `receive` and ends with `settle`.
    filter
        SQL/JSON path over the event, for all events given by name.
    cron
        A cron schedule; its Dagster schedules are the sensor's `schedules`.
    max_batch
        The most invocations in one run: 1 to 5,000. 1 gives every event a run of its own. With
        `batch`, its `max_size` counts instead.
    retry
        How often a failed step is retried, and when; 5 attempts by default.
    priority
        -600 to 600, or a `Priority` that depends on the event. Among the invocations of one
        function, higher ones are claimed first.
    concurrency, throttle, rate_limit, idempotency, debounce, batch, singleton, timeouts, cancel_on
        Flow control, see `runyard.functions.flow_control`. `idempotency` also takes a path alone.
    on_failure, on_success
        A job for the end of an invocation. Its event (`runyard/function.failed`,
        `runyard/function.finished`) holds the original event, the error or the output, and the
        number of attempts.
    name
        The function's name; the job's by default.
    description
        Shown with the sensor in the Dagster UI.

    Returns
    -------
    The function's sensor, which goes into `Definitions`.

    Raises
    ------
    InvalidOption
        An option is out of range or contradicts another one, the name is taken, or an op of the
        job is not on the batch's way from `receive` to `settle`.
    """
    function_name = name or job.name
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
        flow = overlap_limits(function_name, cron, flow)
    _check_options(function_name, job, max_batch, batch, on_failure, on_success)
    function = Function(
        function_name,
        job.name,
        _triggers(function_name, events, filter),
        max_batch,
        retry or Retry(),
        flow,
        cron is not None,
    )
    schedules = schedules_of(function, cron, job) if cron is not None else []
    functions = [(function, job)]
    if on_failure is not None:
        functions.append((_callback(function, on_failure, "failed"), on_failure))
    if on_success is not None:
        functions.append((_callback(function, on_success, "succeeded"), on_success))
    for declared, its_job in functions:
        check_job(declared.name, its_job)
        registry.add(declared)
    return _sensor(functions, description, schedules)


def _check_options(
    function: str,
    job: JobDefinition,
    max_batch: int,
    batch: BatchEvents | None,
    on_failure: JobDefinition | None,
    on_success: JobDefinition | None,
) -> None:
    """Raise `InvalidOption` for options of `on_event` itself that contradict each other."""
    if batch is not None and max_batch not in (_MAX_BATCH, batch.max_size):
        raise InvalidOption(
            f"function {function}: max_batch={max_batch} and batch=... contradict each other: with"
            f" batch, its max_size={batch.max_size} is the most invocations in a run; remove"
            " max_batch"
        )
    for option, callback in (("on_failure", on_failure), ("on_success", on_success)):
        if callback is job:
            raise InvalidOption(
                f"function {function}: {option}={job.name} is the job of the function itself, which"
                " would run again on an event that tells of its end; give another job, or"
                " retry=Retry(...) for another attempt"
            )


def _triggers(
    function: str, events: Sequence[str | Trigger], filter: str | None
) -> tuple[str | Trigger, ...]:
    """The triggers of a function; the filter applies to all events given by name."""
    if filter is None:
        return tuple(events)
    if all(isinstance(event, Trigger) for event in events):
        raise InvalidOption(
            f"function {function}: filter=... applies to no event, as none is given by name; write"
            " Trigger(event, filter), or remove the filter"
        )
    try:
        return tuple(
            event if isinstance(event, Trigger) else Trigger(event, filter) for event in events
        )
    except InvalidOption as error:
        raise InvalidOption(f"function {function}: {error}") from None


def _callback(
    function: Function, job: JobDefinition, status: Literal["failed", "succeeded"]
) -> Function:
    """The function that runs a job when an invocation of another function has ended."""
    suffix, event = _CALLBACKS[status]
    filter = f'$.data.function == "{function.name}" && $.data.status == "{status}"'
    trigger = Trigger(event, filter)
    return Function(f"{function.name}_{suffix}", job.name, (trigger,), function.max_batch)


def check_io_managers(repository: RepositoryDefinition) -> None:
    """Raise `InvalidOption` for a function's job with Dagster's own IO manager.

    That one cannot hand a batch from op to op. Functions that are drawn use another one.
    """
    for function in registry.functions():
        if not repository.has_job(function.job):
            continue
        job = repository.get_job(function.job)
        is_drawn = all(node.name != receive.name for node in job.all_node_defs)
        if has_stock_io_manager(job) and not is_drawn:
            raise InvalidOption(
                f"the job {function.job} of {function.name} has no IO manager for batches:"
                " write Definitions(..., resources={'io_manager': BatchIOManager()})"
            )


def _sensor(
    functions: Sequence[tuple[Function, JobDefinition]],
    description: str | None,
    schedules: Sequence[ScheduleDefinition],
) -> FunctionSensor:
    function = functions[0][0]

    def tick(context: SensorEvaluationContext) -> Sequence[RunRequest] | SkipReason:
        if context.repository_def is not None:
            _check_once(context.repository_def)
        _publish_once()
        return _tick([function for function, _ in functions], context)

    jobs = list({job.name: job for _, job in functions}.values())
    names = [function.name for function, _ in functions]
    sensor = _define(names, jobs, tick, description or _described(function), {})
    sensor.schedules = schedules
    return sensor


def remote_sensor(
    function: Function, job: JobDefinition, app: str, description: str
) -> FunctionSensor:
    """The sensor of a function that an application serves."""

    def tick(context: SensorEvaluationContext) -> Sequence[RunRequest] | SkipReason:
        return _tick([function], context, remote=True)

    return _define([function.name], [job], tick, description, {APP: app})


def _define(
    functions: Sequence[str],
    jobs: Sequence[JobDefinition],
    tick: Callable[[SensorEvaluationContext], Sequence[RunRequest] | SkipReason],
    description: str,
    tags: Mapping[str, str],
) -> FunctionSensor:
    target: dict[str, Any] = {"job": jobs[0]} if len(jobs) == 1 else {"jobs": jobs}
    # Dagster's own definition passes a parameter that is in beta.
    warnings.filterwarnings("ignore", category=BetaWarning, message="Parameter `owners`")
    return FunctionSensor(
        name=f"{functions[0]}_sensor",
        evaluation_fn=tick,
        minimum_interval_seconds=1,
        default_status=DefaultSensorStatus.RUNNING,
        description=description,
        tags={KIND: FUNCTION_SENSOR, **tags},
        metadata={FUNCTIONS: list(functions)},
        **target,
    )


def _described(function: Function) -> str:
    starters = ", ".join(map(str, function.rules)) or "its schedule"
    return (
        f"Runs {function.job} on {starters}: up to {function.largest} events per run,"
        f" {function.retry.attempts} attempts per step."
    )


def _tick(
    functions: Sequence[Function], context: SensorEvaluationContext, *, remote: bool = False
) -> Sequence[RunRequest] | SkipReason:
    maintenance.run_due(lambda: context.instance)
    requests = [
        RunRequest(
            run_key=claim.batch_id, tags=run_tags(function.name, claim), job_name=function.job
        )
        for function in functions
        for claim in batch_claims.claim(function, remote=remote) or ()
    ]
    return requests or SkipReason(f"nothing is due for {functions[0].name}")


@lru_cache(maxsize=1)
def _check_once(repository: RepositoryDefinition) -> None:
    check_io_managers(repository)


@cache
def _publish_once() -> None:
    """Publish the functions with the first tick of a code server.

    Under stock `dagster dev` there is no earlier opportunity.
    """
    registry.publish()
