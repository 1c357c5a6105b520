"""The places where Dagster has no public way. All of them are here; read in dagster 1.13.27, guarded by a contract test.

What each needs, and what it stands on:

- `create_dagster_tables`: the storages' own table creation, run once by the migration.
- `pooled_instance`: the engine of each storage, which `DagsterInstance.optimize_for_webserver` swaps for one with a pool, as we do; but that one
  sets a time limit for the session, which behind a pooler is anybody's.
- `silence_console`: the loggers that a job without loggers of its own gets.
- `silence_restarts`: the warning of a workspace whose code server cannot be reached.
- `execute_run`: the body of the task by which dagster-celery runs a job.
- `report_step_failures`: a STEP_FAILURE event for an op that went on although some of its invocations failed.
- `has_stock_io_manager`: the IO manager of a job that has none.
- `next_time`: the scheduler's own reading of cron expressions, so that ours agrees with it about daylight saving.
- `end_ticks_of_predecessor`: the ticks that a sensor daemon finds of one before it, and ends with a
  warning for each.
- `WakingSensorDaemon`: the sensor daemon's loop, which otherwise sleeps for 5 seconds.
"""

import logging
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, cast

from dagster import DagsterInstance, JobDefinition, OpExecutionContext
from dagster._cli.api import _execute_run_command_body, grpc_command
from dagster._core.definitions.dependency import NodeHandle
from dagster._core.definitions.job_definition import default_job_io_manager
from dagster._core.errors import DagsterCodeLocationNotFoundError, DagsterUserCodeUnreachableError
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.execution import context_creation_job
from dagster._core.execution.compute_logs import redirect_to_file
from dagster._core.execution.plan.handle import StepHandle
from dagster._core.execution.plan.objects import StepFailureData
from dagster._core.launcher import (
    CheckRunHealthResult,
    DefaultRunLauncher,
    LaunchRunContext,
    WorkerStatus,
)
from dagster._core.scheduler.instigation import InstigatorType, TickStatus
from dagster._core.storage.compute_log_manager import CapturedLogContext
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.sql import create_engine
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._core.workspace.context import IWorkspaceProcessContext, WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._daemon import sensor as sensor_loop
from dagster._daemon.controller import (
    create_daemons_from_instance,
    daemon_controller_from_instance,
    get_daemon_statuses,
)
from dagster._daemon.daemon import DaemonIterator, DagsterDaemon, SensorDaemon
from dagster._daemon.sensor import execute_sensor_iteration
from dagster._grpc.types import ExecuteRunArgs, ResumeRunArgs
from dagster._serdes import ConfigurableClassData, unpack_value
from dagster._utils.interrupts import capture_interrupts, setup_interrupt_handlers
from dagster._utils.schedules import schedule_execution_time_iterator
from dagster_postgres import PostgresEventLogStorage, PostgresRunStorage, PostgresScheduleStorage
from dagster_shared.error import SerializableErrorInfo
from sqlalchemy import Engine, make_url, text

from runyard.store import database

# Used elsewhere, under the names that they have in Dagster.
__all__ = [
    "GRPC_INFO_TAG",
    "CapturedLogContext",
    "CheckRunHealthResult",
    "ConfigurableClassData",
    "DagsterCodeLocationNotFoundError",
    "DagsterUserCodeUnreachableError",
    "DefaultRunLauncher",
    "ExecuteRunArgs",
    "LaunchRunContext",
    "LocalComputeLogManager",
    "ResumeRunArgs",
    "WorkerStatus",
    "WorkspaceFileTarget",
    "WorkspaceProcessContext",
    "capture_interrupts",
    "get_daemon_statuses",
    "grpc_command",
    "redirect_to_file",
    "setup_interrupt_handlers",
    "unpack_value",
]

