"""Every private name of Dagster that Runyard uses; no other module imports `dagster._`.

Read in Dagster 1.13.27. tests/unit/test_dagster_contract.py checks for each name what is relied on.

The event log, and the storages behind it:

- `ASSET_EVENTS`, `ASSET_CHECK_EVENTS`, `PIPELINE_EVENTS`: the kinds of events that our event log
  storage does not collect, but writes at once.
- `SqlEventLogStorageTable`: the table of the event log.
- `ALEMBIC_SCRIPTS_LOCATION`: the migrations of Dagster's tables, whose newest one is compared with
  that of the database. `create_dagster_tables` calls what `DagsterInstance.upgrade` does.
- `pg_url_from_config`, `get_token_provider_from_config`: read the settings of dagster-postgres's
  storages, whose own `from_config_value` creates no object of a derived class. Of the storage,
  `_event_to_row` makes the row of an event.
- `StepFailureData`, `StepHandle`, `NodeHandle`, `SerializableErrorInfo`: the parts of a
  STEP_FAILURE event for an op that succeeded although some of its invocations failed. The last is
  also the error of a failed tick, and how the log holds the error with which a run failed.
- `_execute_run_command_body`: executes a run, as the task of dagster-celery does. It reads the run
  by `DagsterInstance.get_run_by_id`, which `execute_run` answers until the run has started.
- `context_creation_job`: its `default_system_loggers` are the loggers of a job without its own.
- `scoped_resources_builder`: a module that derives a class from a new `namedtuple` whenever an op
  or a hook is given its resources.
- `default_job_io_manager`: the IO manager of a job that is given none.
- `DagsterInstance.optimize_for_webserver` swaps the engine of each storage for a pooled one, as
  `pool_connections` does, but with one for all three. Dagster's engine also sets a timeout for the
  session, which behind a connection pooler may be anyone's.
- `DagsterInstance.get_yaml_python_handlers`: called for each run, and `logging.config` must not be
  used while other threads log.
- `SqlRunStorage.has_run_stats_index_cols`, `get_execution_plan_snapshot`: asked several times a
  run, and remembered by `pool_connections`.

The run launcher and what it hands to the workers:

- `LaunchRunContext`, `CheckRunHealthResult`, `WorkerStatus`: argument and results of a launcher.
- `GRPC_INFO_TAG`: marks a run that the default launcher gave a process of its own.
- `CanCancelExecutionRequest`, `CanCancelExecutionResult`, `deserialize_value`: ask the code server
  whether the process of such a run is alive; `DefaultRunLauncher` has the client for that.
- `ExecuteRunArgs`, `ResumeRunArgs`, `pack_value`, `unpack_value`: the arguments of dagster-celery's
  tasks.
- `ConfigurableClassData`: what a class named in `dagster.yaml` is created with.

The logs of a run's standard output and error:

- `CloudStorageComputeLogManager`: the base class of ours. Dagster's web server has a download of
  what it keeps elsewhere, which the base class `ComputeLogManager` has not.
- `LocalComputeLogManager`: has the place of a downloaded file.
- `local_compute_log_manager`: a module by whose `mirror_stream_to_file` all managers of Dagster
  write to a file; processes of its own copy that to the terminal. `redirect_to_file` only writes.
- `NoOpComputeLogManager`: captures nothing. `DagsterInstance._compute_log_manager` is the manager,
  once it has been asked for.
- `CapturedLogContext`: what `capture_logs` yields.
- `CapturedLogData`, `ComputeIOType`: what is read of it, and of which stream.
- `CapturedLogSubscription`: a page that shows it while it grows.
- `ConfigurableClass`: a class that `dagster.yaml` may name.

The daemon:

- `daemon_controller_from_instance`, `create_daemons_from_instance`, `DagsterDaemon`: runs Dagster's
  daemons in this process, with one of them replaced.
- `SensorDaemon`, `DaemonIterator`, `IWorkspaceProcessContext`: the sensor daemon, which goes on
  evaluating all sensors but those of functions.
- `RemoteRepository`, `RemoteSensor`: the loaded code; `get_sensors` is replaced, so that the sensor
  daemon does not see the sensors of functions.
- `GrpcServerCodeLocation`: tells whether a code server has other code than was loaded from it. The
  controller's `check_workspace_freshness` is replaced, which would load all code every minute.
- `RunDomain`: builds the runs that a sensor launches, and stores the snapshots they refer to.
- `make_new_run_id`: the id of such a run.
- `EngineEventData`, `serializable_error_info_from_exc_info`: the log of a run that could not be
  launched.
- `TickData`, `InstigatorType`, `TickStatus`, `serialize_value`: the row of a tick.
  `DagsterInstance.get_tick_retention_settings`, which takes the second and returns the third, says
  how long `dagster.yaml` keeps ticks.
- `CODE_LOCATION_TAG`, `RUN_KEY_TAG`, `TICK_ID_TAG`: tags of a run that a sensor has launched.
- `get_daemon_statuses`: whether the daemon has sent heartbeats.
- `schedule_execution_time_iterator`: how the scheduler reads a cron expression, so that Runyard
  agrees with it about daylight saving time.
- `capture_interrupts`, `setup_interrupt_handlers`: SIGTERM and SIGINT end the daemon alike.
- `DagsterUserCodeUnreachableError`, `DagsterCodeLocationNotFoundError`: what is raised while the
  code server restarts.

The code server and the web process:

- `grpc_command`: the command that serves a code location.
- `grpc_api`, `daemon_controller`: the modules whose `configure_loggers` sets up the loggers of that
  command and of the daemon, which `leave_loggers_alone` prevents.
- `WorkspaceFileTarget`, `WorkspaceProcessContext`: loads the code locations of a workspace file.
- `WorkspaceLoadTarget`, `CodeLocationOrigin`, `GrpcServerCodeLocationOrigin`: names a code location
  beside that file.
  `_load_location`, `_start_watch_thread`, `_lock`, `_current_workspace` of the context add it to
  those that are loaded: `refresh_workspace` would load all of them again.
"""

