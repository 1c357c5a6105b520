"""Databases and code of different versions: what is checked, what goes on, and what is refused.

The later release is a copy of this code with one more migration, in processes of its own.
"""

import logging
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from runyard import client, send
from runyard.cli.migrate import UNREACHABLE
from runyard.errors import RunyardError, SchemaOutOfDate, SchemaUnusable
from runyard.gateway.http.errors import as_http_error
from runyard.processes import checks
from runyard.processes.migrate import _LOCK
from runyard.processes.pending import Verdict
from runyard.processes.schema_check import ENGINE, check_at_start
from runyard.settings import settings
from runyard.store import database
from runyard.store.embedded import delete_embedded, start_embedded, stop_embedded
from runyard.store.schema_state import engine_revisions
from tests.conftest import drop_database, wait_until
from tests.releases import THIS, Release, later_release, migration
from tests.store.schemas import dumped, execute

# Of the roles, which all look in the same way, the quick tests start one.
ROLES = (
    "worker",
    *[
        pytest.param(role, marks=pytest.mark.slow)
        for role in ("web", "daemon", "caller", "code-server")
    ],
)
ADDS = migration(
    "0002_shade",
    "ALTER TABLE runyard.events ADD COLUMN shade text",
    "'catalog', oldest_code='0001_initial', tables=('runyard.events',)",
    title="Events have a shade",
)
REMOVES = migration(
    "0002_contract",
    "DROP FUNCTION runyard.send_v1 CASCADE",
    "'catalog', oldest_code='0002_contract'",
    title="What only the previous version used is removed",
)


