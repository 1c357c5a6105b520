"""What Runyard relies on in private names of Dagster, checked against the installed version.

An upgrade of Dagster that breaks `runyard.dagster_adapter.internals` fails here.
"""

import ast
import inspect
import re
import tomllib
import warnings
from dataclasses import dataclass
from pathlib import Path

import dagster
import pytest
from dagster import DagsterEventType, DagsterInstance, graph, job, op
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.workspace import context as workspace_context
from dagster._daemon import sensor as sensor_loop
from dagster._daemon.controller import DagsterDaemonController
from dagster._grpc.client import DagsterGrpcClient
from dagster_celery.launcher import CeleryRunLauncher
from dagster_postgres import PostgresEventLogStorage, PostgresRunStorage, PostgresScheduleStorage
from dagster_webserver.webserver import DagsterWebserver
from packaging.requirements import Requirement

from runyard import BatchIOManager
from runyard.dagster_adapter import internals
from runyard.dagster_adapter.broker import QUEUE, make_app
from runyard.dagster_adapter.launcher import WarmRunLauncher
from runyard.gateway.dev.dagster_link import PAGES
from tests.conftest import ROOT


@dataclass(frozen=True)
class Relied:
    """What Runyard relies on in a private name.

    Attributes
    ----------
    parameters
        What it is called with, by position in this order or by name; it needs nothing else. None
        when it is not called.
    attributes
        The attributes, members or methods that are used or overridden.
    base
        The class that it is derived from.
    constant
        The type of a constant.
    options
        The options of a command.
    """

    parameters: tuple[str, ...] | None = None
    attributes: tuple[str, ...] = ()
    base: type | None = None
    constant: type | None = None
    options: tuple[str, ...] = ()