import logging
import threading
import time
import warnings
from collections import namedtuple
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, cast

from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultRunLauncher,
    JobDefinition,
    OpExecutionContext,
)
from dagster._cli import api as grpc_api
from dagster._cli.api import _execute_run_command_body, grpc_command
from dagster._core.definitions import scoped_resources_builder
from dagster._core.definitions.dependency import NodeHandle
from dagster._core.definitions.job_definition import default_job_io_manager
from dagster._core.errors import DagsterCodeLocationNotFoundError, DagsterUserCodeUnreachableError
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS, PIPELINE_EVENTS, EngineEventData
from dagster._core.execution import context_creation_job
from dagster._core.execution.compute_logs import redirect_to_file
from dagster._core.execution.plan.handle import StepHandle
from dagster._core.execution.plan.objects import StepFailureData
from dagster._core.instance.runs.run_domain import RunDomain
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._core.remote_origin import CodeLocationOrigin, GrpcServerCodeLocationOrigin
from dagster._core.remote_representation.code_location import GrpcServerCodeLocation
from dagster._core.remote_representation.external import RemoteRepository, RemoteSensor
from dagster._core.scheduler.instigation import InstigatorType, TickData, TickStatus
from dagster._core.storage import local_compute_log_manager
from dagster._core.storage.cloud_storage_compute_log_manager import CloudStorageComputeLogManager
from dagster._core.storage.compute_log_manager import (
    CapturedLogContext,
    CapturedLogData,
    CapturedLogSubscription,
    ComputeIOType,
)
from dagster._core.storage.event_log import SqlEventLogStorageTable
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from dagster._core.storage.sql import ALEMBIC_SCRIPTS_LOCATION
from dagster._core.storage.tags import (
    CODE_LOCATION_TAG,
    GRPC_INFO_TAG,
    RUN_KEY_TAG,
    TICK_ID_TAG,
)
from dagster._core.utils import make_new_run_id
from dagster._core.workspace.context import IWorkspaceProcessContext, WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget, WorkspaceLoadTarget
from dagster._daemon import controller as daemon_controller
from dagster._daemon.controller import (
    create_daemons_from_instance,
    daemon_controller_from_instance,
    get_daemon_statuses,
)
from dagster._daemon.daemon import DaemonIterator, DagsterDaemon, SensorDaemon
from dagster._grpc.types import (
    CanCancelExecutionRequest,
    CanCancelExecutionResult,
    ExecuteRunArgs,
    ResumeRunArgs,
)
from dagster._serdes import (
    ConfigurableClass,
    ConfigurableClassData,
    deserialize_value,
    pack_value,
    serialize_value,
    unpack_value,
)
from dagster._utils.error import serializable_error_info_from_exc_info
from dagster._utils.interrupts import capture_interrupts, setup_interrupt_handlers
from dagster._utils.schedules import schedule_execution_time_iterator
from dagster_postgres import PostgresEventLogStorage, PostgresRunStorage, PostgresScheduleStorage
from dagster_postgres.utils import get_token_provider_from_config, pg_url_from_config
from dagster_shared.error import SerializableErrorInfo
from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.event import listen
from sqlalchemy.exc import DisconnectionError