READ_IN = "1.13.27"
_STATEMENT_TIMEOUT_MS = 60_000
_RECYCLE_SECONDS = 3600
_OVERFLOW = 20
# The loop comes round at once when a tick has ended; otherwise this often, for sensors that were switched on meanwhile.
_IDLE_SECONDS = 2.0


def create_dagster_tables(url: str) -> None:
    """Create Dagster's own tables in the database where they are missing, and bring old ones up to date."""
    for storage in (PostgresRunStorage, PostgresEventLogStorage, PostgresScheduleStorage):
        made = storage(postgres_url=url, should_autocreate_tables=True)
        made.upgrade()
        made.dispose()


@contextmanager
def pooled_instance() -> Iterator[DagsterInstance]:
    """The Dagster instance of DAGSTER_HOME with pooled connections: 83 queries a run then need no fresh connection each."""
    with DagsterInstance.get() as instance:
        pool_connections(instance)
        yield instance


def pool_connections(instance: DagsterInstance) -> None:
    """Let an instance keep its connections."""
    for storage in (instance.run_storage, instance.event_log_storage, instance.schedule_storage):
        cast(Any, storage)._engine = _pooled_engine(cast(Any, storage).postgres_url)


def _pooled_engine(url: str) -> Engine:
    """An engine that keeps its connections, and ends statements that go on for a minute where each connection is a session."""
    options = f"{make_url(url).query.get('options', '')} -c statement_timeout={_STATEMENT_TIMEOUT_MS}".strip()
    return create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_size=1,
        pool_recycle=_RECYCLE_SECONDS,
        max_overflow=_OVERFLOW,
        connect_args={} if database.is_pooled() else {"options": options},
    )


def refresh_connections(instance: DagsterInstance) -> None:
    """Make sure that the pooled connections are alive: after a restart of the database the old ones are thrown away."""
    for storage in (instance.run_storage, instance.event_log_storage, instance.schedule_storage):
        engine = cast(Any, storage)._engine
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except Exception:
            engine.dispose()


def silence_console() -> None:
    """Let runs of this process write to the event log alone; formatting every event for a terminal too is a tenth of a warm run's time."""
    vars(context_creation_job)["default_system_loggers"] = lambda _: []


def silence_restarts() -> None:
    """Let this process not warn, with the whole stack each time, that the code server cannot be reached: it is started again at every saved file."""
    warnings.filterwarnings(
        "ignore",
        message="Error loading repository location .*DagsterUserCodeUnreachableError",
        category=UserWarning,
    )


def execute_run(instance: DagsterInstance, run_id: str) -> bool:
    """Execute a run in this process and thread; return whether it ended well. Neither a failed nor a cancelled one raises."""
    ended_well = False

    def watch(event: DagsterEvent) -> None:
        nonlocal ended_well
        ended_well = ended_well or event.event_type == DagsterEventType.RUN_SUCCESS

    _execute_run_command_body(
        run_id=run_id, instance=instance, write_stream_fn=watch, set_exit_code_on_failure=False
    )
    return ended_well


def report_step_failures(context: OpExecutionContext, failed: Mapping[str, str]) -> None:
    """Mark ops of this run as failed, each with a message, after they have ended well for other invocations.

    'Re-execute from failure' takes every step with a failure event, and all that come after it.
    """
    for op_name, message in failed.items():
        event = DagsterEvent(
            event_type_value=DagsterEventType.STEP_FAILURE.value,
            job_name=context.job_name,
            step_handle=StepHandle(NodeHandle(op_name, None)),
            event_specific_data=StepFailureData(
                error=SerializableErrorInfo(message, [], "InvocationFailed"), user_failure_data=None
            ),
            message=f"An invocation failed in {op_name}: {message}",
            step_key=op_name,
        )
        context.instance.report_dagster_event(event, run_id=context.run_id, log_level=logging.ERROR)


