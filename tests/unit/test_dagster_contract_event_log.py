"""What the batches of the event log, and the one reading of a run, rely on in Dagster."""

import ast
import inspect
import logging
import sys
import textwrap
from pathlib import Path
from typing import Any

import dagster_postgres
import pytest
from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    EventLogEntry,
    in_process_executor,
    job,
    op,
)
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.executor import multiprocess
from dagster._core.instance.instance import DagsterInstance as FullInstance
from dagster._core.instance.methods.event_methods import EventMethods
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
from dagster_postgres import PostgresEventLogStorage

from runyard.dagster_adapter import internals
from runyard.dagster_adapter.event_log import BatchingEventLogStorage

ORIGIN = JobPythonOrigin(
    "nothing", RepositoryPythonOrigin(sys.executable, ModuleCodePointer(__name__, "nothing"))
)


def replace_pointer(origin: JobPythonOrigin, pointer: ModuleCodePointer) -> JobPythonOrigin:
    return JobPythonOrigin(origin.job_name, RepositoryPythonOrigin(sys.executable, pointer))


def source(of: object) -> str:
    return textwrap.dedent(inspect.getsource(of))  # type: ignore[arg-type]


def methods_with(text: str) -> set[str]:
    """The methods of the stock storage in whose source a text stands."""
    tree = ast.parse(source(PostgresEventLogStorage))
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and text in ast.unparse(node)
    }


def test_the_log_is_read_through_the_connections_that_write_it_first() -> None:
    writes = {"store_event", "store_event_batch"}
    asks_for_no_events = {"_init_db", "alembic_version", "has_table", "upgrade"}
    gives = {"index_connection", "run_connection"}
    assert methods_with("self._connect()") <= writes | asks_for_no_events | gives


def test_the_base_of_the_storage_opens_no_connection_of_its_own() -> None:
    assert "self._connect()" not in source(SqlEventLogStorage)
    assert "_engine.connect" not in source(SqlEventLogStorage)


def test_a_storage_takes_what_the_batching_one_is_created_with() -> None:
    taken = set(inspect.signature(PostgresEventLogStorage.__init__).parameters) - {"self"}
    assert taken == {"inst_data", "postgres_url", "should_autocreate_tables", "token_provider"}


def test_an_event_becomes_a_row_of_the_log() -> None:
    storage = object.__new__(BatchingEventLogStorage)
    event = EventLogEntry(
        error_info=None, level=logging.INFO, user_message="x", run_id="r", timestamp=1.0
    )
    columns = {column.name for column in internals.SqlEventLogStorageTable.columns}
    assert columns - set(storage._event_to_row(event)) == {"id"}
    assert isinstance(storage._event_to_row(event)["event"], str)


def test_nothing_listens_for_the_notifications_that_are_not_sent() -> None:
    for path in Path(dagster_postgres.__file__).parent.rglob("*.py"):
        assert "LISTEN %s" not in path.read_text()
        assert "LISTEN {" not in path.read_text()
    assert "SqlPollingEventWatcher" in source(PostgresEventLogStorage.watch)


def test_an_event_is_stored_before_the_status_of_its_run() -> None:
    code = source(EventMethods.handle_new_event)
    assert code.index(".store_event(events[0])") < code.index(".handle_run_event(")


def test_a_process_for_a_step_is_started_after_the_event_that_announces_it() -> None:
    code = source(multiprocess)
    assert code.index("DagsterEvent.step_worker_starting(") < code.index(
        "in execute_child_process_command("
    )


def test_an_execution_reads_its_run_from_the_database_after_its_status_has_changed_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[DagsterRunStatus] = []
    stock = FullInstance.get_run_by_id

    def counted(instance: DagsterInstance, run_id: str) -> DagsterRun | None:
        run = stock(instance, run_id)
        assert run is not None
        read.append(run.status)
        return run

    with DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(nothing, job_code_origin=ORIGIN)
        monkeypatch.setattr(FullInstance, "get_run_by_id", counted)
        assert internals.execute_run(instance, run)
    assert read == [DagsterRunStatus.SUCCESS]


def test_after_an_execution_an_instance_reads_runs_as_before() -> None:
    with DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(nothing, job_code_origin=ORIGIN)
        internals.execute_run(instance, run)
        ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status == DagsterRunStatus.SUCCESS


def test_a_run_whose_code_is_gone_ends_as_failed() -> None:
    gone = replace_pointer(ORIGIN, ModuleCodePointer("tests.no_such_module", "nothing"))
    with DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(nothing, job_code_origin=gone)
        assert not internals.execute_run(instance, run)
        ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status == DagsterRunStatus.FAILURE


def test_a_run_storage_asks_for_its_columns_by_the_method_that_is_replaced() -> None:
    for method in (SqlRunStorage.get_run_records, SqlRunStorage.handle_run_event):
        assert "self.has_run_stats_index_cols()" in source(method)


def test_an_instance_asks_for_a_plan_by_the_method_that_is_replaced() -> None:
    assert ".get_execution_plan_snapshot(snapshot_id)" in source(
        FullInstance.get_execution_plan_snapshot
    )


def test_resources_are_found_in_a_class_that_is_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = internals.scoped_resources_builder
    monkeypatch.setattr(module, "namedtuple", module.namedtuple)
    internals.reuse_resource_classes()
    first = module.ScopedResourcesBuilder({"a": 1, "b": 2}).build({"a", "b"})
    second = module.ScopedResourcesBuilder({"a": 3, "b": 4}).build({"a", "b"})
    assert [vars_of(first), vars_of(second)] == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    assert type(first).__mro__[1] is type(second).__mro__[1]
    assert second.original_resource_dict == {"a": 3, "b": 4}


def vars_of(resources: Any) -> dict[str, object]:
    return {key: getattr(resources, key) for key in ("a", "b")}


@op
def nothing_at_all() -> None:
    pass


@job(executor_def=in_process_executor)
def nothing() -> None:
    nothing_at_all()