from runyard.dagster_adapter.tags import APP, FUNCTION_SENSOR, FUNCTIONS, KIND
from runyard.store import database

# Used by other modules, under the names that they have in Dagster.
__all__ = [
    "ALEMBIC_SCRIPTS_LOCATION",
    "ASSET_CHECK_EVENTS",
    "ASSET_EVENTS",
    "GRPC_INFO_TAG",
    "PIPELINE_EVENTS",
    "RUN_KEY_TAG",
    "TICK_ID_TAG",
    "CapturedLogContext",
    "CapturedLogData",
    "CapturedLogSubscription",
    "CheckRunHealthResult",
    "CloudStorageComputeLogManager",
    "CodeLocationOrigin",
    "ComputeIOType",
    "ConfigurableClass",
    "ConfigurableClassData",
    "DagsterCodeLocationNotFoundError",
    "DagsterUserCodeUnreachableError",
    "ExecuteRunArgs",
    "IWorkspaceProcessContext",
    "InstigatorType",
    "LaunchRunContext",
    "LocalComputeLogManager",
    "ResumeRunArgs",
    "SerializableErrorInfo",
    "SqlEventLogStorageTable",
    "WorkerStatus",
    "WorkspaceFileTarget",
    "WorkspaceLoadTarget",
    "WorkspaceProcessContext",
    "capture_interrupts",
    "get_daemon_statuses",
    "get_token_provider_from_config",
    "grpc_api",
    "grpc_command",
    "leave_loggers_alone",
    "pack_value",
    "pg_url_from_config",
    "serialize_value",
    "setup_interrupt_handlers",
    "unpack_value",
]

READ_IN = "1.13.27"
_STATEMENT_TIMEOUT_MS = 60_000
_POOL_SIZE = 3
_RECYCLE_SECONDS = 3600
_OVERFLOW = 20
_MOST_ANSWERS = 256
_ALIVE_SECONDS = 3
_FRESH_SECONDS = 60.0  # as Dagster's controller
# Given the daemon's loaded code, runs until the process ends.
Beside = Callable[[IWorkspaceProcessContext[Any]], None]


def create_dagster_tables(url: str, options: str = "") -> None:
    """Create Dagster's own tables in the database, or do what `dagster instance migrate` does.

    `options` are settings for the sessions of this work, such as `-c lock_timeout=2s`.
    """
    parts = make_url(url)
    options = f"{parts.query.get('options', '')} {options}".strip()
    url = parts.update_query_dict({"options": options}).render_as_string(hide_password=False)
    runs = PostgresRunStorage(postgres_url=url, should_autocreate_tables=True)
    runs.upgrade()
    runs.migrate()
    events = PostgresEventLogStorage(postgres_url=url, should_autocreate_tables=True)
    events.upgrade()
    events.reindex_assets()
    schedules = PostgresScheduleStorage(postgres_url=url, should_autocreate_tables=True)
    schedules.upgrade()
    schedules.migrate()
    for storage in (runs, events, schedules):
        storage.dispose()


