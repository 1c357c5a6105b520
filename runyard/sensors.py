"""`on_event`: a job, the events that start it and its flow control, as a Dagster sensor.

A tick of the sensor waits (on NOTIFY, under the 60 seconds that Dagster gives it) until invocations of its function are
due, claims them, and asks for one run a batch; the batch id is the run key. While it waits it also looks after
batches whose worker was lost. It works under stock `dagster dev` too, which only comes back to it every few seconds.
"""

import time
import warnings
from collections.abc import Sequence
from functools import cache

from dagster import BetaWarning, DefaultSensorStatus, JobDefinition, RunRequest, SensorDefinition, SensorEvaluationContext, SkipReason, sensor

from runyard import dispatch, reaper, registry
from runyard.flow import Retry
from runyard.listener import listener
from runyard.registry import Function
from runyard.tags import BATCH, EVENT, FUNCTION

TICK_SECONDS = 45.0
LONGEST_WAIT = 5.0


def on_event(
    *events: str,
    job: JobDefinition,
    max_batch: int = 500,
    retry: Retry | None = None,
    priority: int = 0,
    name: str | None = None,
    description: str | None = None,
) -> SensorDefinition:
    """Make a job a function that events start; return its sensor, to be put into `Definitions`.

    Parameters
    ----------
    events
        The names of the events that start it.
    job
        A job that begins with `receive` and ends with `settle`.
    max_batch
        The most invocations that one run takes: 1 to 5,000. 1 gives every event a run of its own.
    retry
        How often a failed invocation is tried, and when; 5 attempts by default.
    priority
        -600 to 600; functions' own invocations of a higher priority are claimed first.
    name
        The function's name; the job's by default.

    Raises
    ------
    InvalidOption
        An option is out of its range, or the name is taken.
    """
    function = Function(name or job.name, job.name, events, max_batch, retry or Retry(), priority)
    registry.add(function)

    def waiting_sensor(context: SensorEvaluationContext) -> Sequence[RunRequest] | SkipReason:
        return _tick(function, context)

    # The decorator itself passes a parameter that is in beta.
    warnings.filterwarnings("ignore", category=BetaWarning, message="Parameter `owners`")
    return sensor(
        name=f"{function.name}_sensor",
        job=job,
        minimum_interval_seconds=1,
        default_status=DefaultSensorStatus.RUNNING,
        description=description or f"Runs {job.name} on {', '.join(events)}: up to {max_batch} events a run, {function.retry.attempts} attempts each.",
    )(waiting_sensor)


def _tick(function: Function, context: SensorEvaluationContext) -> Sequence[RunRequest] | SkipReason:
    _publish_once()
    deadline = time.monotonic() + TICK_SECONDS
    with listener.subscribe(function.name) as woken:
        while (left := deadline - time.monotonic()) > 0:
            woken.clear()
            reaper.sweep_if_time(lambda: context.instance)
            claims = dispatch.claim(function)
            if claims:
                return [_run_request(function, claim) for claim in claims]
            # No room: a batch that begins or ends makes some, and wakes us.
            due = None if claims is None else dispatch.seconds_until_due(function)
            woken.wait(max(0.02, min(left, LONGEST_WAIT, LONGEST_WAIT if due is None else due)))
    return SkipReason(f"no {' or '.join(function.triggers)} in {TICK_SECONDS:.0f} s")


def _run_request(function: Function, claim: dispatch.Claim) -> RunRequest:
    tags = {FUNCTION: function.name, BATCH: claim.batch_id}
    if claim.event_id is not None:
        tags[EVENT] = claim.event_id
    return RunRequest(run_key=claim.batch_id, tags=tags)


@cache
def _publish_once() -> None:
    """Write the functions to the database when the first tick of a code server runs: stock `dagster dev` has no other moment."""
    registry.publish()
