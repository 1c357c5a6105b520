"""Migrations produce the schema of the schema files, and leave unknown objects alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard import send
from runyard.engine import batch_claims, batch_leases, housekeeping, settlement, wait_registration
from runyard.errors import RunyardError
from runyard.functions import registry
from runyard.functions.registry import Function
from runyard.processes import checks
from runyard.processes.migrate import migrate
from runyard.store import database
from runyard.store.schema import FILES, schema_sql
from tests.conftest import Publish, drop_database, use_database
from tests.store.schemas import dumped, execute


@pytest.fixture
def migrated(server: str) -> Iterator[str]:
    """The URL of a separate migrated database."""
    yield use_database(server, "migrated")
    use_database(server, "store")


def test_the_migrations_give_the_schema_of_the_schema_files(server: str, migrated: str) -> None:
    url = server.replace("/runyard?", "/from_files?")
    drop_database(server, "from_files")
    execute(server, "CREATE DATABASE from_files")
    execute(url, f"CREATE SCHEMA runyard; {schema_sql()}")
    assert dumped(migrated) == dumped(url)


def test_every_schema_file_is_run() -> None:
    folder = Path(registry.__file__).parents[1] / "store" / "schema"
    assert sorted(FILES) == sorted(path.stem for path in folder.glob("*.sql"))


def test_a_database_that_is_up_to_date_stays_as_it_is(migrated: str) -> None:
    before = dumped(migrated)
    send("old/go")
    assert migrate() == [
        "runyard: 0001_initial -> 0001_initial",
        "app: 0001_initial -> 0001_initial",
        "dagster: up to date",
    ]
    assert dumped(migrated) == before


@pytest.mark.parametrize(
    ("schema", "version"), [("runyard", "0014"), ("runyard", "0001"), ("app", "0099_later")]
)
def test_a_database_at_an_unknown_version_is_refused(
    migrated: str, schema: str, version: str
) -> None:
    execute(migrated, f"UPDATE {schema}.alembic_version SET version_num = '{version}'")
    before = dumped(migrated)
    expected = (
        f"schema {schema} is at version {version}, which this code does not know.*DROP SCHEMA"
    )
    with pytest.raises(RunyardError, match=expected):
        migrate()
    assert dumped(migrated) == before


def test_waits_resume_after_a_restore_into_another_cluster(
    migrated: str, publish_functions: Publish
) -> None:
    function = Function("old", "old_job", ("old/go",), max_batch=10)
    publish_functions(function)
    send("old/go")
    [claim] = batch_claims.claim(function) or []
    batch_leases.begin(claim.batch_id, "run-1")
    wait = {
        "invocation": 1,
        "kind": "event",
        "event": "answer/given",
        "seconds": 600,
        "match_paths": [],
        "match_values": [],
    }
    wait_registration.register_waits(claim.batch_id, "run-1", "answer", [wait])
    settlement.settle(
        claim.batch_id, "run-1", [settlement.Outcome(1, "waiting", suspended=("answer",))]
    )
    # As in a cluster that has had more transactions.
    ahead = "(pg_current_xact_id()::text::bigint + 1000000)::text"
    snapshot = f"({ahead} || ':' || {ahead} || ':')::pg_snapshot"
    with database.connection() as connection:
        for change in (
            f"UPDATE runyard.watermark SET snapshot = {snapshot}",
            f"UPDATE runyard.waits SET since = {snapshot}, xid = ({ahead})::xid8",
            f"UPDATE runyard.events SET xid = ({ahead})::xid8",
        ):
            connection.execute(change.encode())
    assert not checks._check("migrations", checks._migrations).ok
    migrate()
    assert checks._check("migrations", checks._migrations).ok
    send("answer/given")
    assert housekeeping.match_waits() == 1
