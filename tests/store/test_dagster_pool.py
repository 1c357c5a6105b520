"""The pooled connections of Dagster's storages."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from dagster import DagsterInstance
from dagster_webserver.app import create_app_from_workspace_process_context
from sqlalchemy import text
from starlette.testclient import TestClient

from runyard.dagster_adapter.internals import (
    WorkspaceFileTarget,
    WorkspaceProcessContext,
    pooled_instance,
    storages,
)

PID = text("SELECT pg_backend_pid()")
RUNS = "{ runsOrError { ... on Runs { results { runId } } ... on PythonError { message } } }"


@pytest.fixture
def instance(store_url: str) -> Iterator[DagsterInstance]:
    with pooled_instance() as made:
        yield made


def end_sessions(url: str) -> None:
    """End all sessions of a database, as a restart of the server does."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def engine_of(instance: DagsterInstance) -> Any:
    """The engine that the three storages share."""
    [engine] = {storage._engine for storage in storages(instance)}
    return engine


def pid_of_the_next(instance: DagsterInstance) -> int:
    with engine_of(instance).connect() as connection:
        return int(connection.execute(PID).scalar_one())


def test_every_session_that_the_server_has_ended_is_replaced_before_its_use(
    store_url: str, instance: DagsterInstance
) -> None:
    engine = engine_of(instance)
    with engine.connect() as one, engine.connect() as other:
        before = {connection.execute(PID).scalar_one() for connection in (one, other)}
    end_sessions(store_url)
    with engine.connect() as one, engine.connect() as other:
        after = {connection.execute(PID).scalar_one() for connection in (one, other)}
    assert len(after - before) == 2


def test_a_query_of_the_ui_is_answered_at_once_after_the_server_has_ended_every_session(
    store_url: str, instance: DagsterInstance, tmp_path: Path
) -> None:
    instance.wipe()
    workspace = tmp_path / "workspace.yaml"
    workspace.write_text("load_from: []\n")
    with WorkspaceProcessContext(instance, WorkspaceFileTarget([str(workspace)])) as context:
        ui = TestClient(create_app_from_workspace_process_context(context))
        before = ui.post("/graphql", json={"query": RUNS}).json()
        end_sessions(store_url)
        after = ui.post("/graphql", json={"query": RUNS}).json()
    assert after == before == {"data": {"runsOrError": {"results": []}}}


def test_a_session_to_which_the_server_only_told_something_is_kept(
    store_url: str, instance: DagsterInstance
) -> None:
    with engine_of(instance).connect() as connection:
        before = connection.execute(PID).scalar_one()
        connection.execute(text("LISTEN anything"))
    with psycopg.connect(store_url, autocommit=True) as other:
        other.execute("NOTIFY anything")
    assert pid_of_the_next(instance) == before


def test_a_session_that_the_server_has_not_ended_is_not_asked(
    store_url: str, instance: DagsterInstance
) -> None:
    pid = pid_of_the_next(instance)
    last = "SELECT query, state_change FROM pg_stat_activity WHERE pid = %s"
    with psycopg.connect(store_url, autocommit=True) as other:
        before = other.execute(last, [pid]).fetchone()
        with engine_of(instance).connect():
            during = other.execute(last, [pid]).fetchone()
    assert during == before
