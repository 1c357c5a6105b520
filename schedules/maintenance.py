"""Nightly maintenance, one job after the other (UTC)."""

from typing import Any

from dagster import DefaultScheduleStatus, ScheduleDefinition, define_asset_job, in_process_executor

from assets.maintenance import system_report
from pipelines.maintenance import sweep_events, sweep_files, sweep_runs, sweep_suppressions

report_system = define_asset_job(
    "report_system",
    [system_report],
    executor_def=in_process_executor,
    description="Report on the system's health",
)
_TIMES: dict[str, Any] = {
    "10 2": sweep_events,
    "30 2": sweep_runs,
    "50 2": sweep_files,
    "0 3": sweep_suppressions,
    "10 3": report_system,
}

schedules = [
    ScheduleDefinition(
        job=job,
        cron_schedule=f"{at} * * *",
        execution_timezone="UTC",
        default_status=DefaultScheduleStatus.RUNNING,
        name=f"{job.name}_nightly",
    )
    for at, job in _TIMES.items()
]
