"""A cron schedule for each source that declares one and is switched on.

It sends `sync/requested`, so a scheduled load is queued, retried and visible like any other.
"""

from dagster import DefaultScheduleStatus, ScheduleDefinition, ScheduleEvaluationContext, SkipReason

from resources.sync.source_config import Source, sources
from runyard import send
from sensors.sync import sync_source


def _schedule(source: Source, cron: str) -> ScheduleDefinition:
    def tick(context: ScheduleEvaluationContext) -> SkipReason:
        at = context.scheduled_execution_time
        # The time is part of the event's id, so a tick that Dagster repeats sends nothing twice.
        [sent] = send(
            "sync/requested",
            {"source": source.name},
            id=f"sync {source.name} {at.isoformat()}",
            source="schedule",
        )
        return SkipReason(f"sent {sent}")

    return ScheduleDefinition(
        name=f"sync_{source.name}",
        job=sync_source.job,
        cron_schedule=cron,
        execution_timezone="UTC",
        execution_fn=tick,
        default_status=DefaultScheduleStatus.RUNNING,
        description=f"Sends sync/requested for the source {source.name}",
    )


schedules = [
    _schedule(source, source.schedule)
    for source in sources().values()
    if source.schedule and source.address() is not None
]