@contextmanager
def pooled_instance(size: int = _POOL_SIZE) -> Iterator[DagsterInstance]:
    """The Dagster instance of DAGSTER_HOME with pooled connections, `size` of which stay open.

    Without a pool, most of a run's queries open a connection of their own. All are closed in the
    end, which Dagster itself leaves to the garbage collector.
    """
    engines: set[Engine] = set()
    try:
        with DagsterInstance.get() as instance:
            pool_connections(instance, size)
            engines.update(storage._engine for storage in storages(instance))
            yield instance
    finally:
        for engine in engines:
            engine.dispose()


def pool_connections(instance: DagsterInstance, size: int = _POOL_SIZE) -> None:
    """Let an instance keep its connections open, and what it has learned about the database."""
    engines: dict[str, Engine] = {}
    for storage in storages(instance):
        url = storage.postgres_url
        storage._engine = engines[url] = engines.get(url) or _pooled_engine(url, size)
    _ask_once(instance.run_storage)


def storages(instance: DagsterInstance) -> Iterable[Any]:
    """The three storages of an instance: of runs, of their logs, and of schedules and ticks."""
    return instance.run_storage, instance.event_log_storage, instance.schedule_storage


def ask_storage(storage: Any, question: str) -> Any:
    """The first value that a query gives on a connection of a storage in PostgreSQL."""
    with storage._engine.connect() as connection:
        return connection.exec_driver_sql(question).scalar()


def _pooled_engine(url: str, size: int) -> Engine:
    """An engine that keeps its connections.

    Statements time out after a minute, unless a connection pooler shares the sessions.
    """
    timeout = f"-c statement_timeout={_STATEMENT_TIMEOUT_MS}"
    options = f"{make_url(url).query.get('options', '')} {timeout}".strip()
    engine = create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_size=size,
        pool_recycle=_RECYCLE_SECONDS,
        max_overflow=max(0, _OVERFLOW - size),
        connect_args={} if database.is_pooled() else {"options": options},
    )
    listen(engine, "checkout", _check)
    return engine


def _check(session: Any, *_: object) -> None:
    """Let SQLAlchemy replace a pooled session that the server has ended, before it is used.

    As in our own pool, the server is asked only where it may have ended the session.
    """
    try:
        if database.may_have_ended(session):
            with session.cursor() as cursor:
                cursor.execute("SELECT 1")
    except session.Error as error:  # the errors of its driver
        raise DisconnectionError from error


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


def leave_loggers_alone() -> None:
    """Let Dagster's daemon and code server log as this process has set up its loggers."""
    for module in (grpc_api, daemon_controller):
        vars(module)["configure_loggers"] = lambda *_, **__: None


def silence_console() -> None:
    """Let runs of this process write to the event log alone.

    Formatting every event for a terminal as well takes a tenth of a warm run's time.
    """
    vars(context_creation_job)["default_system_loggers"] = lambda _: []


def copy_no_output() -> None:
    """Let Dagster's own log managers keep the output of this process's runs, and not print it, too.

    For that they start four processes per run, which take as much CPU as a warm run.
    """

    @contextmanager
    def write(stream: Any, path: str) -> Iterator[None]:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with redirect_to_file(stream, path):
            yield

    vars(local_compute_log_manager)["mirror_stream_to_file"] = write


def reuse_resource_classes() -> None:
    """Let this process create the class of a set of resources once, not five times for each op."""
    create_class = lru_cache(_MOST_ANSWERS)(namedtuple)

    def reused(name: str, keys: Iterable[str]) -> type:
        return create_class(name, tuple(keys))

    vars(scoped_resources_builder)["namedtuple"] = reused


