"""Dagster's storage in another database than the events: daemon and workers refuse to start."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from dagster import DagsterInstance

from runyard.dagster_adapter.internals import create_dagster_tables
from runyard.dagster_adapter.storage_place import check_storage
from runyard.errors import RunyardError
from tests.conftest import ROOT, drop_database

IN_POSTGRES = "storage:\n  postgres:\n    postgres_url: '{}'\n"


@pytest.fixture
def elsewhere(store_url: str) -> Iterator[str]:
    """The URL of another database, which has Dagster's tables."""
    drop_database(store_url, "elsewhere")
    with psycopg.connect(store_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE elsewhere")
    url = store_url.replace("/store?", "/elsewhere?")
    create_dagster_tables(url)
    yield url
    drop_database(store_url, "elsewhere")


def home(folder: Path, storage: str) -> Path:
    """A folder for DAGSTER_HOME whose dagster.yaml has this storage."""
    (folder / "dagster.yaml").write_text(storage)
    return folder


def runyard(*command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command with its DAGSTER_HOME in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "runyard", *command],
        env={**os.environ, "DAGSTER_HOME": str(folder), "RUNYARD_HOME": str(ROOT), **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_storage_in_the_database_of_the_events_is_right(store_url: str) -> None:
    with DagsterInstance.get() as instance:
        check_storage(instance)


def test_storage_by_another_url_of_the_same_database_is_right(
    store_url: str, tmp_path: Path
) -> None:
    url = f"{store_url}&application_name=other"
    with DagsterInstance.from_config(str(home(tmp_path, IN_POSTGRES.format(url)))) as instance:
        check_storage(instance)


def test_storage_in_another_schema_of_the_database_is_refused(
    store_url: str, tmp_path: Path
) -> None:
    url = f"{store_url}&options=-csearch_path%3Dnowhere"
    storage = f"{IN_POSTGRES.format(url)}    should_autocreate_tables: false\n"
    with (
        DagsterInstance.from_config(str(home(tmp_path, storage))) as instance,
        pytest.raises(RunyardError, match="another schema"),
    ):
        check_storage(instance)


@pytest.mark.parametrize("command", ["daemon", "worker"])
def test_a_process_refuses_to_start_with_storage_in_another_database(
    command: str, elsewhere: str, tmp_path: Path
) -> None:
    ended = runyard(command, folder=home(tmp_path, IN_POSTGRES.format(elsewhere)))
    assert ended.returncode == 1
    line = ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert line.startswith("runyard: dagster.yaml puts PostgresRunStorage into local socket")
    assert line.endswith("or set DATABASE_URL to the database of that storage")


def test_the_daemon_refuses_to_start_with_storage_in_files(store_url: str, tmp_path: Path) -> None:
    ended = runyard("daemon", folder=home(tmp_path, ""))
    assert "SqliteRunStorage, which is not in PostgreSQL" in ended.stderr


def test_a_daemon_that_starts_names_the_setting_that_a_misspelt_variable_was_meant_for(
    store_url: str, tmp_path: Path
) -> None:
    ended = runyard("daemon", folder=home(tmp_path, ""), RUNYARD_LEASE_SECOND="9")
    assert (
        "runyard: RUNYARD_LEASE_SECOND is not a setting, and is ignored:"
        " did you mean RUNYARD_LEASE_SECONDS?\n"
    ) in ended.stderr


def test_doctor_says_that_storage_is_in_another_database(elsewhere: str, tmp_path: Path) -> None:
    says = runyard("doctor", folder=home(tmp_path, IN_POSTGRES.format(elsewhere))).stdout
    [line] = [each for each in says.splitlines() if each[6:].startswith("storage")]
    assert line.startswith("FAIL")
