"""Cron schedules: Dagster schedules whose ticks send a function its event.

The event's id names the time that it stands for, so a tick that Dagster repeats starts nothing
twice. From there on a scheduled invocation is like any other: queued, retried, replayed.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256

from dagster import (
    DagsterInvalidDefinitionError,
    DefaultScheduleStatus,
    JobDefinition,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SkipReason,
)

from runyard import clock
from runyard.apps.options import Schedule
from runyard.dagster_adapter.internals import next_time
from runyard.errors import InvalidOption
from runyard.events import as_json, internal_row
from runyard.functions.flow_control import Concurrency, Flow, Singleton
from runyard.functions.registry import SCHEDULED, Function
from runyard.functions.triggers import Cron
from runyard.store import database
from runyard.store.queries import fetch_all
from runyard.syntax.durations import seconds

# The event of a scheduled time, given a function's name, a schedule, one of its expressions and the
# time.
MakeEvent = Callable[[str, Cron, str, datetime], dict[str, object]]
TIMER = "inngest/scheduled.timer"


def overlap_limits(function: str, cron: Cron, flow: Flow) -> Flow:
    """Flow control with what a cron schedule adds for overlapping invocations.

    `skip` makes the function a singleton, `queue` limits it to one invocation at a time. Raises
    `InvalidOption` when the function's own rules say otherwise.
    """
    unkeyed = [limit for limit in flow.concurrency if limit.key is None and limit.scope is None]
    if cron.overlap != "skip" and flow.singleton is not None and flow.singleton.key is None:
        raise _contradiction(function, cron, "singleton", "skips or replaces what would overlap")
    if cron.overlap == "allow" or flow.singleton is not None:
        return flow
    if any(limit.limit > 1 for limit in unkeyed):
        raise _contradiction(function, cron, "concurrency", "lets several run at a time")
    if cron.overlap == "skip":
        if flow.batch is not None or flow.debounce is not None:
            raise InvalidOption(
                f"function {function}: cron=Cron(overlap='skip') cannot be combined with batch"
                " or debounce: give overlap='allow'"
            )
        return replace(flow, singleton=Singleton())
    return flow if unkeyed else replace(flow, concurrency=(*flow.concurrency, Concurrency(1)))


def _contradiction(function: str, cron: Cron, option: str, reason: str) -> InvalidOption:
    other = "overlap='skip'" if option == "singleton" else "overlap='allow'"
    return InvalidOption(
        f"function {function}: cron=Cron(overlap={cron.overlap!r}) and {option}=... contradict each"
        f" other: the {option} {reason}; give {other}, or remove the {option}"
    )


def schedules_of(
    function: Function, cron: Cron, job: JobDefinition
) -> Sequence[ScheduleDefinition]:
    """One Dagster schedule for each cron expression; raises `InvalidOption` for an invalid one."""
    schedules: list[ScheduleDefinition] = []
    for number, expression in enumerate(cron.parts, 1):
        try:
            schedules.append(_schedule(function, cron, expression, job, number, _scheduled_event))
        except DagsterInvalidDefinitionError:
            raise InvalidOption(
                f"function {function.name}: cron=Cron({expression!r}) is not a cron expression;"
                " write minute hour day month weekday, as in '0 6 * * 1-5'"
            ) from None
    return schedules


def remote_schedules(
    function: Function, schedules: Sequence[Schedule], job: JobDefinition
) -> Sequence[ScheduleDefinition]:
    """The Dagster schedules of a function that an application serves; each text counts once."""
    parts = [
        (schedule, part)
        for schedule in {each.text: each for each in schedules}.values()
        for part in schedule.cron.parts
    ]
    return [
        _schedule(function, schedule.cron, part, job, number, partial(timer_event, schedule))
        for number, (schedule, part) in enumerate(parts, 1)
    ]


def _schedule(
    function: Function,
    cron: Cron,
    expression: str,
    job: JobDefinition,
    number: int,
    make_event: MakeEvent,
) -> ScheduleDefinition:
    def tick(context: ScheduleEvaluationContext) -> SkipReason:
        time = context.scheduled_execution_time
        return SkipReason(send_scheduled(function.name, cron, expression, time, make_event))

    return ScheduleDefinition(
        name=f"{function.name}_schedule" + (f"_{number}" if number > 1 else ""),
        job=job,
        cron_schedule=expression,
        execution_timezone=cron.timezone,
        execution_fn=tick,
        default_status=DefaultScheduleStatus.RUNNING,
        description=(
            f"Sends {function.name} its event at '{expression}' ({cron.timezone})."
            f" Overlap: {cron.overlap}. Missed times: {cron.catch_up}."
        ),
    )


def send_scheduled(
    function: str, cron: Cron, expression: str, at: datetime, make_event: MakeEvent | None = None
) -> str:
    """Send the event of a scheduled time, unless it was missed and must not be caught up.

    `make_event` makes another event than that of Runyard's own schedules.

    Returns
    -------
    What was done, in words.
    """
    shown = f"{at:%Y-%m-%d %H:%M}"
    late = clock.now() - at
    if late > timedelta(seconds=seconds(cron.grace, "Cron(grace=...)")):
        if cron.catch_up == "none":
            return f"{shown} was missed by {late}, and is not caught up"
        if cron.catch_up == "last" and _has_later_time(cron, at):
            return f"{shown} was missed, and a later time stands for it"
    row = (make_event or _scheduled_event)(function, cron, expression, at)
    with database.connection() as connection:
        [sent] = fetch_all(connection, "send", events=as_json([row]), source="schedule")
    return f"sent {sent['id']} for {shown}"


def _has_later_time(cron: Cron, at: datetime) -> bool:
    """Whether a later time of the schedule has passed already."""
    return any(next_time(part, cron.timezone, at) <= clock.now() for part in cron.parts)


def _scheduled_event(function: str, cron: Cron, expression: str, at: datetime) -> dict[str, object]:
    data = {
        "function": function,
        "schedule": expression,
        "timezone": cron.timezone,
        "at": at.isoformat(),
    }
    event_id = f"schedule {function} {expression} {at.isoformat()}"
    row = {**internal_row(SCHEDULED, data), "id": event_id, "target": function}
    jitter = seconds(cron.jitter, "Cron(jitter=...)")
    return _later(row, _with_jitter(event_id, at, jitter)) if jitter else row


def timer_event(
    schedule: Schedule, function: str, _: Cron, expression: str, at: datetime
) -> dict[str, object]:
    """The event of Inngest's schedules, for a time and as much later as the jitter has it."""
    event_id = f"schedule {function} {expression} {at.isoformat()}"
    due = _with_jitter(event_id, at, schedule.jitter)
    data = {"cron": schedule.text, "scheduledAt": _shown(at), "fireAt": _shown(due)}
    row = {**internal_row(TIMER, data), "id": event_id, "target": function}
    return _later(row, due) if schedule.jitter else row


def _with_jitter(event_id: str, at: datetime, jitter: float) -> datetime:
    """A time up to so many seconds later: the same for an event, for a tick may be repeated."""
    share = int.from_bytes(sha256(event_id.encode()).digest()[:4], "big") / 2**32
    return at + timedelta(seconds=jitter * share)


def _later(row: dict[str, object], due: datetime) -> dict[str, object]:
    return {**row, "ts": int(due.timestamp() * 1_000)}


def _shown(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