def capture_no_output(instance: DagsterInstance) -> None:
    """Let runs of this process print to its own output, whatever `dagster.yaml` says.

    Runs in threads have one output together: every log manager redirects that of the process.
    """
    cast(Any, instance)._compute_log_manager = NoOpComputeLogManager()


def create_log_handlers_once(instance: DagsterInstance) -> None:
    """Let this process create the log handlers of `dagster.yaml` now, and not again for each run.

    Dagster configures Python's logging for that, which must not happen while another thread logs:
    the two may wait for each other for ever.
    """
    handlers = cast(Any, instance).get_yaml_python_handlers()
    vars(instance)["get_yaml_python_handlers"] = lambda: handlers


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

    def watch(event: DagsterEvent) -> None:
        nonlocal succeeded
        _just_read.pop(run.run_id, None)
        succeeded = succeeded or event.event_type == DagsterEventType.RUN_SUCCESS

    if "get_run_by_id" not in vars(instance):
        vars(instance)["get_run_by_id"] = _reader(instance.get_run_by_id)
    _just_read[run.run_id] = run
    try:
        _execute_run_command_body(
            run_id=run.run_id,
            instance=instance,
            write_stream_fn=watch,
            set_exit_code_on_failure=False,
        )
    finally:
        _just_read.pop(run.run_id, None)
    return succeeded


# Dagster reads a run three times until its first event has been stored, in case loading the code
# has taken long.
_just_read: dict[str, DagsterRun] = {}


def _reader(read: Callable[[str], DagsterRun | None]) -> Callable[[str], DagsterRun | None]:
    """Answer for runs that have not started yet without asking the database."""
    return lambda run_id: _just_read.get(run_id) or read(run_id)


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


@dataclass(frozen=True)
class LoadedSensor:
    """A sensor of a function, as the daemon has loaded it from the code server.

    Attributes
    ----------
    name, origin_id, selector_id
        Its name, and the ids by which Dagster knows it.
    functions, jobs
        The functions whose invocations it claims, and the jobs that it launches.
    remote
        Whether an application serves the functions.
    location, repository, loaded
        Dagster's own objects.
    """

    name: str
    origin_id: str
    selector_id: str
    functions: tuple[str, ...]
    jobs: tuple[str, ...]
    remote: bool
    location: Any
    repository: Any
    loaded: Any


def loaded_version(context: IWorkspaceProcessContext[Any]) -> Hashable:
    """What changes whenever the daemon has loaded a code location anew."""
    entries = context.create_request_context().get_code_location_entries()
    return tuple((name, entry.version_key, id(entry)) for name, entry in entries.items())


def location_on_socket(name: str, socket: str) -> CodeLocationOrigin:
    """A code location that a code server serves on a Unix socket."""
    return GrpcServerCodeLocationOrigin(
        host="localhost", port=None, socket=socket, location_name=name
    )


def add_location(context: Any, origin: CodeLocationOrigin) -> None:
    """Load one more code location, and from then on notice when its code server has other code.

    Does nothing if it is loaded already.
    """
    name = origin.location_name
    if name in context.code_location_names:
        return
    entry = context._load_location(origin, reload=False)
    with context._lock:
        if name not in context._current_workspace.code_location_entries:
            context._current_workspace = context._current_workspace.with_code_location(name, entry)
            context._start_watch_thread(origin)


def function_sensors(context: IWorkspaceProcessContext[Any]) -> Iterator[LoadedSensor]:
    """The sensors of functions in all code locations that are loaded."""
    for entry in context.create_request_context().get_code_location_entries().values():
        location = entry.code_location
        for repository in location.get_repositories().values() if location is not None else ():
            for sensor in _all_sensors(repository):
                if sensor.tags.get(KIND) == FUNCTION_SENSOR:
                    yield LoadedSensor(
                        sensor.name,
                        sensor.get_remote_origin_id(),
                        sensor.selector_id,
                        _functions_of(sensor),
                        tuple(target.job_name for target in sensor.get_targets()),
                        APP in sensor.tags,
                        location,
                        repository,
                        sensor,
                    )


