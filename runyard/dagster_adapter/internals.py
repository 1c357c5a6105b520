"""Every private name of Dagster that Runyard uses; no other module imports `dagster._`.

Read in Dagster 1.13.27. tests/unit/test_dagster_contract.py checks for each name what is relied on.

The event log, and the storages behind it:

- `ASSET_EVENTS`, `ASSET_CHECK_EVENTS`, `PIPELINE_EVENTS`: the kinds of events that our event log
  storage does not collect, but writes at once.
- `SqlEventLogStorageTable`: the table of the event log.
- `pg_url_from_config`, `get_token_provider_from_config`: read the settings of dagster-postgres's
  storages, whose own `from_config_value` creates no object of a derived class. Of the storage,
  `_event_to_row` makes the row of an event.
- `StepFailureData`, `StepHandle`, `NodeHandle`, `SerializableErrorInfo`: the parts of a
  STEP_FAILURE event for an op that succeeded although some of its invocations failed.
- `_execute_run_command_body`: executes a run, as the task of dagster-celery does. It reads the run
  by `DagsterInstance.get_run_by_id`, which `execute_run` answers until the run has started.
- `context_creation_job`: its `default_system_loggers` are the loggers of a job without its own.
- `scoped_resources_builder`: a module that derives a class from a new `namedtuple` whenever an op
  or a hook is given its resources.
- `default_job_io_manager`: the IO manager of a job that is given none.
- `DagsterInstance.optimize_for_webserver` swaps the engine of each storage for a pooled one, as
  `pool_connections` does, but with one for all three. Dagster's engine also sets a timeout for the
  session, which behind a connection pooler may be anyone's.
- `SqlRunStorage.has_run_stats_index_cols`, `get_execution_plan_snapshot`: asked several times a
  run, and remembered by `pool_connections`.

The run launcher and what it hands to the workers:

- `LaunchRunContext`, `CheckRunHealthResult`, `WorkerStatus`: argument and results of a launcher.
- `GRPC_INFO_TAG`: marks a run that the default launcher gave a process of its own.
- `ExecuteRunArgs`, `ResumeRunArgs`, `unpack_value`: the arguments of dagster-celery's tasks.
- `ConfigurableClassData`: what a class named in `dagster.yaml` is created with.

The logs of a run's standard output and error:

- `LocalComputeLogManager`: the base class of ours.
- `CapturedLogContext`: what `capture_logs` yields.
- `redirect_to_file`: writes a stream to a file.

The daemon:

- `daemon_controller_from_instance`, `create_daemons_from_instance`, `DagsterDaemon`: runs Dagster's
  daemons in this process, with one of them replaced.
- `SensorDaemon`, `DaemonIterator`, `execute_sensor_iteration`, `IWorkspaceProcessContext`: the
  sensor daemon, whose own loop sleeps for 5 seconds between iterations.
- `sensor_loop`, the module `dagster._daemon.sensor`: its `is_under_min_interval` is replaced.
- `InstigatorType`, `TickStatus`: finds ticks that an earlier daemon did not end; Dagster would end
  them with a warning for each.
- `get_daemon_statuses`: whether the daemon has sent heartbeats.
- `schedule_execution_time_iterator`: how the scheduler reads a cron expression, so that Runyard
  agrees with it about daylight saving time.
- `capture_interrupts`, `setup_interrupt_handlers`: SIGTERM and SIGINT end the daemon alike.
- `DagsterUserCodeUnreachableError`, `DagsterCodeLocationNotFoundError`: what is raised while the
  code server restarts.

The code server and the web process:

- `grpc_command`: the command that serves a code location.
- `WorkspaceFileTarget`, `WorkspaceProcessContext`: loads the code locations of a workspace file.
"""

import logging
import threading
import warnings
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache, wraps
from typing import Any

from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    JobDefinition,
    OpExecutionContext,
)
from dagster._cli.api import _execute_run_command_body, grpc_command
from dagster._core.definitions import scoped_resources_builder
from dagster._core.definitions.dependency import NodeHandle
from dagster._core.definitions.job_definition import default_job_io_manager
from dagster._core.errors import DagsterCodeLocationNotFoundError, DagsterUserCodeUnreachableError
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS, PIPELINE_EVENTS
from dagster._core.execution import context_creation_job
from dagster._core.execution.compute_logs import redirect_to_file
from dagster._core.execution.plan.handle import StepHandle
from dagster._core.execution.plan.objects import StepFailureData
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._core.scheduler.instigation import InstigatorType, TickStatus
from dagster._core.storage.compute_log_manager import CapturedLogContext
from dagster._core.storage.event_log import SqlEventLogStorageTable
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
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
from dagster_postgres.utils import get_token_provider_from_config, pg_url_from_config
from dagster_shared.error import SerializableErrorInfo
from sqlalchemy import Engine, create_engine, make_url, text

