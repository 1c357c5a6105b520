"""Refreshes analytics every hour, for the days with new events or finished invocations.

A late event refreshes its own day.
"""

from collections.abc import Iterator
from datetime import timedelta

from dagster import (
    AssetSelection,
    DefaultScheduleStatus,
    RunRequest,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SkipReason,
    define_asset_job,
    in_process_executor,
)

from assets.analytics import GROUP, days
from runyard.engine import rollups

_WITHIN = timedelta(hours=26)

refresh_analytics = define_asset_job(
    "refresh_analytics",
    AssetSelection.groups(GROUP),
    partitions_def=days,
    executor_def=in_process_executor,
    description="Aggregate a day; a backfill aggregates all days again",
)


def _days(context: ScheduleEvaluationContext) -> Iterator[RunRequest | SkipReason]:
    at = context.scheduled_execution_time
    changed = [str(day) for day in rollups.changed_days(_WITHIN) if day >= days.start.date()]
    for day in changed:
        yield RunRequest(run_key=f"{day} {at:%Y-%m-%dT%H}", partition_key=day)
    if not changed:
        yield SkipReason("no new events and no finished invocations")


schedules = [
    ScheduleDefinition(
        name="refresh_analytics_hourly",
        job=refresh_analytics,
        cron_schedule="5 * * * *",
        execution_timezone="UTC",
        execution_fn=_days,
        default_status=DefaultScheduleStatus.RUNNING,
    )
]