def _functions_of(sensor: RemoteSensor) -> tuple[str, ...]:
    metadata = sensor.metadata.standard_metadata if sensor.metadata is not None else None
    return tuple(cast(Any, (metadata or {})[FUNCTIONS]).value)


def new_run_id() -> str:
    """An id for a run."""
    return make_new_run_id()


def run_options(instance: DagsterInstance, sensor: LoadedSensor, job_name: str) -> dict[str, Any]:
    """The arguments of `DagsterInstance.create_run` for a run that a sensor launches, but its id.

    This asks the code server for the job's execution plan, which is the same for every run of a job
    until the code changes. Raises `LookupError` when the loaded code has no such job.
    """
    if not sensor.repository.has_job(job_name):
        raise LookupError(f"the code location {sensor.location.name} has no job {job_name}")
    target = sensor.loaded.get_target(job_name)
    job = sensor.repository.get_full_job(job_name)
    plan = sensor.location.get_execution_plan(job, {}, None, None, instance)
    return {
        "job_name": job_name,
        "run_config": {},
        "status": DagsterRunStatus.NOT_STARTED,
        "tags": {
            **(job.run_tags or {}),
            **DagsterRun.tags_for_sensor(sensor.loaded),
            CODE_LOCATION_TAG: sensor.location.name,
        },
        "root_run_id": None,
        "parent_run_id": None,
        "step_keys_to_execute": None,
        "execution_plan_snapshot": plan.execution_plan_snapshot,
        "job_snapshot": job.job_snapshot,
        "parent_job_snapshot": job.parent_job_snapshot,
        "asset_selection": None,
        "asset_check_selection": None,
        "resolved_op_selection": job.resolved_op_selection,
        "op_selection": target.op_selection,
        "remote_job_origin": job.get_remote_origin(),
        "job_code_origin": job.get_python_origin(),
        "asset_graph": sensor.repository.asset_graph,
    }


def plans_assets(options: Mapping[str, Any]) -> bool:
    """Whether a run with these options records in advance which assets it will materialize."""
    steps = options["execution_plan_snapshot"].steps
    outputs = [output for step in steps for output in step.outputs]
    return any(output.properties and output.properties.asset_key for output in outputs)


def prepare_run(instance: DagsterInstance, options: Mapping[str, Any], run_id: str) -> DagsterRun:
    """A run with these options, which is not stored; the snapshots that it refers to are."""
    return RunDomain(instance).construct_run_with_snapshots(run_id=run_id, **options)


