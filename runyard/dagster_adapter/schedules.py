"""Time-tables: a Dagster schedule whose ticks send the function its event.

The event is deduplicated by the time it stands for, so that a tick that Dagster repeats starts nothing twice; from there on a scheduled
invocation is like any other: queued, retried, replayed.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from dagster import (
    DagsterInvalidDefinitionError,
    DefaultScheduleStatus,
    JobDefinition,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SkipReason,
)

from runyard import clock
from runyard.dagster_adapter.internals import next_time
from runyard.errors import InvalidOption
from runyard.events import as_json, internal_row
from runyard.functions.flow_control import Concurrency, Flow, Singleton
from runyard.functions.registry import SCHEDULED, Function
from runyard.functions.triggers import Cron
from runyard.store import database
from runyard.store.queries import fetch_all
from runyard.syntax.durations import seconds


def overlap_limits(function: str, cron: Cron, flow: Flow) -> Flow:
    """Flow control with what a time-table says of overlaps: skipping makes a singleton of the function, queueing a limit of one at a time."""
    if cron.overlap == "allow" or flow.singleton is not None:
        return flow
    if cron.overlap == "skip":
        if flow.batch is not None or flow.debounce is not None:
            raise InvalidOption(
                f"on_event(cron=Cron(overlap='skip')) for {function} goes with neither batch nor debounce: give overlap='allow'"
            )
        return replace(flow, singleton=Singleton())
    return (
        replace(flow, concurrency=(*flow.concurrency, Concurrency(1)))
        if not any(limit.key is None for limit in flow.concurrency)
        else flow
    )


def schedules_of(
    function: Function, cron: Cron, job: JobDefinition
) -> Sequence[ScheduleDefinition]:
    """The schedules of a time-table, one for each of its expressions; raises `InvalidOption` for one that is none."""
    made: list[ScheduleDefinition] = []
    for number, expression in enumerate(cron.parts, 1):
        try:
            made.append(
                _schedule(
                    function,
                    cron,
                    expression,
                    job,
                    f"{function.name}_schedule" + (f"_{number}" if number > 1 else ""),
                )
            )
        except DagsterInvalidDefinitionError:
            raise InvalidOption(
                f"on_event(cron=Cron({expression!r})) for {function.name}: no cron expression; write minute hour day month weekday, as in '0 6 * * 1-5'"
            ) from None
    return made


def _schedule(
    function: Function, cron: Cron, expression: str, job: JobDefinition, name: str
) -> ScheduleDefinition:
    def tick(context: ScheduleEvaluationContext) -> SkipReason:
        return SkipReason(
            send_scheduled(function.name, cron, expression, context.scheduled_execution_time)
        )

    return ScheduleDefinition(
        name=name,
        job=job,
        cron_schedule=expression,
        execution_timezone=cron.timezone,
        execution_fn=tick,
        default_status=DefaultScheduleStatus.RUNNING,
        description=f"Sends {function.name} its event at '{expression}' ({cron.timezone}). While an earlier one lasts: {cron.overlap}. Missed times: {cron.catch_up}.",
    )


def send_scheduled(function: str, cron: Cron, expression: str, at: datetime) -> str:
    """Send the event of a time, unless it was missed and is not to be made up for; return what was done, in words."""
    late = clock.now() - at
    if late > timedelta(seconds=seconds(cron.grace, "Cron(grace=...)")):
        if cron.catch_up == "none":
            return f"{at:%Y-%m-%d %H:%M} was missed by {late}, and is not made up for"
        if cron.catch_up == "last" and any(
            next_time(part, cron.timezone, at) <= clock.now() for part in cron.parts
        ):
            return f"{at:%Y-%m-%d %H:%M} was missed, and a later time stands for it"
    row = {
        **internal_row(
            SCHEDULED,
            {
                "function": function,
                "schedule": expression,
                "timezone": cron.timezone,
                "at": at.isoformat(),
            },
        ),
        "id": f"schedule {function} {expression} {at.isoformat()}",
        "target": function,
    }
    with database.connection() as connection:
        [sent] = fetch_all(connection, "send", events=as_json([row]), source="schedule")
    return f"sent {sent['id']} for {at:%Y-%m-%d %H:%M}"