NAMES = {
    # A run and its event log.
    "ALEMBIC_SCRIPTS_LOCATION": Relied(constant=str),
    "ASSET_CHECK_EVENTS": Relied(constant=set),
    "ASSET_EVENTS": Relied(constant=set),
    "PIPELINE_EVENTS": Relied(constant=set),
    "SqlEventLogStorageTable": Relied(attributes=("insert", "c")),
    "get_token_provider_from_config": Relied(("config_value",)),
    "pg_url_from_config": Relied(("config_value",)),
    "NodeHandle": Relied(("name", "parent")),
    "SerializableErrorInfo": Relied(
        ("message", "stack", "cls_name"), ("message", "stack", "cls_name", "cause", "context")
    ),
    "StepFailureData": Relied(("error", "user_failure_data")),
    "StepHandle": Relied(("node_handle",)),
    "_execute_run_command_body": Relied(
        ("run_id", "instance", "write_stream_fn", "set_exit_code_on_failure")
    ),
    "context_creation_job": Relied(attributes=("default_system_loggers",)),
    "scoped_resources_builder": Relied(attributes=("ScopedResourcesBuilder", "namedtuple")),
    "default_job_io_manager": Relied(constant=dagster.IOManagerDefinition),
    # The run launcher.
    "CanCancelExecutionRequest": Relied(attributes=("run_id",)),
    "CanCancelExecutionResult": Relied(attributes=("can_cancel",)),
    "CheckRunHealthResult": Relied(("status", "msg")),
    "ConfigurableClassData": Relied(("module_name", "class_name", "config_yaml")),
    "ExecuteRunArgs": Relied(
        ("job_origin", "run_id", "instance_ref", "set_exit_code_on_failure"), ("run_id",)
    ),
    "GRPC_INFO_TAG": Relied(constant=str),
    "LaunchRunContext": Relied(attributes=("dagster_run", "workspace")),
    "ResumeRunArgs": Relied(attributes=("run_id",)),
    "WorkerStatus": Relied(attributes=("FAILED", "RUNNING", "UNKNOWN")),
    "pack_value": Relied(("val",)),
    "deserialize_value": Relied(("val", "as_type")),
    "unpack_value": Relied(("val", "as_type")),
    # Captured output.
    "CapturedLogContext": Relied(("log_key",)),
    "CapturedLogData": Relied(("log_key", "stdout", "stderr", "cursor")),
    "CapturedLogSubscription": Relied(
        ("manager", "log_key", "cursor"), ("__call__", "complete", "dispose", "fetch", "log_key")
    ),
    "CloudStorageComputeLogManager": Relied(
        attributes=(
            "build_cursor",
            "capture_logs",
            "cloud_storage_has_logs",
            "delete_logs",
            "display_path_for_type",
            "download_from_cloud_storage",
            "download_url_for_type",
            "get_log_data",
            "get_log_data_for_type",
            "get_log_keys_for_log_key_prefix",
            "has_local_file",
            "is_capture_complete",
            "local_manager",
            "on_unsubscribe",
            "open_log_stream",
            "parse_cursor",
            "register_instance",
            "subscribe",
            "upload_interval",
            "upload_to_cloud_storage",
        )
    ),
    "ComputeIOType": Relied(attributes=("STDERR", "STDOUT")),
    "ConfigurableClass": Relied(attributes=("config_type", "from_config_value", "inst_data")),
    "LocalComputeLogManager": Relied(
        ("base_dir",), ("get_captured_local_path", "get_captured_log_download_url")
    ),
    "NoOpComputeLogManager": Relied((), ("capture_logs",)),
    "local_compute_log_manager": Relied(attributes=("mirror_stream_to_file",)),
    "redirect_to_file": Relied(("stream", "filepath")),
    # The daemon.
    "DaemonIterator": Relied(attributes=("__origin__",)),
    "DagsterCodeLocationNotFoundError": Relied(base=dagster.DagsterError),
    "DagsterDaemon": Relied(attributes=("core_loop", "daemon_type")),
    "DagsterUserCodeUnreachableError": Relied(base=dagster.DagsterError),
    "IWorkspaceProcessContext": Relied(attributes=("create_request_context",)),
    "InstigatorType": Relied(attributes=("SENSOR",)),
    "SensorDaemon": Relied(
        ("settings",), ("__exit__", "core_loop", "daemon_type"), base=internals.DagsterDaemon
    ),
    "TickStatus": Relied(attributes=("FAILURE", "SKIPPED", "STARTED", "SUCCESS")),
    # The runs that a sensor launches.
    "CODE_LOCATION_TAG": Relied(constant=str),
    "EngineEventData": Relied(attributes=("engine_error",)),
    "GrpcServerCodeLocation": Relied(attributes=("server_id",)),
    "RUN_KEY_TAG": Relied(constant=str),
    "RemoteRepository": Relied(
        attributes=("asset_graph", "get_full_job", "get_sensors", "has_job")
    ),
    "RemoteSensor": Relied(
        attributes=(
            "get_remote_origin_id",
            "get_target",
            "get_targets",
            "metadata",
            "selector_id",
            "tags",
        )
    ),
    "RunDomain": Relied(("instance",), ("construct_run_with_snapshots",)),
    "TICK_ID_TAG": Relied(constant=str),
    "TickData": Relied(
        (
            "instigator_origin_id",
            "instigator_name",
            "instigator_type",
            "status",
            "timestamp",
            "run_ids",
            "run_keys",
            "error",
            "selector_id",
            "end_timestamp",
        )
    ),
    "make_new_run_id": Relied(()),
    "serializable_error_info_from_exc_info": Relied(("exc_info",)),
    "serialize_value": Relied(("val",)),
    "capture_interrupts": Relied(()),
    "create_daemons_from_instance": Relied(("instance",)),
    "daemon_controller_from_instance": Relied(
        ("instance", "workspace_load_target", "gen_daemons", "log_level")
    ),
    "get_daemon_statuses": Relied(
        ("instance", "daemon_types", "ignore_errors", "heartbeat_tolerance_seconds")
    ),
    "schedule_execution_time_iterator": Relied(
        ("start_timestamp", "cron_schedule", "execution_timezone")
    ),
    "setup_interrupt_handlers": Relied(()),
    # The code server and the web process.
    "WorkspaceFileTarget": Relied(attributes=("paths",)),
    "WorkspaceProcessContext": Relied(
        ("instance", "workspace_load_target"),
        (
            "__enter__",
            "__exit__",
            "_load_location",
            "_start_watch_thread",
            "code_location_names",
            "has_code_location",
        ),
        base=internals.IWorkspaceProcessContext,
    ),
    "WorkspaceLoadTarget": Relied(attributes=("create_origins",)),
    "CodeLocationOrigin": Relied(attributes=("location_name",)),
    "GrpcServerCodeLocationOrigin": Relied(
        ("host", "port", "socket", "location_name"), base=internals.CodeLocationOrigin
    ),
    "grpc_api": Relied(attributes=("configure_loggers",)),
    "daemon_controller": Relied(attributes=("configure_loggers",)),
    "grpc_command": Relied(
        attributes=("main",),
        options=(
            "--lazy-load-user-code",
            "--location-name",
            "--log-level",
            "--max-workers",
            "--module-name",
            "--host",
            "--port",
            "--socket",
        ),
    ),
}