def has_process(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Whether a run has a process that a code server started for it, and that is alive.

    A code server that does not answer is taken for one without that process.
    """
    launcher = DefaultRunLauncher()
    launcher.register_instance(instance)
    client = launcher._get_grpc_client_for_termination(run.run_id)
    if client is None:
        return False
    try:
        answer = client.can_cancel_execution(
            CanCancelExecutionRequest(run_id=run.run_id), timeout=_ALIVE_SECONDS
        )
    except DagsterUserCodeUnreachableError:
        return False
    return deserialize_value(answer, CanCancelExecutionResult).can_cancel


def report_launch_failure(instance: DagsterInstance, run: DagsterRun, error: Exception) -> None:
    """End a run that could not be launched, with the error in its log, as Dagster does."""
    info = serializable_error_info_from_exc_info(
        (type(error), error, cast(Any, error.__traceback__))
    )
    instance.report_engine_event(info.message, run, EngineEventData.engine_error(info))
    instance.report_run_failed(run)


def tick_body(
    sensor: LoadedSensor, at: float, run_ids: Sequence[str], run_keys: Sequence[str]
) -> str:
    """A tick that has launched these runs, as Dagster stores it. `at` is in seconds since 1970."""
    return _tick_body(sensor, at, TickStatus.SUCCESS, run_ids=run_ids, run_keys=run_keys)


def failed_tick_body(
    sensor: LoadedSensor, at: float, kind: str, message: str, stack: Sequence[str]
) -> str:
    """A tick that ended with an error, as Dagster stores it."""
    error = SerializableErrorInfo(message, stack, kind)
    return _tick_body(sensor, at, TickStatus.FAILURE, error=error)


def _tick_body(sensor: LoadedSensor, at: float, status: TickStatus, **more: Any) -> str:
    return serialize_value(
        TickData(
            sensor.origin_id,
            sensor.name,
            InstigatorType.SENSOR,
            status,
            at,
            selector_id=sensor.selector_id,
            end_timestamp=at,
            **more,
        )
    )


_all_sensors = RemoteRepository.get_sensors


def _other_sensors(repository: RemoteRepository) -> Sequence[RemoteSensor]:
    """The sensors of a repository without those that this process evaluates itself, or never."""
    return [sensor for sensor in _all_sensors(repository) if KIND not in sensor.tags]


class FunctionSensorDaemon(SensorDaemon):
    """The sensor daemon for all sensors but those of functions, which are left to `beside`.

    `beside` is started in a thread of its own. When that ends, the daemon ends with an error.
    `on_iteration` is called whenever the loop has come round.
    """

    def __init__(
        self, settings: Mapping[str, Any], beside: Beside, on_iteration: Callable[[], None]
    ) -> None:
        super().__init__(settings)
        self._beside = beside
        self._on_iteration = on_iteration
        vars_of_class = cast(Any, RemoteRepository)
        vars_of_class.get_sensors = _other_sensors

    @classmethod
    def daemon_type(cls) -> str:
        return SensorDaemon.daemon_type()

    def core_loop(
        self,
        workspace_process_context: IWorkspaceProcessContext[Any],
        shutdown_event: threading.Event,
    ) -> DaemonIterator:
        thread = threading.Thread(
            target=self._beside,
            args=(workspace_process_context,),
            name="runyard-sensors",
            daemon=True,
        )
        thread.start()
        # Most of these are None or markers of spans; some are errors.
        for item in super().core_loop(workspace_process_context, shutdown_event):
            if not thread.is_alive():
                raise RuntimeError("the thread of the functions' sensors has ended")
            self._on_iteration()
            yield item


def run_daemon(
    instance: DagsterInstance,
    workspace_load_target: Any,
    beside: Beside,
    on_iteration: Callable[[], None],
) -> None:
    """Run all of Dagster's daemons in this process until it is interrupted.

    The sensor daemon is a `FunctionSensorDaemon` with `beside` and `on_iteration`.
    """

    def daemons(instance: DagsterInstance) -> Iterable[DagsterDaemon[Any]]:
        for daemon in create_daemons_from_instance(instance):
            if isinstance(daemon, SensorDaemon):
                yield FunctionSensorDaemon(instance.get_sensor_settings(), beside, on_iteration)
            else:
                yield daemon

    with daemon_controller_from_instance(
        instance, workspace_load_target, gen_daemons=daemons, log_level="warning"
    ) as controller:
        _reload_only_what_changed(controller)
        controller.check_daemon_loop()


def _reload_only_what_changed(controller: Any) -> None:
    """Skip the reload of all code every minute when the daemon has the code servers' present code.

    Of a thousand jobs it takes 0.7 s, in which nothing is launched.
    """
    stock_check = controller.check_workspace_freshness

    def check(last_update: float) -> float:
        is_due = time.time() - last_update > _FRESH_SECONDS
        if is_due and is_current(controller._workspace_process_context):
            return time.time()
        return float(stock_check(last_update))

    controller.check_workspace_freshness = check


def is_current(context: IWorkspaceProcessContext[Any]) -> bool:
    """Whether all code is loaded, each from the code server that answers now."""
    entries = context.create_request_context().get_code_location_entries().values()
    locations = [entry.code_location for entry in entries]
    try:
        return all(
            isinstance(location, GrpcServerCodeLocation)
            and location.client.get_server_id() == location.server_id
            for location in locations
        )
    except DagsterUserCodeUnreachableError:
        return False