from runyard.store import database

# Used by other modules, under the names that they have in Dagster.
__all__ = [
    "ASSET_CHECK_EVENTS",
    "ASSET_EVENTS",
    "GRPC_INFO_TAG",
    "PIPELINE_EVENTS",
    "CapturedLogContext",
    "CheckRunHealthResult",
    "ConfigurableClassData",
    "DagsterCodeLocationNotFoundError",
    "DagsterUserCodeUnreachableError",
    "ExecuteRunArgs",
    "LaunchRunContext",
    "LocalComputeLogManager",
    "ResumeRunArgs",
    "SqlEventLogStorageTable",
    "WorkerStatus",
    "WorkspaceFileTarget",
    "WorkspaceProcessContext",
    "capture_interrupts",
    "get_daemon_statuses",
    "get_token_provider_from_config",
    "grpc_command",
    "pg_url_from_config",
    "redirect_to_file",
    "setup_interrupt_handlers",
    "unpack_value",
]

READ_IN = "1.13.27"
_STATEMENT_TIMEOUT_MS = 60_000
_POOL_SIZE = 3
_RECYCLE_SECONDS = 3600
_OVERFLOW = 20
_MOST_ANSWERS = 256
# The sensor loop starts its next iteration as soon as a tick has ended. Without ticks it does so
# this often, for sensors that were switched on meanwhile.
_IDLE_SECONDS = 2.0


def create_dagster_tables(url: str) -> None:
    """Create Dagster's own tables in the database, or upgrade them."""
    for storage_class in (PostgresRunStorage, PostgresEventLogStorage, PostgresScheduleStorage):
        storage = storage_class(postgres_url=url, should_autocreate_tables=True)
        storage.upgrade()
        storage.dispose()


@contextmanager
def pooled_instance() -> Iterator[DagsterInstance]:
    """The Dagster instance of DAGSTER_HOME with pooled connections.

    Without a pool, most of a run's queries open a connection of their own.
    """
    with DagsterInstance.get() as instance:
        pool_connections(instance)
        yield instance


def pool_connections(instance: DagsterInstance) -> None:
    """Let an instance keep its connections open, and what it has learned about the database."""
    engines: dict[str, Engine] = {}
    for storage in _storages(instance):
        url = storage.postgres_url
        storage._engine = engines[url] = engines.get(url) or _pooled_engine(url)
    _ask_once(instance.run_storage)


def _storages(instance: DagsterInstance) -> Iterable[Any]:
    return instance.run_storage, instance.event_log_storage, instance.schedule_storage


def _pooled_engine(url: str) -> Engine:
    """An engine that keeps its connections.

    Statements time out after a minute, unless a connection pooler shares the sessions.
    """
    timeout = f"-c statement_timeout={_STATEMENT_TIMEOUT_MS}"
    options = f"{make_url(url).query.get('options', '')} {timeout}".strip()
    return create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_size=_POOL_SIZE,
        pool_recycle=_RECYCLE_SECONDS,
        max_overflow=_OVERFLOW,
        connect_args={} if database.is_pooled() else {"options": options},
    )


def _ask_once(run_storage: Any) -> None:
    """Let a run storage remember answers of the database that never change.

    Dagster asks whether the table of runs has certain columns whenever it reads or writes a run,
    and for the snapshot of its plan, whose id is a hash of it, whenever it executes one.
    """
    run_storage.has_run_stats_index_cols = _remembering(run_storage.has_run_stats_index_cols)
    run_storage.get_execution_plan_snapshot = _remembering(run_storage.get_execution_plan_snapshot)


def _remembering(question: Callable[..., Any]) -> Callable[..., Any]:
    """A function that remembers answers, but asks again after a false one: it may become true."""
    answers: dict[tuple[Any, ...], Any] = {}

    @wraps(question)
    def ask(*arguments: Any) -> Any:
        answer = answers.get(arguments) or question(*arguments)
        if answer:
            if len(answers) >= _MOST_ANSWERS:
                answers.clear()
            answers[arguments] = answer
        return answer

    return ask


def refresh_connections(instance: DagsterInstance) -> None:
    """Discard pooled connections that no longer work, as after a restart of the database."""
    for engine in {storage._engine for storage in _storages(instance)}:
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except Exception:
            engine.dispose()