@pytest.fixture(scope="module")
def adding(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A release with an additive migration."""
    return later_release(tmp_path_factory.mktemp("adding"), r0002_shade=ADDS)


@pytest.fixture(scope="module")
def removing(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A release with a migration on whose schema earlier code does not work."""
    return later_release(tmp_path_factory.mktemp("removing"), r0002_contract=REMOVES)


@dataclass(frozen=True)
class Databases:
    """Creates databases on a server.

    Attributes
    ----------
    server
        The URL of the server.
    """

    server: str

    def create(self, name: str, template: str = "template1") -> str:
        """Create a database, a copy of another one; return its URL."""
        drop_database(self.server, name)
        execute(self.server, f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.server.replace("/runyard?", f"/{name}?")

    def migrated(self, name: str, release: Release, template: str = "template1") -> str:
        """Create a database that a release has migrated; return its name."""
        url = self.create(name, template)
        result = Release(release.folder, {"DATABASE_URL": url}).run("migrate")
        assert result.returncode == 0, result.stderr
        return name

    @contextmanager
    def used(self, template: str) -> Iterator[str]:
        """Create a copy of a database, and let this process use it."""
        url = self.create("upgraded", template)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DATABASE_URL", url)
            database.close_pool()
            settings.cache_clear()
            yield url
        database.close_pool()
        settings.cache_clear()
        drop_database(self.server, "upgraded")


@pytest.fixture(scope="module")
def databases(server: str) -> Databases:
    """Creates databases."""
    return Databases(server)


@pytest.fixture(scope="module")
def migrated(databases: Databases) -> str:
    """A database that this release has migrated."""
    return databases.migrated("upgrades", THIS)


@pytest.fixture(scope="module")
def added(databases: Databases, migrated: str, adding: Release) -> str:
    """A database that a release with an additive migration has migrated."""
    return databases.migrated("upgrades_added", adding, migrated)


@pytest.fixture(scope="module")
def removed(databases: Databases, migrated: str, removing: Release) -> str:
    """A database that a release has migrated on whose schema this one does not work."""
    return databases.migrated("upgrades_removed", removing, migrated)


@pytest.fixture
def url(databases: Databases, migrated: str) -> Iterator[str]:
    """The URL of a database at the version of this release."""
    with databases.used(migrated) as url:
        yield url


@pytest.fixture
def newer(databases: Databases, added: str) -> Iterator[str]:
    """The URL of a database at a later version, on which this release works."""
    with databases.used(added) as url:
        yield url


@pytest.fixture
def too_new(databases: Databases, removed: str) -> Iterator[str]:
    """The URL of a database at a later version, on which this release does not work."""
    with databases.used(removed) as url:
        yield url


def value(url: str, query: str) -> object:
    """The first value of a query."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    return row[0] if row is not None else None


def revision(url: str) -> object:
    """The revision of the engine's schema."""
    return value(url, "SELECT version_num FROM runyard.alembic_version")


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Read a process's standard error until a line contains `text`; return that line."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return line
    raise AssertionError(f"{text!r} is not in {lines}")


def test_the_check_of_a_database_that_is_up_to_date_is_one_line(url: str) -> None:
    result = THIS.run("migrate", "--check")
    assert result.stdout.startswith("up to date: runyard 0001_initial, app 0001_initial, dagster ")
    assert result.stdout.count("\n") == 1
    assert result.returncode == Verdict.UP_TO_DATE


def test_the_check_lists_what_is_pending_with_what_it_needs(url: str, adding: Release) -> None:
    before = dumped(url)
    send("old/go")
    result = adding.run("migrate", "--check")
    lines = result.stdout.splitlines()
    assert lines[:3] == [
        "runyard: 0001_initial, this code needs 0002_shade: 1 migration is pending",
        "  0002_shade: Events have a shade.",
        "    catalog: changes the catalog alone; locks its tables for moments, whatever their size",
    ]
    assert lines[3].startswith("    runyard.events: ")
    assert lines[4:6] == [
        "    processes of the present version go on, meanwhile and afterwards",
        "app: up to date (0001_initial)",
    ]
    assert lines[-1] == "Nothing was changed. What is pending is run by: runyard migrate"
    assert result.returncode == Verdict.PENDING
    assert dumped(url) == before
    assert revision(url) == "0001_initial"


def test_the_check_names_the_processes_to_stop_first(url: str, removing: Release) -> None:
    result = removing.run("migrate", "--check")
    assert "processes of a version before 0002_contract do not work afterwards" in result.stdout
    assert result.returncode == Verdict.PENDING


def test_the_check_of_an_empty_database_lists_every_migration(databases: Databases) -> None:
    blank = Release(THIS.folder, {"DATABASE_URL": databases.create("blank")})
    result = blank.run("migrate", "--check")
    assert "runyard: empty, this code needs 0001_initial: 1 migration is pending" in result.stdout
    assert "dagster: empty, this code needs" in result.stdout
    assert result.returncode == Verdict.PENDING


def test_a_migration_of_an_empty_database_names_the_versions_of_all(databases: Databases) -> None:
    blank = Release(THIS.folder, {"DATABASE_URL": databases.create("blank_too")})
    lines = blank.run("migrate").stdout.splitlines()
    assert [line.partition(" -> ")[0] for line in lines] == [
        "runyard: empty",
        "app: empty",
        "dagster: empty",
    ]


def test_the_check_of_a_database_that_does_not_answer_has_its_own_exit_code() -> None:
    away = Release(THIS.folder, {"DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none"})
    result = away.run("migrate", "--check")
    assert "runyard: the database does not answer (Connection refused)" in result.stderr
    assert result.returncode == UNREACHABLE


def test_a_check_says_that_a_restored_database_is_to_be_adapted(url: str) -> None:
    ahead = "(pg_current_xact_id()::text::bigint + 1000000)::text"
    snapshot = f"({ahead} || ':' || {ahead} || ':')::pg_snapshot"
    execute(url, f"UPDATE runyard.watermark SET snapshot = {snapshot}")
    send("old/go")
    execute(url, f"UPDATE runyard.events SET xid = ({ahead})::xid8")
    result = THIS.run("migrate", "--check")
    assert "copied from another PostgreSQL cluster" in result.stdout
    assert result.returncode == Verdict.PENDING


def test_a_migration_records_the_oldest_code_that_works_on_it(newer: str) -> None:
    row = "SELECT (revision, oldest_code) = ('0002_shade', '0001_initial') FROM runyard.schemas"
    assert value(newer, f"{row} WHERE name = 'runyard'") is True


def test_the_check_by_older_code_says_that_it_goes_on(newer: str) -> None:
    result = THIS.run("migrate", "--check")
    assert (
        "schema runyard is at version 0002_shade, which this code does not know: Runyard"
        in result.stdout
    )
    assert "It works with this code (0001_initial), which goes on" in result.stdout
    assert result.returncode == Verdict.NEWER


def test_a_migration_by_older_code_leaves_a_newer_schema_as_it_is(newer: str) -> None:
    before = dumped(newer)
    result = THIS.run("migrate")
    assert "runyard: stays as it is: schema runyard is at version 0002_shade" in result.stdout
    assert result.returncode == 0
    assert dumped(newer) == before


def test_the_doctor_of_older_code_is_content_with_a_newer_schema(newer: str) -> None:
    check = checks._check("migrations", checks._migrations)
    assert "which goes on: deploy the newer version here too" in check.says
    assert check.ok


@pytest.mark.parametrize("role", ROLES)
def test_a_process_of_older_code_warns_of_a_newer_schema_and_goes_on(newer: str, role: str) -> None:
    process = THIS.start(role)
    try:
        line = read_until(process, "schema runyard is at version 0002_shade")
        assert "It works with this code" in line
        assert process.poll() is None
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_client_of_older_code_warns_once_and_sends(
    newer: str, caplog: pytest.LogCaptureFixture
) -> None:
    client._has_looked.clear()
    with caplog.at_level(logging.WARNING, "runyard.client"):
        assert len([*send("old/go"), *send("old/go")]) == 2
    assert [record.message.partition(",")[0] for record in caplog.records] == [
        "schema runyard is at version 0002_shade"
    ]


def test_a_client_that_may_only_send_sends_without_looking(
    newer: str, caplog: pytest.LogCaptureFixture
) -> None:
    execute(newer, "REVOKE ALL ON runyard.schemas FROM PUBLIC, runyard")
    client._has_looked.clear()
    with caplog.at_level(logging.WARNING, "runyard.client"):
        assert len(send("old/go")) == 1
    assert caplog.records == []


def test_the_check_by_code_that_is_too_old_says_so(too_new: str) -> None:
    result = THIS.run("migrate", "--check")
    assert "It needs code of 0002_contract or later, and this is 0001_initial" in result.stdout
    assert result.returncode == Verdict.UNUSABLE


def test_a_migration_by_code_that_is_too_old_is_refused(too_new: str) -> None:
    before = dumped(too_new)
    result = THIS.run("migrate")
    assert "deploy the newer version here, or restore the backup" in result.stderr
    assert result.returncode == 1
    assert dumped(too_new) == before


@pytest.mark.parametrize("role", ROLES)
def test_a_process_of_code_that_is_too_old_does_not_start(too_new: str, role: str) -> None:
    result = THIS.run(role)
    assert "It needs code of 0002_contract or later" in result.stderr
    assert result.returncode == 1


def test_a_client_of_code_that_is_too_old_is_told_what_to_deploy(too_new: str) -> None:
    with pytest.raises(SchemaUnusable, match="deploy the newer version here"):
        send("old/go")


def test_a_health_check_of_code_that_is_too_old_fails(too_new: str) -> None:
    assert not checks._check("migrations", checks._migrations).ok


def test_a_request_to_code_that_is_too_old_is_to_be_repeated() -> None:
    error = as_http_error(SchemaUnusable("schema runyard is at version 0002_contract"))
    assert (error.status, error.code) == (503, "not_migrated")


@pytest.mark.parametrize("role", ROLES)
def test_a_process_of_newer_code_does_not_start_before_the_migration(
    url: str, adding: Release, role: str
) -> None:
    result = adding.run(role)
    assert (
        "schema runyard is at version 0001_initial, the code needs 0002_shade: run `runyard"
        " migrate`" in result.stderr
    )
    assert result.returncode == 1


def test_a_process_starts_that_may_not_read_the_versions(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    execute(url, "REVOKE ALL ON runyard.alembic_version FROM runyard")
    check_at_start()
    assert [record.message for record in caplog.records] == [
        "the versions of the schemas cannot be read: ProgrammingError"
    ]


def test_a_process_starts_while_the_database_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:9/none")
    settings.cache_clear()
    check_at_start()
    monkeypatch.undo()
    settings.cache_clear()


def test_a_database_from_before_the_first_release_is_refused_with_what_to_do(url: str) -> None:
    execute(url, "ALTER TABLE runyard.publications DROP COLUMN seen_at")
    says = "has no runyard.publications.seen_at: code from before the first release made it"
    check, migration, worker = (
        THIS.run(*command) for command in (("migrate", "--check"), ("migrate",), ("worker",))
    )
    assert says in check.stdout
    assert check.returncode == Verdict.UNUSABLE
    assert [says in ended.stderr for ended in (migration, worker)] == [True, True]
    assert [ended.stderr.count("\n") for ended in (migration, worker)] == [1, 1]


def test_files_of_another_major_version_of_the_embedded_server_are_refused() -> None:
    folder = Path(tempfile.mkdtemp(prefix="ryv-", dir="/tmp"))
    try:
        start_embedded(folder)
        stop_embedded(folder)
        (folder / "PG_VERSION").write_text("16\n")
        with pytest.raises(RunyardError, match=r"has a database of PostgreSQL 16.*runyard pg_dump"):
            start_embedded(folder)
    finally:
        delete_embedded(folder)


def test_a_client_is_told_of_a_database_without_tables(url: str) -> None:
    execute(url, "DROP SCHEMA runyard CASCADE")
    with pytest.raises(SchemaOutOfDate, match="run `runyard migrate`"):
        send("old/go")


def test_a_migration_waits_for_another_one(url: str, adding: Release) -> None:
    with psycopg.connect(url) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        process = adding.start("migrate")
        line = read_until(process, "another migration is running")
        assert f"process {other.info.backend_pid} of the database" in line
        assert revision(url) == "0001_initial"
    assert process.wait(60) == 0
    process.communicate()
    assert revision(url) == "0002_shade"


def test_of_two_migrations_at_once_one_does_the_work(url: str, adding: Release) -> None:
    processes = [adding.start("migrate") for _ in range(2)]
    outputs = sorted(process.communicate(timeout=120)[0].splitlines()[0] for process in processes)
    assert outputs == ["runyard: 0001_initial -> 0002_shade", "runyard: 0002_shade -> 0002_shade"]
    assert [process.returncode for process in processes] == [0, 0]


def test_a_migration_lets_others_pass_while_it_waits_for_a_table(url: str, adding: Release) -> None:
    with psycopg.connect(url, application_name="report") as reader:
        reader.execute("SELECT FROM runyard.events")
        process = adding.start("migrate")
        line = read_until(process, "waits for the lock of a table")
        assert f"process {reader.info.backend_pid} (report, user runyard" in line
        assert len(send("old/go")) == 1
        assert revision(url) == "0001_initial"
    assert process.wait(60) == 0
    process.communicate()
    assert revision(url) == "0002_shade"


def test_a_migration_that_does_not_get_a_lock_in_time_names_the_holder(
    url: str, adding: Release
) -> None:
    with psycopg.connect(url) as reader:
        reader.execute("SELECT FROM runyard.events")
        result = adding.run("migrate", "--lock-wait", "0")
        assert f"SELECT pg_terminate_backend({reader.info.backend_pid})" in result.stderr
    assert result.returncode == 1
    assert revision(url) == "0001_initial"


def test_a_migration_that_is_killed_leaves_the_version_before_it(url: str, tmp_path: Path) -> None:
    slow = migration(
        "0003_slow",
        "ALTER TABLE runyard.events ADD COLUMN tint text; SELECT pg_sleep(600)",
        "'catalog', oldest_code='0001_initial', tables=('runyard.events',)",
        after="0002_shade",
    )
    release = later_release(tmp_path, r0002_shade=ADDS, r0003_slow=slow)
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    process = release.start("migrate")
    wait_until(lambda: value(url, sleeping))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not value(url, sleeping))
    assert revision(url) == "0002_shade"
    assert value(url, "SELECT revision FROM runyard.schemas WHERE name = 'runyard'") == "0002_shade"
    columns = "SELECT string_agg(column_name, ' ') FROM information_schema.columns"
    assert value(url, f"{columns} WHERE column_name IN ('shade', 'tint')") == "shade"


def test_an_index_can_be_built_beside_the_running_system(url: str, tmp_path: Path) -> None:
    index = migration("0002_index", "", "'concurrent index', oldest_code='0001_initial'").replace(
        "op.execute('')",
        "with op.get_context().autocommit_block():\n"
        "        op.execute('SET lock_timeout = 0')\n"
        "        op.execute('DROP INDEX CONCURRENTLY IF EXISTS runyard.events_source')\n"
        "        op.execute('CREATE INDEX CONCURRENTLY events_source ON runyard.events (source)')",
    )
    release = later_release(tmp_path, r0002_index=index)
    result = release.run("migrate")
    assert result.stdout.startswith("runyard: 0001_initial -> 0002_index"), result.stderr
    assert value(url, "SELECT to_regclass('runyard.events_source') IS NOT NULL") is True


def test_migrations_of_a_project_need_not_say_what_they_need(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "shop_tables"
    (folder / "versions").mkdir(parents=True)
    source = Path(str(settings().project_module("migrations").__path__[0]))
    for name in ("__init__.py", "env.py", "versions/0001_initial.py", "versions/0001_initial.sql"):
        (folder / name).write_text((source / name).read_text(encoding="utf-8"), encoding="utf-8")
    later = migration("0002_orders", "CREATE TABLE app.orders (id bigint)")
    (folder / "versions" / "0002_orders.py").write_text(later, encoding="utf-8")
    release = later_release(tmp_path)
    release.environment = {"RUNYARD_MIGRATIONS": "shop_tables"}
    check = release.run("migrate", "--check")
    assert "does not say what it needs: read it before you run it" in check.stdout
    assert release.run("migrate").returncode == 0
    assert "schema app is at version 0002_orders" in THIS.run("migrate", "--check").stdout


def test_the_files_of_the_migrations_are_named_for_their_revisions() -> None:
    assert tuple(engine_revisions()) == ENGINE.known()


def test_dagsters_tables_of_a_newer_version_are_left_as_they_are(url: str) -> None:
    execute(url, "UPDATE public.alembic_version SET version_num = 'f00dfeed0000'")
    result = THIS.run("migrate")
    assert "dagster: stays as it is: schema dagster is at version f00dfeed0000" in result.stdout
    assert THIS.run("migrate", "--check").returncode == Verdict.NEWER


def test_dagsters_tables_of_an_older_version_are_upgraded(url: str) -> None:
    before = value(url, "SELECT version_num FROM public.alembic_version")
    execute(url, "UPDATE public.alembic_version SET version_num = '16e3655b4d9b'")
    check = THIS.run("migrate", "--check")
    assert "pending, of Dagster itself (see its release notes)" in check.stdout
    assert check.returncode == Verdict.PENDING
    assert THIS.run("migrate").returncode == 0
    assert value(url, "SELECT version_num FROM public.alembic_version") == before