def imported_names() -> set[str]:
    """The names that internals imports from private modules of Dagster."""
    source = Path(internals.__file__).read_text(encoding="utf-8")
    return {
        name.asname or name.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith(("dagster._", "dagster_shared", "dagster_postgres."))
        for name in node.names
    }


def parameters(of: object) -> list[str]:
    return list(inspect.signature(of).parameters)  # type: ignore[arg-type]


def test_every_private_name_has_a_check() -> None:
    assert imported_names() == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_says_what_a_private_name_is_for(name: str) -> None:
    assert f"`{name}`" in str(internals.__doc__)


@pytest.mark.parametrize("name", NAMES)
def test_a_private_name_is_as_it_was_read(name: str) -> None:
    relied, value = NAMES[name], getattr(internals, name)
    if relied.parameters is not None:
        inspect.signature(value).bind(**dict.fromkeys(relied.parameters))
        known = tuple(each for each in parameters(value) if each in relied.parameters)
        assert known == relied.parameters
    assert [each for each in relied.attributes if not hasattr(value, each)] == []
    if relied.base is not None:
        assert issubclass(value, relied.base)
    if relied.constant is not None:
        assert isinstance(value, relied.constant)
    if relied.options:
        assert {option for param in value.params for option in param.opts} >= set(relied.options)


def test_the_installed_version_is_in_the_supported_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [supported] = [
        requirement.specifier
        for requirement in map(Requirement, project["dependencies"])
        if requirement.name == "dagster"
    ]
    assert dagster.__version__ in supported


def test_the_version_that_was_read_is_the_locked_one() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert f"\ndagster=={internals.READ_IN}\n" in lock
    assert f"Dagster {internals.READ_IN}" in str(internals.__doc__)


def test_the_sensor_daemon_can_be_run_beside_the_sensors_of_functions() -> None:
    assert parameters(internals.SensorDaemon.core_loop) == [
        "self",
        "workspace_process_context",
        "shutdown_event",
    ]
    assert "repo.get_sensors()" in inspect.getsource(sensor_loop.execute_sensor_iteration)


def test_the_controller_loads_all_code_where_it_is_kept_from_it() -> None:
    controller = inspect.getsource(DagsterDaemonController)
    assert "self.check_workspace_freshness(" in controller
    assert "self._workspace_process_context.refresh_workspace()" in controller
    assert "self.client = " in inspect.getsource(internals.GrpcServerCodeLocation)


def test_the_log_handlers_of_a_run_come_from_the_method_that_is_replaced() -> None:
    assert "self.get_yaml_python_handlers()" in inspect.getsource(DagsterInstance.get_handlers)
    with DagsterInstance.ephemeral() as instance:
        internals.create_log_handlers_once(instance)
        assert instance.get_yaml_python_handlers() is instance.get_yaml_python_handlers()


def test_console_loggers_are_looked_up_where_they_are_replaced() -> None:
    source = inspect.getsource(internals.context_creation_job.create_log_manager)
    assert "default_system_loggers(" in source


def test_managers_of_output_write_by_the_function_that_is_replaced() -> None:
    captures = internals.LocalComputeLogManager.capture_logs.__wrapped__
    assert "mirror_stream_to_file" in captures.__code__.co_names
    assert captures.__globals__ is vars(internals.local_compute_log_manager)


def test_the_manager_of_output_is_kept_where_it_is_replaced() -> None:
    with dagster.DagsterInstance.local_temp() as instance:
        internals.capture_no_output(instance)
        assert isinstance(instance.compute_log_manager, internals.NoOpComputeLogManager)


def test_a_launch_calls_the_method_that_is_overridden() -> None:
    assert parameters(CeleryRunLauncher._launch_celery_task_run) == [
        "self",
        "run",
        "task_signature",
        "routing_key",
    ]
    assert "_launch_celery_task_run(" in inspect.getsource(CeleryRunLauncher.launch_run)


def test_the_default_launcher_tags_the_runs_that_it_starts() -> None:
    assert "GRPC_INFO_TAG" in inspect.getsource(dagster.DefaultRunLauncher)


def test_the_default_launcher_has_a_client_for_the_code_server_of_a_run() -> None:
    source = inspect.getsource(dagster.DefaultRunLauncher.terminate)
    assert "self._get_grpc_client_for_termination(run_id)" in source
    parameters = list(inspect.signature(DagsterGrpcClient.can_cancel_execution).parameters)
    assert parameters == ["self", "can_cancel_execution_request", "timeout"]