def silence_console() -> None:
    """Let runs of this process write to the event log alone.

    Formatting every event for a terminal as well takes a tenth of a warm run's time.
    """
    vars(context_creation_job)["default_system_loggers"] = lambda _: []


def reuse_resource_classes() -> None:
    """Let this process create the class of a set of resources once, not five times for each op."""
    create_class = lru_cache(_MOST_ANSWERS)(namedtuple)

    def reused(name: str, keys: Iterable[str]) -> type:
        return create_class(name, tuple(keys))

    vars(scoped_resources_builder)["namedtuple"] = reused


def silence_restarts() -> None:
    """Hide this process's warning, with a traceback, that the code server is unreachable.

    The code server restarts whenever a file is saved.
    """
    warnings.filterwarnings(
        "ignore",
        message="Error loading repository location .*DagsterUserCodeUnreachableError",
        category=UserWarning,
    )


def execute_run(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Execute a run, just read, in this process and thread; return whether it succeeded.

    Neither a failed nor a cancelled run raises.
    """
    succeeded = False
    started = False
    read = instance.get_run_by_id

    def read_after_start(run_id: str) -> DagsterRun | None:
        return run if run_id == run.run_id and not started else read(run_id)

    def watch(event: DagsterEvent) -> None:
        nonlocal succeeded, started
        started = True
        succeeded = succeeded or event.event_type == DagsterEventType.RUN_SUCCESS

    # Dagster reads the run three times until its first event has been stored, in case loading the
    # code has taken long.
    vars(instance)["get_run_by_id"] = read_after_start
    try:
        _execute_run_command_body(
            run_id=run.run_id,
            instance=instance,
            write_stream_fn=watch,
            set_exit_code_on_failure=False,
        )
    finally:
        del vars(instance)["get_run_by_id"]
    return succeeded


def report_step_failures(context: OpExecutionContext, failed: Mapping[str, str]) -> None:
    """Mark ops of this run as failed, each with a message, although they ended without an error.

    'Re-execute from failure' selects every step with a failure event, and all steps after it.
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
    """The first time of a cron expression after another time, in UTC.

    Within one zone Python compares the time on the clock, which goes back in autumn.
    """
    times = (
        time.astimezone(UTC)
        for time in schedule_execution_time_iterator(after.timestamp(), expression, timezone)
    )
    return next(time for time in times if time > after.astimezone(UTC))


def has_stock_io_manager(job: JobDefinition) -> bool:
    """Whether a job of a repository has the IO manager that Dagster gives to a job without one."""
    return job.resource_defs.get("io_manager") is default_job_io_manager


def end_stale_ticks(instance: DagsterInstance) -> int:
    """End the sensor ticks that an earlier daemon left unfinished; return how many.

    A tick that had not yet requested all of its runs is left alone: Dagster resumes it.
    """
    count = 0
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1):
            if tick.status == TickStatus.STARTED and not tick.unsubmitted_run_ids_with_requests:
                reason = "the daemon was stopped while this tick was waiting"
                instance.update_tick(tick.with_status(TickStatus.SKIPPED, skip_reason=reason))
                count += 1
    return count


class _TickExecutor(ThreadPoolExecutor):
    """An executor that sets an event when a tick has ended."""

    def __init__(self, ended: threading.Event, workers: int) -> None:
        super().__init__(workers, thread_name_prefix="sensor")
        self._ended = ended

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(lambda _: self._ended.set())
        return future


class WakingSensorDaemon(SensorDaemon):
    """The sensor daemon, with a loop that continues when a tick has ended, not every 5 seconds.

    Sensors with the shortest possible interval (1 s; Dagster reads 0 as its default of 30) are not
    held back by it: they wait inside their ticks.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__({"use_threads": False})
        sensor_loop.is_under_min_interval = _is_under_min_interval
        self._tick_ended = threading.Event()
        self._ticks = _TickExecutor(self._tick_ended, int(settings.get("num_workers") or 64))
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
        # Dagster treats a loop that ends as an error: this thread is a daemon thread, and ends with
        # the process.
        while True:
            self._tick_ended.clear()
            yield from execute_sensor_iteration(
                workspace_process_context,
                self._logger,
                self._ticks,
                self._submits,
                sensor_tick_futures=futures,
            )
            yield None
            if not shutdown_event.is_set():
                self._tick_ended.wait(_IDLE_SECONDS)


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
    """Run all of Dagster's daemons in this process until it is interrupted.

    The sensor daemon is a `WakingSensorDaemon`.
    """
    with daemon_controller_from_instance(
        instance, workspace_load_target, gen_daemons=_daemons, log_level="warning"
    ) as controller:
        controller.check_daemon_loop()
