"""What a project puts into its Definitions beside its functions: sensors over ended runs, and a replay by partitions.

::

    defs = Definitions(jobs=[..., *operations.jobs], sensors=[..., *operations.sensors], ...)
"""

from dagster import (
    DagsterRunStatus,
    DailyPartitionsDefinition,
    DefaultSensorStatus,
    Field,
    OpExecutionContext,
    RunStatusSensorContext,
    RunStatusSensorDefinition,
    SkipReason,
    in_process_executor,
    job,
    op,
)

from runyard.dagster_adapter import reaper
from runyard.engine import bulk

_SECONDS = 30


def _ended(name: str, status: DagsterRunStatus, what: str) -> RunStatusSensorDefinition:
    def look(context: RunStatusSensorContext) -> SkipReason:
        run_id = context.dagster_run.run_id
        left = reaper.settle_orphaned(context.instance, run_id)
        return SkipReason(
            f"run {run_id}: {'its invocations were settled' if left else 'nothing was left to settle'}"
        )

    return RunStatusSensorDefinition(
        name=name,
        run_status=status,
        run_status_sensor_fn=look,
        minimum_interval_seconds=_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        description=f"Settles the invocations of a run that {what} outside of its ops, where no worker was left to do so.",
    )


@op(
    config_schema={
        "function": Field(str, description="The function whose invocations are replayed."),
        "status": Field(
            [str],
            is_required=False,
            default_value=[],
            description="Only those with one of these statuses; everything that is final by default.",
        ),
        "keep_steps": Field(
            bool,
            is_required=False,
            default_value=False,
            description="Keep the steps that are done; from the start otherwise.",
        ),
    },
    description="Run a day's invocations of a function again, as new invocations.",
)
def replay_invocations(context: OpExecutionContext) -> None:
    """Replay what came within the run's partition."""
    window = context.partition_time_window
    config = context.op_config
    selection = bulk.Selection(
        function=config["function"],
        status=tuple(config["status"]),
        since=window.start,
        until=window.end,
    )
    last = None
    for last in bulk.perform(selection, "replay", keep_steps=config["keep_steps"]):
        context.log.info(f"{last.done} of {last.total}")
    if last is not None:
        context.add_output_metadata({"replayed": last.done, "bulk": last.bulk})


@job(
    executor_def=in_process_executor,
    partitions_def=DailyPartitionsDefinition(start_date="2026-01-01", end_offset=1),
    description="Replay a function's invocations, a partition for each day on which their events came: a backfill runs everything again since then.",
)
def replay_function() -> None:
    """A backfill of this job is a replay over a range of days."""
    replay_invocations()


sensors = [
    _ended("settle_failed_runs", DagsterRunStatus.FAILURE, "failed"),
    _ended("settle_canceled_runs", DagsterRunStatus.CANCELED, "was cancelled"),
]
jobs = [replay_function]