def next_time(expression: str, timezone: str, after: datetime) -> datetime:
    """The first time of a cron expression after another time, in UTC: of two times of a zone Python compares what the clocks show, which go back in autumn."""
    times = (
        found.astimezone(UTC)
        for found in schedule_execution_time_iterator(after.timestamp(), expression, timezone)
    )
    return next(found for found in times if found > after.astimezone(UTC))


def has_stock_io_manager(job: JobDefinition) -> bool:
    """Whether a job of a repository has the IO manager that Dagster gives to one without any."""
    return job.resource_defs.get("io_manager") is default_job_io_manager


def end_ticks_of_predecessor(instance: DagsterInstance) -> int:
    """End the ticks that a daemon before this one has left in the middle; return how many.

    A tick that had not requested all of its runs is left: Dagster goes on with it.
    """
    count = 0
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1):
            if tick.status == TickStatus.STARTED and not tick.unsubmitted_run_ids_with_requests:
                why = "the daemon was stopped while this tick waited"
                instance.update_tick(tick.with_status(TickStatus.SKIPPED, skip_reason=why))
                count += 1
    return count


class _Woken(ThreadPoolExecutor):
    """An executor that says when a tick has ended."""

    def __init__(self, woken: threading.Event, workers: int, name: str) -> None:
        super().__init__(workers, thread_name_prefix=name)
        self._woken = woken

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(lambda _: self._woken.set())
        return future


class WakingSensorDaemon(SensorDaemon):
    """The sensor daemon, whose loop comes round as soon as a tick has ended instead of every 5 seconds.

    Sensors with the shortest interval there is (1 s; Dagster takes 0 for its default of 30) are not held back by it:
    they wait inside their ticks.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__({"use_threads": False})
        sensor_loop.is_under_min_interval = _is_under_min_interval
        self._woken = threading.Event()
        self._ticks = _Woken(self._woken, int(settings.get("num_workers") or 64), "sensor")
        self._submits = ThreadPoolExecutor(
            int(settings.get("num_submit_workers") or 4), thread_name_prefix="submit"
        )

    @classmethod
    def daemon_type(cls) -> str:
        return SensorDaemon.daemon_type()

    def __exit__(self, *error: Any) -> None:
        self._ticks.shutdown(wait=False, cancel_futures=True)
        self._submits.shutdown(wait=False, cancel_futures=True)
        super().__exit__(*error)

    def core_loop(
        self,
        workspace_process_context: IWorkspaceProcessContext[Any],
        shutdown_event: threading.Event,
    ) -> DaemonIterator:
        futures: dict[str, Future[Any]] = {}
        # Dagster takes a loop that ends for an error: the thread is a daemon and ends with the process.
        while True:
            self._woken.clear()
            yield from execute_sensor_iteration(
                workspace_process_context,
                self._logger,
                self._ticks,
                self._submits,
                sensor_tick_futures=futures,
            )
            yield None
            if not shutdown_event.is_set():
                self._woken.wait(_IDLE_SECONDS)


_stock_is_under_min_interval = sensor_loop.is_under_min_interval


def _is_under_min_interval(
    state: Any, remote_sensor: Any, minimum_allowed_min_interval: int | None = None
) -> bool:
    if remote_sensor.min_interval_seconds <= 1:
        return False
    return _stock_is_under_min_interval(state, remote_sensor, minimum_allowed_min_interval)


def _daemons(instance: DagsterInstance) -> Iterable[DagsterDaemon[Any]]:
    return [
        WakingSensorDaemon(instance.get_sensor_settings())
        if isinstance(daemon, SensorDaemon)
        else daemon
        for daemon in create_daemons_from_instance(instance)
    ]


def run_daemon(instance: DagsterInstance, workspace_load_target: Any) -> None:
    """Run all of Dagster's daemons in this process until it is interrupted, the sensor daemon with its loop that wakes at once."""
    with daemon_controller_from_instance(
        instance, workspace_load_target, gen_daemons=_daemons, log_level="warning"
    ) as controller:
        controller.check_daemon_loop()
