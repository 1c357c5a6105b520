"""What a project adds to its Definitions: sensors for what is left undone, a replay by partitions.

::

    defs = Definitions(jobs=[..., *builtin.jobs], sensors=[..., *builtin.sensors], ...)
"""

from dagster import (
    DagsterRunStatus,
    DailyPartitionsDefinition,
    DefaultSensorStatus,
    Field,
    OpExecutionContext,
    RunStatusSensorContext,
    RunStatusSensorDefinition,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    in_process_executor,
    job,
    op,
)

from runyard.dagster_adapter import maintenance, reaper
from runyard.dagster_adapter.tags import KIND, MAINTENANCE_SENSOR
from runyard.engine import bulk

_INTERVAL_SECONDS = 30


def _settling_sensor(name: str, status: DagsterRunStatus, what: str) -> RunStatusSensorDefinition:
    def settle(context: RunStatusSensorContext) -> SkipReason:
        run_id = context.dagster_run.run_id
        settled = reaper.settle_orphaned(context.instance, run_id)
        outcome = "its invocations were settled" if settled else "nothing was left to settle"
        return SkipReason(f"run {run_id}: {outcome}")

    return RunStatusSensorDefinition(
        name=name,
        run_status=status,
        run_status_sensor_fn=settle,
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        description=(
            f"Settles the invocations of a run that {what} outside its ops,"
            " where no worker was left to do it."
        ),
    )


def _maintain(context: SensorEvaluationContext) -> SkipReason:
    done = maintenance.run_due(lambda: context.instance)
    return SkipReason("; ".join(done) or "nothing was to be done")


@op(
    config_schema={
        "function": Field(str, description="The function whose invocations are replayed."),
        "status": Field(
            [str],
            is_required=False,
            default_value=[],
            description="Only invocations with one of these statuses; all final ones by default.",
        ),
        "keep_steps": Field(
            bool,
            is_required=False,
            default_value=False,
            description="Keep completed steps instead of starting over.",
        ),
    },
    description="Replay a day's invocations of a function as new invocations.",
)
def replay_invocations(context: OpExecutionContext) -> None:
    """Replay the invocations whose events came within the run's partition."""
    window = context.partition_time_window
    config = context.op_config
    selection = bulk.Selection(
        function=config["function"],
        status=tuple(config["status"]),
        since=window.start,
        until=window.end,
    )
    progress = None
    for progress in bulk.perform(selection, "replay", keep_steps=config["keep_steps"]):
        context.log.info(f"{progress.done} of {progress.total}")
    if progress is not None:
        context.add_output_metadata({"replayed": progress.done, "bulk": progress.bulk})


@job(
    executor_def=in_process_executor,
    partitions_def=DailyPartitionsDefinition(start_date="2026-01-01", end_offset=1),
    description=(
        "Replay a function's invocations; each partition is the day on which their events came."
        " A backfill replays a range of days."
    ),
)
def replay_function() -> None:
    """A backfill of this job is a replay over a range of days."""
    replay_invocations()


sensors = [
    _settling_sensor("settle_failed_runs", DagsterRunStatus.FAILURE, "failed"),
    _settling_sensor("settle_canceled_runs", DagsterRunStatus.CANCELED, "was cancelled"),
    SensorDefinition(
        name="runyard_maintenance",
        tags={KIND: MAINTENANCE_SENSOR},
        evaluation_fn=_maintain,
        minimum_interval_seconds=1,
        default_status=DefaultSensorStatus.RUNNING,
        description=(
            "Matches events with waits, releases what lost workers held, and cancels what has timed"
            " out. The daemon of `runyard up` does all this itself, and does not evaluate this"
            " sensor."
        ),
    ),
]
jobs = [replay_function]