def test_launcher_and_workers_declare_one_queue() -> None:
    launching = WarmRunLauncher().celery.amqp.queues[QUEUE]
    working = make_app().amqp.queues[QUEUE]
    assert launching.as_dict() == working.as_dict()
    assert (working.exchange.type, working.routing_key) == ("direct", QUEUE)


@pytest.mark.parametrize(
    "storage", [PostgresRunStorage, PostgresEventLogStorage, PostgresScheduleStorage]
)
def test_a_storage_keeps_its_engine_where_it_is_replaced(storage: type) -> None:
    source = inspect.getsource(storage.optimize_for_webserver)  # type: ignore[attr-defined]
    assert "self._engine = create_pg_engine(" in source
    known = ("self._engine", "self.postgres_url", "self._token_provider")
    assert source.count("self.") == sum(map(source.count, known)), "it does more than that"


def test_an_upgrade_of_an_instance_is_what_a_migration_does() -> None:
    source = inspect.getsource(DagsterInstance.upgrade)
    calls = re.findall(r"self\._(\w+)_storage\.(\w+)\(", source)
    assert calls == [
        ("run", "upgrade"),
        ("run", "migrate"),
        ("event", "upgrade"),
        ("event", "reindex_assets"),
        ("schedule", "upgrade"),
        ("schedule", "migrate"),
    ]


def test_from_failure_takes_steps_with_a_failure_event_even_if_they_succeeded() -> None:
    @op
    def early() -> int:
        return 1

    @op
    def late(context: dagster.OpExecutionContext, n: int) -> int:
        internals.report_step_failures(context, {"early": "an invocation failed"})
        raise RuntimeError("red")

    @job
    def red() -> None:
        late(early())

    with DagsterInstance.ephemeral() as instance:
        run_id = red.execute_in_process(instance=instance, raise_on_error=False).run_id
        run = instance.get_run_by_id(run_id)
        assert run is not None
        steps, _ = KnownExecutionState.build_resume_retry_reexecution(instance, run)
        successes = instance.all_logs(run_id, {DagsterEventType.STEP_SUCCESS})
    assert set(steps) == {"early", "late"}
    assert [record.step_key for record in successes] == ["early"]


def test_a_job_without_an_io_manager_is_told_from_one_with_its_own() -> None:
    @op
    def nothing() -> int:
        return 1

    @job
    def empty() -> None:
        nothing()

    def resolved(**resources: object) -> dagster.JobDefinition:
        definitions = dagster.Definitions(jobs=[empty], resources=resources)
        return definitions.get_repository_def().get_job("empty")

    assert internals.has_stock_io_manager(resolved())
    assert not internals.has_stock_io_manager(resolved(io_manager=BatchIOManager()))


def test_a_graph_tells_its_nodes_what_feeds_them_and_what_nested_graphs_map() -> None:
    @op
    def first(value: int) -> int:
        return value

    @graph
    def inner(value: int) -> int:
        return first(value)

    @op
    def begin() -> int:
        return 1

    @graph
    def outer() -> None:
        inner.alias("renamed")(begin())

    [(renamed, inputs)] = [pair for pair in outer.dependencies.items() if pair[1]]
    [source] = inputs["value"].get_node_dependencies()
    assert (renamed.name, renamed.alias) == ("inner", "renamed")
    assert (source.node, source.output) == ("begin", "result")
    assert {node.name for node in outer.nodes} == {"begin", "renamed"}
    assert outer.node_named("renamed").definition is inner
    [taken], [given] = inner.input_mappings, inner.output_mappings
    assert (taken.maps_to.node_name, taken.maps_to.input_name) == ("first", "value")
    assert (given.maps_from.node_name, given.maps_from.output_name) == ("first", "result")
    assert first.output_def_named("result").io_manager_key == "io_manager"


def test_the_ui_is_one_page_whose_routes_are_known() -> None:
    source = inspect.getsource(DagsterWebserver.build_routes)
    for path in PAGES:
        assert f'Route("{path}", self.index_html_endpoint)' in source


def test_only_the_warning_of_an_unreachable_code_server_is_silenced() -> None:
    loading = "Error loading repository location code:"
    unreachable = "dagster._core.errors.DagsterUserCodeUnreachableError: Could not reach it"
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        internals.silence_restarts()
        warnings.warn(f"{loading}{unreachable}\n\nStack Trace:", stacklevel=1)
        warnings.warn(f"{loading}ImportError: no module", stacklevel=1)
    assert [str(warning.message) for warning in shown] == [f"{loading}ImportError: no module"]


def test_a_location_that_cannot_be_loaded_causes_the_warning_that_is_silenced() -> None:
    assert "Error loading repository location {" in inspect.getsource(workspace_context)
